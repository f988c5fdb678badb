"""AP on the objects whose boxes also hold other objects: where a mask needs to know its class."""

import contextlib
import io
from typing import Any, Dict, List, Mapping, Sequence, Union

import numpy as np
from pycocotools.coco import COCO

from ...evaluation.coco import split_metrics
from ...evaluation.coco_fast import evaluate_results
from ...files import PathLike, read_json

MIN_SHARE = 0.2
"""A box counts as shared when other objects cover more than this part of it."""


def shared_boxes(coco: COCO) -> Dict[int, bool]:
    """For each annotation id, whether other objects cover over :data:`MIN_SHARE` of its box."""
    shared = {}
    for image_id in coco.getImgIds():
        annotations = coco.loadAnns(coco.getAnnIds(image_id))
        masks = [coco.annToMask(a).astype(bool) for a in annotations]
        for i, annotation in enumerate(annotations):
            x, y, w, h = (int(round(v)) for v in annotation["bbox"])
            others = [m[y : y + h, x : x + w] for k, m in enumerate(masks) if k != i]
            covered = np.any(others, axis=0) if others else np.zeros((h, w), bool)
            shared[annotation["id"]] = bool(covered.mean() > MIN_SHARE)
    return shared


def overlap_metrics(
    json_file: PathLike,
    results: Union[PathLike, List[Dict[str, Any]]],
    class_sets: Mapping[str, Sequence[int]],
) -> Dict[str, float]:
    """Mask AP on shared boxes alone; objects in other boxes are ignored.

    Args:
        json_file: COCO annotations with a mask for every object.
        results: COCO results, or their file.
        class_sets: suffix -> class indices, such as ``{"": all, "_A": set A, "_B": set B}``.

    Returns:
        ``{"segm/AP_shared" + suffix: AP in percent}``, and how many boxes are shared, and of how
        many, as "shared_boxes" and "boxes".
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(json_file))
        shared = shared_boxes(truth)
        for annotation in truth.dataset["annotations"]:
            if not shared[annotation["id"]]:
                # Outside every area range: COCOeval matches it and counts neither it nor its match.
                annotation["area"] = -1
        detections = results if isinstance(results, list) else read_json(results)
        evaluation = evaluate_results(truth, detections, "segm")
    metrics: Dict[str, float] = {
        f"segm/AP_shared{suffix}": split_metrics(evaluation, classes)["AP"]
        for suffix, classes in class_sets.items()
    }
    return {**metrics, "shared_boxes": sum(shared.values()), "boxes": len(shared)}
