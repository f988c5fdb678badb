"""Data sets in which some objects have masks: what is usable, and loading them without a loss."""

import contextlib
import difflib
import logging
import os
from collections import Counter, defaultdict
from typing import Any, Collection, Dict, Iterator, List, Optional, Tuple, Union

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
)
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

from .json_stream import iter_members
from .splits import resolve_class_split

logger = logging.getLogger(__name__)

Segmentation = Union[List[List[float]], Dict[str, Any]]


def usable_segmentation(
    segmentation: Any, image_size: Optional[Tuple[int, int]] = None
) -> Segmentation:
    """The mask of an object in a form that detectron2 can transform; ``[]`` where there is none.

    Args:
        segmentation: polygons, compressed or uncompressed RLE, or nothing (None, ``[]``, ``{}``).
        image_size: (height, width) that an RLE must have; None = any.

    Returns:
        The polygons of at least 3 points, a compressed RLE, or ``[]``, also where the mask holds
        not a single pixel.

    Raises:
        ValueError: for anything else.
    """
    if segmentation is None or (hasattr(segmentation, "__len__") and len(segmentation) == 0):
        return []
    if isinstance(segmentation, dict):
        return _compressed_rle(segmentation, image_size)
    if not isinstance(segmentation, list) or not all(hasattr(p, "__len__") for p in segmentation):
        raise ValueError(
            f"a segmentation must be a list of polygons ([[x0, y0, x1, y1, ...], ...]) or an RLE, "
            f"got {str(segmentation)[:60]}"
        )
    polygons = [p for p in segmentation if len(p) % 2 == 0 and len(p) >= 6]
    return polygons if any(_encloses_area(p) for p in polygons) else []


def _compressed_rle(rle: Dict[str, Any], image_size: Optional[Tuple[int, int]]) -> Segmentation:
    if not {"size", "counts"} <= rle.keys():
        raise ValueError("an RLE segmentation needs the keys 'size' and 'counts'")
    try:
        height, width = map(int, rle["size"])
        if isinstance(rle["counts"], list):
            if sum(rle["counts"]) != height * width:
                raise ValueError(f"its counts add up to {sum(rle['counts'])}")
            rle = mask_util.frPyObjects(rle, height, width)
        empty = mask_util.area(rle) == 0 and not mask_util.decode(rle).any()  # decode() validates
    except (TypeError, ValueError, OverflowError) as e:
        raise ValueError(f"cannot read the RLE segmentation of size {rle['size']}: {e}") from e
    if image_size is not None and (height, width) != tuple(image_size):
        raise ValueError(
            f"the RLE segmentation has size {height} x {width} (height x width), "
            f"the image {image_size[0]} x {image_size[1]}"
        )
    return [] if empty else rle


def _encloses_area(polygon: Any) -> bool:
    try:
        x, y = np.asarray(polygon, dtype=float).reshape(-1, 2).T
    except (TypeError, ValueError) as e:
        raise ValueError(f"a polygon must be a list of numbers: {e}") from e
    return bool(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) > 0)


def check_data_set(dataset_name: str) -> None:
    """Make sure that a data set is registered and that its annotation file, if any, is there.

    Raises:
        ValueError: when it is not registered.
        FileNotFoundError: when the annotation file is missing.
    """
    if dataset_name not in DatasetCatalog.list():
        near = difflib.get_close_matches(dataset_name, DatasetCatalog.list(), n=1)
        raise ValueError(
            f"the data set '{dataset_name}' is not registered with detectron2"
            + (f" (did you mean '{near[0]}'?)" if near else "")
            + "; COCO-format files: detectron2.data.datasets.register_coco_instances"
        )
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file and not PathManager.isfile(json_file):
        made_by = MetadataCatalog.get(dataset_name).get("made_by")
        raise FileNotFoundError(
            f"annotation file '{json_file}' of the data set '{dataset_name}' does not exist: "
            f"set DETECTRON2_DATASETS to the folder that holds your data sets "
            f"(now '{os.getenv('DETECTRON2_DATASETS', 'datasets')}')"
            + (f"; {made_by} writes it" if made_by else "")
        )


@contextlib.contextmanager
def valid_annotations(dataset_names: Collection[str]) -> Iterator[None]:
    """Let a broken annotation file be one error that names the file or files in question.

    Raises:
        ValueError: for content that is not JSON, or lacks a key that COCO's format demands.
    """
    try:
        yield
    except (ValueError, KeyError, TypeError, AssertionError) as e:
        files = [MetadataCatalog.get(n).get("json_file", n) for n in dataset_names]
        reason = f"the key {e} is missing" if isinstance(e, KeyError) else str(e)
        raise ValueError(f"broken annotation file {', '.join(map(repr, files))}: {reason}") from e


def class_names_of(dataset_name: str) -> List[str]:
    """Class names of a registered data set in contiguous order.

    Raises:
        ValueError: when the data set is not registered, has a broken file, or no class names.
        FileNotFoundError: when the names are in an annotation file and that is missing.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if not metadata.get("thing_classes"):
        check_data_set(dataset_name)
        with valid_annotations([dataset_name]):
            DatasetCatalog.get(dataset_name)  # detectron2 reads the names from the JSON as it loads
    if not metadata.get("thing_classes"):
        raise ValueError(f"the metadata of '{dataset_name}' have no thing_classes")
    return list(metadata.thing_classes)


def set_a_of(cfg: CfgNode) -> Optional[Tuple[int, ...]]:
    """Contiguous ids of the classes that may use their masks; None when all may."""
    if cfg.DATASETS.MASK_CLASSES == "all":
        return None
    names = class_names_of((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0])
    return resolve_class_split(cfg.DATASETS.MASK_CLASSES, names).set_a


def load_training_dicts(cfg: CfgNode) -> List[Dict[str, Any]]:
    """The training images of a config, with every box that their files hold.

    detectron2's COCO loader throws an object away, box and all, when its polygons are invalid; here
    such an object stays as a box-only one.  At the end the log says what gives masks.

    Raises:
        FileNotFoundError: when an annotation file is missing.
        ValueError: for an unregistered data set or a broken annotation file, or without images.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set to train on")
    for name in cfg.DATASETS.TRAIN:
        check_data_set(name)
    with valid_annotations(cfg.DATASETS.TRAIN):
        dicts = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=False,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
        _restore_dropped_boxes(dicts, cfg.DATASETS.TRAIN)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        dicts = filter_images_with_only_crowd_annotations(dicts)
    if cfg.MODEL.KEYPOINT_ON and cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE > 0:
        dicts = filter_images_with_few_keypoints(
            dicts, cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        )
    if not dicts:
        raise ValueError(f"the data sets {cfg.DATASETS.TRAIN} hold no image with an object")
    if cfg.MODEL.MASK_ON:
        log_supervision(dicts, set_a_of(cfg), cfg.DATASETS.MASK_CLASSES)
    return dicts


def _restore_dropped_boxes(dicts: List[Dict[str, Any]], dataset_names: Collection[str]) -> None:
    """Put objects that ``load_coco_json`` dropped for invalid polygons back in their place."""
    # Data sets may share images: the records of an image come in the order of the data sets.
    by_file: Dict[Any, List[Dict[str, Any]]] = defaultdict(list)
    for record in reversed(dicts):
        by_file[record["file_name"], record.get("image_id")].append(record)
    for name in dataset_names:
        metadata = MetadataCatalog.get(name)
        if metadata.get("evaluator_type") != "coco" or not metadata.get("json_file"):
            continue  # only this kind goes through load_coco_json
        # Read as a stream: a file of millions of boxes need not be in memory a second time.
        images: List[Tuple[Any, str]] = []
        num_annotations: Counter = Counter()  # by image, so far
        dropped: Dict[Any, List[Tuple[int, Dict[str, Any]]]] = defaultdict(list)
        for key, value in iter_members(PathManager.get_local_path(metadata.json_file), name):
            if key == "images":
                images.append((value["id"], value["file_name"]))
            elif key == "annotations":
                image_id = value["image_id"]
                if _is_dropped(value):
                    dropped[image_id].append((num_annotations[image_id], value))
                num_annotations[image_id] += 1
        id_map = metadata.thing_dataset_id_to_contiguous_id
        restored = 0
        for image_id, file_name in images:
            path = os.path.join(metadata.get("image_root", ""), file_name)
            records = by_file.get((path, image_id))
            if not records:
                continue
            record = records.pop()
            for position, annotation in dropped[image_id]:
                box_only = {
                    "iscrowd": annotation.get("iscrowd", 0),
                    "bbox": annotation["bbox"],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": id_map[annotation["category_id"]],
                }
                record["annotations"].insert(position, box_only)
                restored += 1
        if restored:
            logger.warning("%s: %d objects with invalid polygons train boxes only", name, restored)


def _is_dropped(annotation: Dict[str, Any]) -> bool:
    """Whether ``load_coco_json`` throws the annotation away."""
    segmentation = annotation.get("segmentation")
    if not segmentation or isinstance(segmentation, dict):
        return False
    return all(len(p) % 2 != 0 or len(p) < 6 for p in segmentation)


def count_supervision(
    dicts: List[Dict[str, Any]], mask_classes: Optional[Collection[int]]
) -> Dict[str, int]:
    """How many objects and classes give masks, and how many only boxes.

    Args:
        dicts: dataset dicts in detectron2's format.
        mask_classes: contiguous ids of set A; None = all classes.

    Returns:
        Counts under "images", "mask_objects", "mask_classes", "box_only_objects" (of these
        "withheld_objects" have a mask that is not used) and "crowd_objects" (not used at all).
    """
    keys = ("mask_objects", "mask_classes", "box_only_objects", "withheld_objects", "crowd_objects")
    counts = {"images": len(dicts), **dict.fromkeys(keys, 0)}
    classes = set()
    for annotation in (a for d in dicts for a in d.get("annotations", ())):
        allowed = mask_classes is None or annotation["category_id"] in mask_classes
        if annotation.get("iscrowd", 0):
            counts["crowd_objects"] += 1
        elif allowed and annotation.get("segmentation"):
            counts["mask_objects"] += 1
            classes.add(annotation["category_id"])
        else:
            counts["box_only_objects"] += 1
            counts["withheld_objects"] += "segmentation" in annotation and not allowed
    counts["mask_classes"] = len(classes)
    return counts


def log_supervision(
    dicts: List[Dict[str, Any]], mask_classes: Optional[Collection[int]], split: str
) -> None:
    """Log at start-up what trains masks and what trains boxes only."""
    counts = count_supervision(dicts, mask_classes)
    logger.info(
        "Supervision (DATASETS.MASK_CLASSES '%s'): %d images; %d objects of %d classes give "
        "masks; %d objects are box-only (%d of them have a mask that is not read); %d crowd "
        "objects unused",
        *(split, counts["images"], counts["mask_objects"], counts["mask_classes"]),
        *(counts["box_only_objects"], counts["withheld_objects"], counts["crowd_objects"]),
    )
    if counts["mask_objects"] == 0:
        logger.warning("No object gives a mask: the mask branch will learn nothing")
