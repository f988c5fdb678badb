"""A last look at a file that was written, with pycocotools, as whoever reads it will use it."""

from typing import Any, Dict, List

import pycocotools.mask as mask_util

from ..data.coco_tables import shown
from ..files import PathLike
from .formats import coco
from .origin import is_ours

_NAMED = 10


def validate_file(path: PathLike, sizes: Any) -> Dict[str, Any]:
    """Decode every mask that was made, and compare its area with the one that is written.

    Args:
        path: of a COCO file.
        sizes: function from an image's id to its (height, width).

    Returns:
        "masks" and "faults", of which the first ten are named.
    """
    masks, faults = 0, 0
    first: List[str] = []
    for key, annotation in coco.read_boxes(path):
        if key != "annotations" or not is_ours(annotation):
            continue
        fault = _fault_of(annotation, *sizes(annotation["image_id"]))
        masks += 1
        if fault:
            faults += 1
            first += [f"annotation {shown(annotation['id'])}: {fault}"][: _NAMED - len(first)]
    return {"masks": masks, "faults": faults, "first": first}


def _fault_of(annotation: Dict[str, Any], height: int, width: int) -> str:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list):
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif segmentation["size"] != [height, width]:
        return f"its RLE has size {segmentation['size']}, its image {[height, width]}"
    elif isinstance(segmentation["counts"], list):
        rle = mask_util.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    area = int(mask_util.area(rle))
    return "" if area == annotation["area"] > 0 else f"its area is {area}"
