"""Dataset dicts in the form that detectron2's converter into COCO's format takes."""

from typing import Any, Dict, List, Sequence

import numpy as np

from .segmentations import usable_segmentation

Record = Dict[str, Any]


def convertible(dicts: Sequence[Record]) -> List[Record]:
    """Copies of dataset dicts for ``detectron2.data.datasets.convert_to_coco_json``.

    Training takes more than the converter: it fails on masks that are None, ``{}``, uncompressed
    RLE or numpy, gives an object of the mask ``[]`` the area 0 instead of its box's, and changes
    RLE and keypoints in place.

    Args:
        dicts: in detectron2's format, checked; they are not changed.
    """
    return [
        {**record, "annotations": [_convertible(a) for a in record["annotations"]]}
        if record.get("annotations")
        else record
        for record in dicts
    ]


def _convertible(annotation: Record) -> Record:
    new = {k: v for k, v in annotation.items() if k != "segmentation"}
    try:
        mask = usable_segmentation(annotation.get("segmentation"))
    except ValueError:  # only where masks do not matter: otherwise the check has refused it
        mask = []
    if isinstance(mask, dict):
        new["segmentation"] = {"size": [int(v) for v in mask["size"]], "counts": mask["counts"]}
    elif mask:
        new["segmentation"] = [np.asarray(polygon).tolist() for polygon in mask]
    if new.get("keypoints") is not None:
        new["keypoints"] = np.asarray(new["keypoints"]).tolist()
    return new
