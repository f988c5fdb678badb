"""The four metrics of the FCN paper, by hand, and the evaluator around them."""

import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from conftest import unregister
from detectron2.data import DatasetCatalog
from detectron2.evaluation import SemSegEvaluator
from PIL import Image

from seg_every_thing.data.labels import register_labelled
from seg_every_thing.evaluation.semantic import FourMetricEvaluator, segmentation_metrics

VOID = 9


def test_three_classes_by_hand() -> None:
    confusion = np.array([[4, 1, 0], [2, 3, 0], [0, 0, 10]])  # [true, predicted]
    metrics = segmentation_metrics(confusion, ["a", "b-c", "d"])
    # t = 5, 5, 10; p = 6, 4, 10; IU = 4/7, 3/6, 10/10.
    assert metrics == pytest.approx(
        {
            "pixel_acc": 100 * 17 / 20,
            "global_acc": 100 * 17 / 20,
            "mean_acc": 100 * (4 / 5 + 3 / 5 + 1) / 3,
            "mean_IU": 100 * (4 / 7 + 1 / 2 + 1) / 3,
            "mean_IoU": 100 * (4 / 7 + 1 / 2 + 1) / 3,
            "fw_IU": 100 * (5 * 4 / 7 + 5 * 1 / 2 + 10 * 1) / 20,
            **{"IoU_a": 400 / 7, "IoU_b_c": 50, "IoU_d": 100},
            **{"ACC_a": 80, "ACC_b_c": 60, "ACC_d": 100},
        }
    )


def test_class_without_ground_truth_counts_once_it_is_predicted() -> None:
    metrics = segmentation_metrics(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 4]]))
    assert metrics["mean_IU"] == pytest.approx(100 * (3 / 4 + 0 + 1) / 3)
    assert metrics["mean_acc"] == pytest.approx(100 * (3 / 4 + 1) / 2)
    assert metrics["fw_IU"] == pytest.approx(100 * (4 * 3 / 4 + 4 * 1) / 8)
    assert metrics["IoU_1"] == 0 and "ACC_1" not in metrics


def test_class_that_is_nowhere_does_not_count() -> None:
    metrics = segmentation_metrics(np.array([[3, 0, 1], [0, 0, 0], [0, 0, 4]]))
    assert metrics["mean_IU"] == pytest.approx(100 * (3 / 4 + 4 / 5) / 2)
    assert "IoU_1" not in metrics and "ACC_1" not in metrics


def test_no_ground_truth_at_all() -> None:
    metrics = segmentation_metrics(np.zeros((2, 2)))
    assert set(metrics.values()) == {-1.0} and len(metrics) == 6


@pytest.fixture
def dataset(tmp_path: Path) -> Any:
    """Name of a data set of 3 classes with two images of 2x4 pixels, 3 of the 16 void."""
    labels = [[[0, 0, 1, 1], [VOID, 0, 1, 2]], [[2, 2, 2, VOID], [2, 1, 0, VOID]]]
    records = []
    for i, label in enumerate(labels):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.array(label, np.uint8)).save(path)
        records.append({"file_name": f"{i}.jpg", "sem_seg_file_name": str(path), "image_id": i})
    register_labelled(
        "four_metrics",
        lambda: records,
        source=tmp_path,
        classes=["a", "b", "c-d"],
        colors=[(0, 0, 0)] * 3,
        ignore_label=VOID,
    )
    yield "four_metrics"
    unregister("four_metrics")


def outputs(predictions: List[Any]) -> List[Dict[str, torch.Tensor]]:
    """What a model gives: scores in which the given class is highest."""
    scores = [torch.nn.functional.one_hot(torch.tensor(p), 3) for p in predictions]
    return [{"sem_seg": s.permute(2, 0, 1).float()} for s in scores]


PREDICTIONS = [[[0, 1, 1, 1], [2, 0, 0, 2]], [[2, 2, 0, 0], [2, 1, 0, 1]]]
# Void left out: true 0 as 0, 1, 0, 0; true 1 as 1, 1, 0, 1; true 2 as 2, 2, 2, 0, 2.
CONFUSION = np.array([[3, 1, 0], [1, 3, 0], [1, 0, 4]])


def evaluated(evaluator: SemSegEvaluator, batch: int = 1) -> Dict[str, float]:
    inputs = [{"file_name": r["file_name"]} for r in DatasetCatalog.get("four_metrics")]
    evaluator.reset()
    for i in range(0, 2, batch):
        evaluator.process(inputs[i : i + batch], outputs(PREDICTIONS[i : i + batch]))
    return evaluator.evaluate()["sem_seg"]


@pytest.mark.parametrize("batch", [1, 2])
def test_evaluator(dataset: str, tmp_path: Path, batch: int) -> None:
    results = evaluated(FourMetricEvaluator(dataset, output_dir=str(tmp_path / "out")), batch)
    expected = segmentation_metrics(CONFUSION, ["a", "b", "c_d"])
    assert {k: results[k] for k in expected} == pytest.approx(expected)
    assert results["pixel_acc"] == pytest.approx(100 * 10 / 13)
    # Everything has ground truth, so detectron2's four are the same by other names.
    for ours, stock in (
        *(("pixel_acc", "pACC"), ("mean_acc", "mACC")),
        *(("mean_IU", "mIoU"), ("fw_IU", "fwIoU")),
    ):
        assert results[ours] == pytest.approx(results[stock])
    assert not [k for k in results if "-" in k]
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert saved == {f"sem_seg/{k}": v for k, v in results.items()}


def test_stock_metrics_are_untouched(dataset: str) -> None:
    stock = evaluated(SemSegEvaluator(dataset))
    ours = evaluated(FourMetricEvaluator(dataset))
    for name in ("mIoU", "fwIoU", "mACC", "pACC"):
        assert ours[name] == stock[name]


def test_only_void(dataset: str) -> None:
    for r in DatasetCatalog.get(dataset):
        Image.fromarray(np.full((2, 4), VOID, np.uint8)).save(r["sem_seg_file_name"])
    results = evaluated(FourMetricEvaluator(dataset))
    assert results["mIoU"] == results["mean_IU"] == results["pixel_acc"] == -1


def test_bad_labels_and_models(dataset: str) -> None:
    evaluator = FourMetricEvaluator(dataset)
    evaluator.reset()
    inputs = [{"file_name": "0.jpg"}]
    with pytest.raises(ValueError, match="predicts 4 classes.* has 3: set MODEL.SEM_SEG_HEAD"):
        evaluator.process(inputs, [{"sem_seg": torch.zeros(4, 2, 4)}])
    path = DatasetCatalog.get(dataset)[0]["sem_seg_file_name"]
    Image.fromarray(np.full((2, 4), 3, np.uint8)).save(path)
    with pytest.raises(ValueError, match="0.png' has the value 3.*classes 0 to 2 and void 9"):
        evaluator.process(inputs, outputs(PREDICTIONS[:1]))
    # As many pixels as the image, but turned: its counts would be wrong without a word.
    Image.fromarray(np.zeros((4, 2), np.uint8)).save(path)
    with pytest.raises(ValueError, match=r"0.png' has \(4, 2\) pixels, the image '0.jpg' \(2, 4\)"):
        evaluator.process(inputs, outputs(PREDICTIONS[:1]))
