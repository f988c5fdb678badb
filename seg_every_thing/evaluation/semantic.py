"""Semantic segmentation metrics as the FCN and the FC-DenseNet papers define them."""

import os
from typing import Any, Dict, List, Optional, Sequence, Tuple
from unittest import mock

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator, sem_seg_evaluation
from detectron2.utils.logger import create_small_table

from ..data.labels import check_label_size, check_values, read_label
from ..files import AtomicPathManager, write_json

ABSENT = -1.0
"""Value of a metric for which there is no ground truth."""


def segmentation_metrics(
    confusion: np.ndarray, class_names: Optional[Sequence[str]] = None
) -> Dict[str, float]:
    """The four metrics of the FCN paper (section 5), in percent, and those derived from them.

    With n[i, j] pixels of class i predicted as j, t[i] = sum_j n[i, j], p[j] = sum_i n[i, j] and
    IU[i] = n[i, i] / (t[i] + p[i] - n[i, i]):

    - ``pixel_acc`` = sum_i n[i, i] / sum_i t[i]; ``global_acc`` is another name of it;
    - ``mean_acc`` = mean of n[i, i] / t[i] over the classes with ground truth;
    - ``mean_IU`` = mean of IU[i]; a class without ground truth counts 0 as soon as it is predicted
      anywhere, and does not count when it never is; ``mean_IoU`` is another name of it;
    - ``fw_IU`` = sum_i t[i] IU[i] / sum_i t[i];
    - ``IoU_<class>``, ``ACC_<class>``: IU[i] and n[i, i] / t[i], where they are defined.

    Args:
        confusion: n, (K, K), void pixels not counted.
        class_names: the K names; default: the indices.

    Returns:
        Metrics by name; :data:`ABSENT` for all four without any ground truth.
    """
    n = np.asarray(confusion, dtype=np.float64)
    names = [str(i) for i in range(len(n))] if class_names is None else class_names
    hits, truth, predicted = n.diagonal(), n.sum(axis=1), n.sum(axis=0)
    union = truth + predicted - hits
    has_truth, has_union = truth > 0, union > 0
    metrics: Dict[str, Any] = dict.fromkeys(("pixel_acc", "mean_acc", "mean_IU", "fw_IU"), ABSENT)
    if has_truth.any():
        iu = np.divide(hits, union, out=np.zeros_like(hits), where=has_union)
        metrics = {
            "pixel_acc": 100 * hits.sum() / truth.sum(),
            "mean_acc": 100 * (hits[has_truth] / truth[has_truth]).mean(),
            "mean_IU": 100 * iu[has_union].mean(),
            "fw_IU": 100 * (truth * iu).sum() / truth.sum(),
        }
    metrics["global_acc"] = metrics["pixel_acc"]
    metrics["mean_IoU"] = metrics["mean_IU"]
    for i, name in enumerate(names):
        key = name.replace("-", "_")  # detectron2 hides metrics with a "-" in their name
        if has_union[i]:
            metrics[f"IoU_{key}"] = 100 * hits[i] / union[i]
        if has_truth[i]:
            metrics[f"ACC_{key}"] = 100 * hits[i] / truth[i]
    return {name: float(value) for name, value in metrics.items()}


class FourMetricEvaluator(SemSegEvaluator):
    """SemSegEvaluator with the four metrics of the FCN paper beside detectron2's.

    detectron2's ``mIoU``, ``fwIoU``, ``mACC`` and ``pACC`` keep their names and values; ``mIoU``
    leaves out classes without ground truth, ``mean_IU`` see :func:`segmentation_metrics`.  Pixels
    labelled void count nowhere.  Results also go to ``metrics.json`` in the output folder.
    """

    _conf_matrix: np.ndarray
    _image: str  # that is being processed
    _size: Tuple[int, int]

    def __init__(
        self, dataset_name: str, *, distributed: bool = True, output_dir: Optional[str] = None
    ) -> None:
        """
        Args:
            dataset_name: a registered data set with semantic labels.
            distributed: gather the results of all processes.
            output_dir: where results are written; None = nowhere.
        """
        super().__init__(
            dataset_name,
            distributed=distributed,
            output_dir=output_dir,
            sem_seg_loading_fn=self._load_label,
        )
        self._void = MetadataCatalog.get(dataset_name).ignore_label
        # Not part of the papers' metrics, and most of the time that evaluation takes.
        self._compute_boundary_iou = False

    def process(self, inputs: List[Dict[str, Any]], outputs: List[Dict[str, Any]]) -> None:
        """As in SemSegEvaluator.

        Raises:
            ValueError: when the model does not have the classes of the data set, or a label file
                has values that are none or is not as large as its image.
        """
        for image, output in zip(inputs, outputs):
            if len(output["sem_seg"]) != self._num_classes:
                raise ValueError(
                    f"the model predicts {len(output['sem_seg'])} classes, the data set "
                    f"'{self._dataset_name}' has {self._num_classes}: set "
                    f"MODEL.SEM_SEG_HEAD.NUM_CLASSES to {self._num_classes}"
                )
            self._image, self._size = image["file_name"], tuple(output["sem_seg"].shape[1:])
            super().process([image], [output])

    def _load_label(self, path: str, dtype: Any = int) -> np.ndarray:
        label = read_label(path, dtype)
        check_values(label, path, self._num_classes, self._void)
        check_label_size(label, path, self._image, self._size)
        return label

    def evaluate(self) -> Optional[Dict[str, Dict[str, float]]]:
        """Gather and compute.  Files are complete or not there.

        Returns:
            ``{"sem_seg": metrics}`` in percent; None on all processes but the main one.

        Raises:
            OSError: when a file cannot be written; the message names it.
        """
        complete = mock.patch.object(sem_seg_evaluation, "PathManager", AtomicPathManager())
        with complete, np.errstate(invalid="ignore"):  # 0 / 0 without ground truth, see below
            stock = super().evaluate()
        if stock is None:  # not the main process
            return None
        metrics = {
            name: float(value) if np.isfinite(value) else ABSENT
            for name, value in stock["sem_seg"].items()
            if "-" not in name
        }
        # detectron2 counts [predicted, truth], with one row and column more for void.
        metrics.update(segmentation_metrics(self._conf_matrix[:-1, :-1].T, self._class_names))
        per_class = {k[4:]: v for k, v in metrics.items() if k.startswith("IoU_")}
        if per_class:
            self._logger.info("IoU of each class:\n" + create_small_table(per_class))
        if self._output_dir:
            flat = {f"sem_seg/{name}": value for name, value in metrics.items()}
            write_json(os.path.join(self._output_dir, "metrics.json"), flat)
        return {"sem_seg": metrics}
