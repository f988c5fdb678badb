"""A last look at a file that was written, with pycocotools, as whoever reads it will use it."""

from typing import Any, Dict, Iterable, List

import pycocotools.mask as mask_util

from ..data.coco_tables import shown
from ..files import PathLike
from .formats import coco

_NAMED = 10


def validate_file(path: PathLike, sizes: Any, numbers: Iterable[int]) -> Dict[str, Any]:
    """Decode masks, and compare their areas with those that are written.

    Args:
        path: of a COCO file.
        sizes: function from an image's id to its (height, width).
        numbers: of the annotations, from 0, in order: masks of others may be as they like.

    Returns:
        "masks" and "faults", of which the first ten are named.
    """
    masks, faults = 0, 0
    first: List[str] = []
    annotations = (value for key, value in coco.read_boxes(path) if key == "annotations")
    wanted = iter(numbers)
    following = next(wanted, None)
    for number, annotation in enumerate(annotations):
        if number != following:
            continue
        following = next(wanted, None)
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
