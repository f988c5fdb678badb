"""Pascal VOC for instance segmentation: boxes and masks of 20 classes.

<root>/voc_sample/{images/,instances_train.json,instances_val.json}
<root>/VOC2012/{JPEGImages,Annotations,SegmentationClass,SegmentationObject}/,
               ImageSets/Segmentation/{train,val,trainval}.txt
"""

import copy
import functools
import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple
from xml.etree import ElementTree

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import Boxes, BoxMode, pairwise_iou

from ...files import PathLike
from ..labels import check_folder, data_set_root, read_label
from .voc import VOC_SEM_SEG_CLASSES, VOC_VOID, read_list, voc_folder

logger = logging.getLogger(__name__)

VOC_INSTANCE_CLASSES: Tuple[str, ...] = VOC_SEM_SEG_CLASSES[1:]
"""VOC's own names, in alphabetical order."""

_SAMPLE = {f"voc_sample_{split}": split for split in ("train", "val")}
_VOC_2012 = {f"voc_2012_instances_{split}": split for split in ("train", "val", "trainval")}

_MIN_OVERLAP = 0.2  # IoU of a box and the extent of a mask, which lacks the border that is void


def register_voc_instances(root: Optional[PathLike] = None) -> None:
    """Register ``voc_sample_{train,val}`` and ``voc_2012_instances_{train,val,trainval}``.

    Nothing is read before use.  Calling it again, also with another root, replaces them.

    Args:
        root: folder that holds ``voc_sample``, and ``VOC2012`` (or ``VOCdevkit/VOC2012``); default
            ``$DETECTRON2_DATASETS``, else ``datasets``.
    """
    root = data_set_root(root)
    for name, split in _SAMPLE.items():
        json_file, images = (
            root / "voc_sample" / f"instances_{split}.json",
            root / "voc_sample/images",
        )
        load = functools.partial(load_coco_json, str(json_file), str(images), name)
        ids = {i + 1: i for i in range(len(VOC_INSTANCE_CLASSES))}
        _register(
            name,
            load,
            json_file=str(json_file),
            image_root=str(images),
            thing_dataset_id_to_contiguous_id=ids,
        )
    folder = voc_folder(root, "2012")
    for name, split in _VOC_2012.items():
        _register(name, functools.partial(load_voc_instances, folder, split, name))


def register_used_voc_instances(cfg: CfgNode) -> None:
    """Register the data sets where a config uses one of them and nobody has registered it yet."""
    used = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} & {*_SAMPLE, *_VOC_2012}
    if used - set(DatasetCatalog.list()):
        register_voc_instances()


def _register(name: str, load: Any, **metadata: Any) -> None:
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        evaluator_type="coco", thing_classes=list(VOC_INSTANCE_CLASSES), **metadata
    )


def load_voc_instances(folder: Path, split: str, name: str = "voc") -> List[Dict[str, Any]]:
    """Images of a list of ``ImageSets/Segmentation`` with their boxes and masks.

    Boxes and classes are those of ``Annotations``.  Each gets the mask of ``SegmentationObject``
    that is of its class (``SegmentationClass``) and whose extent overlaps it most; a box that no
    mask fits has none.  Objects marked as difficult are crowds: neither trained on nor counted, as
    in VOC's own evaluation.  The log says how many there are of each.

    Args:
        folder: the one that holds ``JPEGImages``.
        split: name of the list, such as "train".
        name: of the data set, for messages.

    Returns:
        Dataset dicts in detectron2's form, with masks as RLE.  They are kept: VOC 2012 has
        thousands of pictures of masks to read.

    Raises:
        FileNotFoundError: when a folder, the list or a file is missing.
        ValueError: when a file is broken.
    """
    return copy.deepcopy(list(_loaded(folder, split, name)))


@functools.lru_cache(maxsize=8)
def _loaded(folder: Path, split: str, name: str) -> Tuple[Dict[str, Any], ...]:
    kinds = ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationObject")
    layout = f"{folder.name}/{{ImageSets/Segmentation,{','.join(kinds)}}}"
    ids = read_list(folder / "ImageSets" / "Segmentation" / f"{split}.txt", name, layout)
    folders = [check_folder(folder / kind, name, layout) for kind in kinds]
    counts = dict.fromkeys(("masks", "boxes", "difficult", "unmatched"), 0)
    records = tuple(_record(image_id, folders, name, counts) for image_id in ids)
    logger.info(
        "%s: %d images; %d objects with a mask, %d with a box alone, %d difficult ones that do not "
        "count; %d masks fit no box",
        *(name, len(records), *counts.values()),
    )
    return records


def _record(
    image_id: str, folders: Sequence[Path], name: str, counts: Dict[str, int]
) -> Dict[str, Any]:
    suffixes = (".jpg", ".xml", ".png", ".png")
    image, annotation, *maps = (f / f"{image_id}{suffix}" for f, suffix in zip(folders, suffixes))
    for path in (image, annotation, *maps):
        if not path.is_file():
            raise FileNotFoundError(
                f"the data set '{name}' is incomplete: '{path}', which its list names, does not "
                f"exist"
            )
    size, boxes, classes, difficult = _read_annotation(annotation)
    class_map, object_map = (read_label(path) for path in maps)
    for path, label in zip(maps, (class_map, object_map)):
        if label.shape != size:
            raise ValueError(
                f"'{path}' has size {label.shape[0]} x {label.shape[1]} (height x width), "
                f"'{annotation}' says {size[0]} x {size[1]}"
            )
    masks = match_masks(object_map, class_map, boxes, classes)
    annotations = []
    for box, class_index, is_difficult, mask in zip(boxes, classes, difficult, masks):
        entry = {
            "bbox": box,
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": class_index,
            "iscrowd": int(is_difficult),
        }
        if mask is not None:
            rle = mask_util.encode(np.asfortranarray((object_map == mask).astype(np.uint8)))
            entry["segmentation"] = {"size": rle["size"], "counts": rle["counts"].decode("ascii")}
        annotations.append(entry)
        counts["difficult" if is_difficult else "boxes" if mask is None else "masks"] += 1
    counts["unmatched"] += len(_indices(object_map)) - sum(mask is not None for mask in masks)
    digits = image_id.replace("_", "")
    return {
        "file_name": str(image),
        "image_id": int(digits) if digits.isdigit() else image_id,  # COCO's are numbers
        "height": size[0],
        "width": size[1],
        "annotations": annotations,
    }


def _read_annotation(
    path: Path,
) -> Tuple[Tuple[int, int], List[List[float]], List[int], List[bool]]:
    """Height and width, boxes (x0, y0, x1, y1), class indices, and which are difficult."""
    try:
        root = ElementTree.parse(path).getroot()
        size = (int(_text(root, "size/height")), int(_text(root, "size/width")))
        boxes, classes, difficult = [], [], []
        for item in root.findall("object"):
            sides = ("xmin", "ymin", "xmax", "ymax")
            x0, y0, x1, y1 = (float(_text(item, f"bndbox/{side}")) for side in sides)
            boxes.append([x0 - 1, y0 - 1, x1, y1])  # pixels are counted from 1, and all belong
            class_name = _text(item, "name")
            if class_name not in VOC_INSTANCE_CLASSES:
                raise ValueError(f"'{class_name}' is none of VOC's 20 classes")
            classes.append(VOC_INSTANCE_CLASSES.index(class_name))
            difficult.append(item.findtext("difficult", "0").strip() == "1")
    except (ElementTree.ParseError, ValueError) as e:
        raise ValueError(f"cannot read the VOC annotation '{path}': {e}") from e
    return size, boxes, classes, difficult


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"<{path.replace('/', '><')}> is missing")
    return text.strip()


def _indices(object_map: np.ndarray) -> List[int]:
    return [int(i) for i in np.unique(object_map) if i not in (0, VOC_VOID)]


def match_masks(
    object_map: np.ndarray,
    class_map: np.ndarray,
    boxes: Sequence[Sequence[float]],
    classes: Sequence[int],
) -> List[Optional[int]]:
    """Find the mask of each box: of its class, and among those the one with the nearest extent.

    Args:
        object_map: (H, W), the index of each pixel's object; 0 and 255 = none.
        class_map: (H, W), 1 + the class index of each pixel's object.
        boxes: n boxes x0, y0, x1, y1 in pixels.
        classes: their class indices.

    Returns:
        For each box the index of its mask, None where there is none.  No two boxes share one.
    """
    indices = _indices(object_map)
    found: List[Optional[int]] = [None] * len(boxes)
    if not indices or not boxes:
        return found
    extents, owners = [], []
    for index in indices:
        inside = object_map == index
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        extents.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        owners.append(int(np.bincount(class_map[inside]).argmax()) - 1)
    overlap = pairwise_iou(_as_boxes(extents), _as_boxes(boxes)).numpy()
    overlap[np.asarray(owners)[:, None] != np.asarray(classes)] = 0
    while overlap.max() >= _MIN_OVERLAP:
        mask, box = np.unravel_index(overlap.argmax(), overlap.shape)
        found[box] = indices[mask]
        overlap[mask], overlap[:, box] = 0, 0
    return found


def _as_boxes(boxes: Sequence[Sequence[float]]) -> Boxes:
    return Boxes(np.asarray(boxes, dtype=np.float32))
