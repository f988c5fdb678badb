"""Average precision of a model's objects where those of another model are the truth."""

import contextlib
import io
from typing import Any, Dict, List, Sequence

import numpy as np
import pycocotools.mask as mask_util
from detectron2.layers.mask_ops import paste_masks_in_image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import from_numpy


def ap_against(mine: Sequence[Dict[str, Any]], truth: Sequence[Dict[str, Any]]) -> float:
    """COCO's mask AP, in percent; 100 where both find the same.

    Args:
        mine, truth: what two models found in the same images: ``boxes`` (n, 4), ``classes`` (n,),
            ``scores`` (n,), ``masks`` (n, M, M) on the boxes, and ``size`` of each image.

    Returns:
        -1 where there is no truth.
    """
    annotations = _as_coco(truth)
    if not annotations:
        return -1.0
    with contextlib.redirect_stdout(io.StringIO()):
        coco, api = COCO(), COCO()
        classes = sorted({a["category_id"] for a in annotations})
        sizes = [x["size"] for x in truth]
        images = [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(sizes)]
        categories = [{"id": c} for c in classes]
        for name, content in ((coco, annotations), (api, _as_coco(mine))):
            name.dataset = {"images": images, "categories": categories, "annotations": content}
            name.createIndex()
        evaluation = COCOeval(coco, api, "segm")
        evaluation.params.maxDets = [1, 10, max(100, *(len(x["boxes"]) for x in mine))]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return 100 * float(precision[precision > -1].mean())


def _as_coco(found: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    annotations: List[Dict[str, Any]] = []
    for image, x in enumerate(found):
        if not len(x["boxes"]):
            continue
        masks = paste_masks_in_image(from_numpy(x["masks"]), from_numpy(x["boxes"]), x["size"])
        for mask, category, score in zip(masks.numpy(), x["classes"], x["scores"]):
            rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            if not mask.any():
                continue  # overlaps with nothing, not even with itself
            annotations.append(
                {
                    **{"id": len(annotations) + 1, "image_id": image, "iscrowd": 0},
                    **{"category_id": int(category), "score": float(score)},
                    **{"segmentation": rle, "area": float(mask_util.area(rle))},
                }
            )
    return annotations
