"""COCOeval on many results in less time, with the numbers of pycocotools.

Most of detectron2's time goes into copies of the results, and into pairs of image and class that
hold nothing to compare.  What decides the numbers stays with the libraries: IoUs come from
pycocotools, matching from detectron2's compiled code, else from faster-coco-eval where it is
installed, else from pycocotools.
"""

from typing import Any, Dict, List, Optional, Sequence, Type

import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation import coco_evaluation
from detectron2.evaluation.coco_evaluation import COCOeval_opt, COCOevalMaxDets
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

try:
    from faster_coco_eval import COCOeval_faster
except ImportError:  # an extra
    COCOeval_faster = None

Result = Dict[str, Any]

# detectron2's own, before an evaluator puts evaluate_results in its place.
_stock_evaluation = coco_evaluation._evaluate_predictions_on_coco


class FewPairs:
    """A COCOeval that spends nothing on pairs of image and class that have nothing to compare."""

    params: Any
    _gts: Dict[Any, List[Any]]
    _dts: Dict[Any, List[Any]]

    def computeIoU(self, imgId: int, catId: int) -> Any:  # noqa: N802, N803 - pycocotools' names
        pair = imgId, catId
        if self.params.useCats and not (self._gts.get(pair) and self._dts.get(pair)):
            return []
        return super().computeIoU(imgId, catId)  # type: ignore[misc]


def evaluation_class(ground_truth: COCO) -> Type[COCOeval]:
    """The fastest COCOeval there is for it, for any limit of results an image."""
    # COCOeval's own summary knows no limit but 100.
    summary = {"summarize": COCOevalMaxDets.summarize}
    if COCOeval_opt is COCOeval and COCOeval_faster is not None and _is_plain(ground_truth):
        return type("FasterCOCOeval", (COCOeval_faster,), summary)
    return type("FewPairsCOCOeval", (FewPairs, COCOeval_opt), summary)


def _is_plain(ground_truth: COCO) -> bool:
    """Whether faster-coco-eval takes it: text, -1 and 640.0 are a TypeError there."""
    images, categories = (ground_truth.dataset[key] for key in ("images", "categories"))
    numbers = [image.get(key) for image in images for key in ("id", "height", "width")]
    numbers += [category["id"] for category in categories]
    return all(type(number) is int and number >= 0 for number in numbers)


def results_index(ground_truth: COCO, results: Sequence[Result], task: str) -> COCO:
    """As ``ground_truth.loadRes``, of what the task needs alone, and the results stay as they are.

    Args:
        ground_truth: of the images of the results.
        results: in COCO's format, with masks as compressed RLE.
        task: "bbox", or "segm", whose areas are those of the masks; any other without results.

    Raises:
        ValueError: for results on an image that is not in the ground truth.
    """
    unknown = {r["image_id"] for r in results}.difference(ground_truth.imgs)
    if unknown:
        raise ValueError(f"results on image {min(unknown)}, which is not in the ground truth")
    key = "segmentation" if task == "segm" else "bbox"
    if task == "segm":
        areas = _mask_areas([r[key] for r in results])
    else:
        areas = [r[key][2] * r[key][3] for r in results]
    index = COCO()
    index.dataset = {
        "images": ground_truth.dataset["images"],
        "categories": ground_truth.dataset["categories"],
        "annotations": [
            {
                "id": i,
                "image_id": result["image_id"],
                "category_id": result["category_id"],
                "score": result["score"],
                "area": float(area),
                "iscrowd": 0,
                key: result[key],
            }
            for i, (result, area) in enumerate(zip(results, areas), start=1)
        ],
    }
    index.createIndex()
    return index


def _mask_areas(masks: List[Any]) -> List[int]:
    # pycocotools 2.0.11 puts their number into a uint8, which numpy 2 refuses from 256 on.
    parts = (masks[i : i + 255] for i in range(0, len(masks), 255))
    return [area for part in parts for area in mask_util.area(part).tolist()]


def evaluate_results(
    coco_gt: COCO,
    coco_results: List[Result],
    iou_type: str,
    kpt_oks_sigmas: Optional[Sequence[float]] = None,
    cocoeval_fn: Type[COCOeval] = COCOeval,
    img_ids: Optional[Sequence[int]] = None,
    max_dets_per_image: Optional[Sequence[int]] = None,
) -> COCOeval:
    """In place of detectron2's function of these arguments, for boxes and masks.

    Args:
        coco_gt: the ground truth.
        coco_results: in COCO's format; as they were afterwards.
        iou_type: "bbox" or "segm"; "keypoints" are left to detectron2 unless there are no results.
        kpt_oks_sigmas, cocoeval_fn: for keypoints.
        img_ids: the images that count; None = all.
        max_dets_per_image: three numbers, of which the last decides; None = COCO's.

    Returns:
        A COCOeval after ``summarize()``.

    Raises:
        ValueError: for results on an image that is not in the ground truth.
    """
    if iou_type == "keypoints" and coco_results:
        return _stock_evaluation(
            *(coco_gt, coco_results, iou_type, kpt_oks_sigmas),
            *(cocoeval_fn, img_ids, max_dets_per_image),
        )
    evaluation = evaluation_class(coco_gt)(
        coco_gt, results_index(coco_gt, coco_results, iou_type), iou_type
    )
    if iou_type != "keypoints":
        evaluation.params.maxDets = list(max_dets_per_image or [1, 10, 100])
    if img_ids is not None:
        evaluation.params.imgIds = img_ids
    evaluation.evaluate()
    evaluation.accumulate()
    for name in ("precision", "recall"):  # faster-coco-eval may give lists
        evaluation.eval[name] = np.asarray(evaluation.eval[name])
    evaluation.summarize()
    return evaluation
