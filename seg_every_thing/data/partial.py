"""Data sets in which some objects have masks: loading them without a loss, and what they teach."""

import logging
from typing import Any, Collection, Dict, List, Optional, Tuple

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
)

from .catalog import (
    check_data_set,
    checked_loading,
    class_names_of,
    training_use,
    valid_annotations,
)
from .data_report import DataReport
from .splits import resolve_class_split

logger = logging.getLogger(__name__)


def set_a_of(cfg: CfgNode) -> Optional[Tuple[int, ...]]:
    """Contiguous ids of the classes that may use their masks; None when all may."""
    if cfg.DATASETS.MASK_CLASSES == "all":
        return None
    names = class_names_of((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0])
    return resolve_class_split(cfg.DATASETS.MASK_CLASSES, names).set_a


def load_training_dicts(
    cfg: CfgNode, reports: Optional[List[DataReport]] = None
) -> List[Dict[str, Any]]:
    """The training images of a config, with every box that their files hold.

    detectron2's COCO loader throws an object away, box and all, when its polygons are invalid; here
    such an object stays as a box-only one.  The log says what of the annotations is used, and at
    the end what gives masks.

    Args:
        cfg: a config with :func:`add_seg_every_thing_config`.
        reports: gets the reports of the data sets.

    Raises:
        FileNotFoundError: when an annotation file is missing.
        ValueError: for an unregistered data set, a broken annotation file, unusable annotations
            (unless ``DATASETS.ON_BAD_ANNOTATION`` sets them aside), or no images.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set to train on")
    for name in cfg.DATASETS.TRAIN:
        check_data_set(name)
    with valid_annotations(cfg.DATASETS.TRAIN), checked_loading(training_use(cfg)) as found:
        dicts = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=False,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
    if reports is not None:
        reports.extend(found)
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
