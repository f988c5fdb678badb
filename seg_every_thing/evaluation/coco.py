"""COCO metrics for all classes, set A and set B, out of one COCOeval pass."""

import contextlib
import copy
import itertools
import os
import tempfile
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple
from unittest import mock

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import convert_to_coco_json
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.catalog import (
    Use,
    check_data_set,
    checked_loading,
    class_names_of,
    is_coco_file,
    valid_annotations,
)
from ..data.data_report import EVALUATION
from ..data.splits import resolve_class_split
from ..files import AtomicPathManager, write_json
from .coco_fast import evaluate_results

_METRICS: Dict[str, Tuple[Optional[float], int]] = {
    # name -> (IoU threshold or None for the mean over all, index of the area range)
    "AP": (None, 0),
    "AP50": (0.5, 0),
    "AP75": (0.75, 0),
    "APs": (None, 1),
    "APm": (None, 2),
    "APl": (None, 3),
}

ABSENT = -1.0
"""Value of a metric for which there is no ground truth, as in pycocotools."""

_COCO_LIMIT = 100  # results an image and class that COCO's metrics count
_NO_LIMIT = 1_000_000


def counted_results(per_image: int) -> Optional[int]:
    """The ``max_dets_per_image`` of an evaluator, for a model that gives so many results an image.

    COCO counts the 100 results of the highest scores; those of a model that gives more all count,
    or what it finds beyond them would be missed.

    Args:
        per_image: ``TEST.DETECTIONS_PER_IMAGE``; below 0 = no limit, as in detectron2.

    Returns:
        None = COCO's own limit.
    """
    if per_image < 0:
        return _NO_LIMIT
    return per_image if per_image > _COCO_LIMIT else None


def split_metrics(coco_eval: COCOeval, classes: Sequence[int]) -> Dict[str, float]:
    """AP, AP50, AP75, APs, APm and APl, in percent, over some of the classes of a COCOeval.

    Equal to a COCOeval restricted to these classes: classes without ground truth do not count.

    Args:
        coco_eval: after ``accumulate()``.
        classes: indices on its category axis.

    Returns:
        Metrics by name; :data:`ABSENT` where none of the classes has ground truth.
    """
    precision = coco_eval.eval["precision"]  # (IoU, recall, class, area, max detections)
    metrics = {}
    for name, (iou, area) in _METRICS.items():
        values = precision[:, :, list(classes), area, -1]
        if iou is not None:
            values = values[np.isclose(coco_eval.params.iouThrs, iou)]
        values = values[values > -1]
        metrics[name] = float(values.mean() * 100) if values.size else ABSENT
    return metrics


class PartialCOCOEvaluator(COCOEvaluator):
    """COCOEvaluator that also reports ``AP_A``, ``AP_B`` and so on, for boxes and masks.

    All ground truth of the data set counts, whatever masks training used.  Objects of the data set
    that have no mask of their own neither help nor harm the mask metrics: their boxes are regions
    to ignore.  Results also go to ``metrics.json`` in the output folder.
    """

    _coco_api: COCO
    _tasks: Optional[Sequence[str]]
    _img_ids: Optional[List[int]]

    def __init__(
        self,
        dataset_name: str,
        *,
        class_split: str = "all",
        on_bad_annotation: str = "error",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            dataset_name: a registered data set, in COCO format or made by a function.
            class_split: as ``DATASETS.MASK_CLASSES``; "all" = no sets to tell apart.
            on_bad_annotation: as ``DATASETS.ON_BAD_ANNOTATION``.
            kwargs: as for :class:`COCOEvaluator`; ``allow_cached_coco`` is False by default.

        Raises:
            FileNotFoundError: when the annotation file is missing.
            ValueError: when the split does not fit the data set, or the ground truth is unusable.
        """
        check_data_set(dataset_name)
        class_names = class_names_of(dataset_name)
        self.class_sets: Dict[str, Sequence[int]] = {"": range(len(class_names))}
        if class_split != "all":
            split = resolve_class_split(class_split, class_names)
            self.class_sets.update(_A=split.set_a, _B=split.set_b)
        tasks = kwargs.get("tasks") or ("segm",)  # None = whatever there are predictions for
        self._official = not kwargs.get("use_fast_impl", True)
        use = Use(EVALUATION, "all" if "segm" in tasks else "", on_bad_annotation)
        own_file = dataset_name if is_coco_file(dataset_name) else ""
        with valid_annotations([dataset_name]), checked_loading(use, own_file):
            with self._as_coco_file(dataset_name, **kwargs):
                super().__init__(dataset_name, **kwargs)
            keypoints = len(self._metadata.get("keypoint_names") or ())
            for annotation in self._coco_api.dataset.get("annotations", ()):
                _fill_in(annotation, keypoints if "keypoints" in (self._tasks or ()) else 0)

    @staticmethod
    @contextlib.contextmanager
    def _as_coco_file(
        name: str,
        output_dir: Optional[str] = None,
        allow_cached_coco: bool = False,
        **_: Any,
    ) -> Iterator[None]:
        """While it lasts, the data set names a COCO file, if need be one that is made of it now.

        detectron2 would name it for good, and take what an earlier evaluation left, of other data.
        """
        metadata = MetadataCatalog.get(name)
        if metadata.get("json_file"):
            yield
            return
        with contextlib.ExitStack() as stack:
            folder = output_dir or stack.enter_context(tempfile.TemporaryDirectory())
            file = os.path.join(folder, f"{name}_coco_format.json")
            convert_to_coco_json(name, file, allow_cached=allow_cached_coco)
            stack.enter_context(mock.patch.object(metadata, "json_file", file, create=True))
            yield

    def evaluate(self, img_ids: Optional[List[int]] = None) -> Dict[str, Dict[str, float]]:
        """As in COCOEvaluator; also written to ``metrics.json``.  Files are complete or not there.

        Raises:
            OSError: when one cannot be written; the message names it.
        """
        replaced: Dict[str, Any] = {"PathManager": AtomicPathManager()}
        if not self._official:
            replaced["_evaluate_predictions_on_coco"] = evaluate_results
        with mock.patch.multiple(coco_evaluation, **replaced):
            results = super().evaluate(img_ids)
        if results and self._output_dir:
            flat = {f"{task}/{k}": v for task, m in results.items() for k, v in m.items()}
            write_json(os.path.join(self._output_dir, "metrics.json"), flat)
        return results

    def _eval_predictions(
        self, predictions: List[Dict[str, Any]], img_ids: Optional[List[int]] = None
    ) -> None:
        self._img_ids = img_ids
        if all(a.get("segmentation") for a in self._coco_api.dataset.get("annotations", ())):
            super()._eval_predictions(predictions, img_ids)
            return
        # Masks need ground truth of their own, in which box-only objects are ignored.
        all_tasks, box_api = self._tasks, self._coco_api
        results = itertools.chain(*(p["instances"] for p in predictions))
        try:
            for task in all_tasks or self._tasks_from_predictions(list(results)):
                self._tasks = (task,)
                self._coco_api = _ignoring_box_only(box_api) if task == "segm" else box_api
                # The parent changes the category ids of its argument in place.
                super()._eval_predictions(
                    [{**p, "instances": list(map(dict, p["instances"]))} for p in predictions],
                    img_ids,
                )
        finally:
            self._tasks, self._coco_api = all_tasks, box_api

    def _derive_coco_results(
        self,
        coco_eval: Optional[COCOeval],
        iou_type: str,
        class_names: Optional[List[str]] = None,
    ) -> Dict[str, float]:
        keypoints_known = iou_type != "keypoints" or self._metadata.get("keypoint_names")
        if coco_eval is None and keypoints_known:  # detectron2 does not evaluate no results
            self._logger.warning("No predictions from the model!")
            coco_eval = evaluate_results(
                *(self._coco_api, [], iou_type),
                img_ids=self._img_ids,
                max_dets_per_image=self._max_dets_per_image,
            )
        stock = super()._derive_coco_results(coco_eval, iou_type, class_names)
        if iou_type == "keypoints":
            return {k: v if np.isfinite(v) else ABSENT for k, v in stock.items()}
        results = {
            metric + suffix: value
            for suffix, classes in self.class_sets.items()
            for metric, value in split_metrics(coco_eval, classes).items()
        }
        by_set = {k: v for k, v in results.items() if k.endswith(("_A", "_B"))}
        if by_set:
            self._logger.info(f"Set A and set B, {iou_type}:\n" + create_small_table(by_set))
        # Left over are AP-<class>; a class without ground truth has none.
        results.update({k: v for k, v in stock.items() if k not in results and np.isfinite(v)})
        return results


def _fill_in(annotation: Dict[str, Any], num_keypoints: int = 0) -> None:
    """Bring an annotation, in place, into the form that every COCOeval takes."""
    if num_keypoints and not annotation.get("keypoints"):
        annotation.update(keypoints=[0] * 3 * num_keypoints, num_keypoints=0)  # does not count
    mask = annotation.get("segmentation")
    if isinstance(mask, dict) and isinstance(mask.get("counts"), list):
        # faster-coco-eval does not take 5.0 as a number of pixels.
        annotation["segmentation"] = {**mask, "counts": list(map(int, mask["counts"]))}
    annotation.pop("score", None)  # means nothing here, and must be a number for compiled code
    # Box-only data sets often leave these two out.
    annotation.setdefault("iscrowd", 0)
    annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])


def _ignoring_box_only(coco_api: COCO) -> COCO:
    """A copy in which objects without a mask are crowd regions as large as their boxes."""
    masks_api = COCO()
    masks_api.dataset = copy.deepcopy(coco_api.dataset)
    for annotation in masks_api.dataset["annotations"]:
        if not annotation.get("segmentation"):
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotation["iscrowd"] = 1
    masks_api.createIndex()
    return masks_api
