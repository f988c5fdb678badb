"""Time and memory of our COCO evaluator beside detectron2's, on made-up results."""

import contextlib
import io
import logging
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator

from ..evaluation.coco import PartialCOCOEvaluator
from ..leftovers import temporary_folder
from .made_up_results import made_up_predictions, write_ground_truth
from .measuring import peak_resident, processor_name, versions
from .turns import Row, measure_in_turns

logger = logging.getLogger(__name__)

NUM_IMAGES = 5000
"""As many as COCO's validation set has."""

NUM_RESULTS = 100

_EVALUATORS = {"stock": COCOEvaluator, "ours": PartialCOCOEvaluator}
_DATA = "benchmark_evaluation"


class Evaluation:
    """The evaluation of boxes and masks that a model has found in all images."""

    def __init__(self, kind: str, truth: str, num_images: int, num_results: int) -> None:
        """
        Args:
            kind: "stock" (detectron2's COCOEvaluator) or "ours".
            truth: ground truth of :func:`write_ground_truth`.
            num_images, num_results: see :func:`made_up_predictions`.
        """
        if _DATA not in DatasetCatalog:
            register_coco_instances(_DATA, {}, truth, str(Path(truth).parent))
            DatasetCatalog.get(_DATA)  # from which evaluators know the classes
        self.predictions = made_up_predictions(num_images, num_results)
        self.evaluator = _EVALUATORS[kind](_DATA, tasks=("bbox", "segm"), distributed=False)

    def run(self) -> Tuple[float, float, Dict[str, Dict[str, float]]]:
        """Wall time, processor time, and the metrics."""
        # Evaluators change the results that they get.
        self.evaluator.reset()
        self.evaluator._predictions = [
            {**p, "instances": list(map(dict, p["instances"]))} for p in self.predictions
        ]
        start, cpu_start = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):
            metrics = self.evaluator.evaluate()
        return time.perf_counter() - start, time.process_time() - cpu_start, metrics

    def sizes(self) -> Row:
        """Peak growth of the process in bytes (None except on Linux), and the metrics."""
        metrics: Dict[str, Any] = {}
        peak = peak_resident(lambda: metrics.update(self.run()[2]))
        return {"peak_bytes": peak, "metrics": metrics or self.run()[2]}

    def seconds(self) -> Tuple[float, float]:
        """Wall and processor time of one evaluation."""
        return self.run()[:2]


def benchmark_evaluation(
    num_images: int = NUM_IMAGES, *, results: int = NUM_RESULTS, repeats: int = 5
) -> Dict[str, Any]:
    """Measure detectron2's COCOEvaluator and ours on the same boxes and masks, in turns.

    Args:
        num_images: size of the made-up data set, of 80 classes and 7 objects an image.
        results: found in each image.
        repeats: timed evaluations of each, after one that measures memory.

    Returns:
        ``{"rows", "versions", "processor", "threads"}``.  A row, "stock" or "ours", has
        ``num_images``, ``results``, what :func:`measure_in_turns` says, ``peak_bytes`` (growth of
        the process) and ``largest_difference`` of any metric from the stock one's.

    Raises:
        ValueError: for numbers that are not positive.
    """
    for what, value in (("images", num_images), ("results", results), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"the number of {what} must be at least 1, got {value}")
    rows: Any = [{"name": n, "num_images": num_images, "results": results} for n in _EVALUATORS]
    with temporary_folder(Path(tempfile.gettempdir(), "evaluation")) as place:
        truth = str(Path(place, "truth.json"))
        write_ground_truth(truth, num_images)
        builds = [partial(Evaluation, kind, truth, num_images, results) for kind in _EVALUATORS]
        measure_in_turns(rows, builds, repeats, compared_with=[0, 0])
    stock = rows[0].get("metrics")
    for row in rows:
        metrics = row.pop("metrics", None)
        if stock and metrics:
            row["largest_difference"] = _largest_difference(metrics, stock)
    return {
        "rows": rows,
        "versions": {**versions(), "pycocotools": version("pycocotools")},
        "processor": processor_name("cpu"),
        "threads": torch.get_num_threads(),
    }


def _largest_difference(ours: Any, stock: Any) -> float:
    """Of finite metrics; ours leaves out what has no ground truth."""
    return max(
        abs(ours[task][name] - value)
        for task, metrics in stock.items()
        for name, value in metrics.items()
        if np.isfinite(value)
    )
