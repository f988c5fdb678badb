"""The suite on a small data set: what it compares, and that both evaluators say the same."""

import json
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import unregister
from same_process import SameProcess

from seg_every_thing.benchmarks import evaluation, turns
from seg_every_thing.benchmarks.evaluation import Evaluation, benchmark_evaluation
from seg_every_thing.benchmarks.made_up_results import made_up_predictions, write_ground_truth


@pytest.fixture(autouse=True)
def unregistered() -> Iterator[None]:
    yield
    unregister(evaluation._DATA)


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "FreshProcess", SameProcess)
    result = benchmark_evaluation(6, results=10, repeats=2)
    stock, ours = result["rows"]
    assert (stock["name"], ours["name"]) == ("stock", "ours")
    assert stock["ratio"] == stock["cpu_ratio"] == 1
    for row in (stock, ours):
        assert (row["num_images"], row["results"], row["repeats"]) == (6, 10, 2)
        assert 0 < row["seconds_min"] <= row["seconds"]  # the smallest, and the median
        # Each library sums the same numbers in its own order.
        assert row["largest_difference"] == pytest.approx(0, abs=1e-10)
        assert "peak_bytes" in row and "metrics" not in row
    assert {"torch", "detectron2", "pycocotools"} < result["versions"].keys()
    json.dumps(result, allow_nan=False)


def test_a_difference_is_seen() -> None:
    stock = {"segm": {"AP": 20.0, "AP-cup": float("nan")}, "bbox": {"AP": 30.0}}
    ours = {"segm": {"AP": 20.5}, "bbox": {"AP": 30.0, "AP_A": 1.0}}
    assert evaluation._largest_difference(ours, stock) == 0.5


def test_every_turn_does_the_same(tmp_path: Path) -> None:
    write_ground_truth(tmp_path / "truth.json", 5)
    run = Evaluation("ours", str(tmp_path / "truth.json"), 5, 20)
    first, second = run.run()[2], run.run()[2]
    assert first == second and 0 < first["segm"]["AP"] < 100


def test_what_is_made_up(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        write_ground_truth(tmp_path / name, 20, seed=3)
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()
    truth = json.loads((tmp_path / "a.json").read_text())
    assert len(truth["images"]) == 20 and 80 < len(truth["annotations"]) < 200
    assert {0, 1} >= {a["iscrowd"] for a in truth["annotations"]}
    for annotation in truth["annotations"]:
        mask = mask_util.decode(annotation["segmentation"])
        assert mask.shape == (480, 640) and mask.sum() == annotation["area"]
        x, y, w, h = annotation["bbox"]
        rows, columns = np.nonzero(mask)
        assert x - 1 <= columns.min() and columns.max() <= x + w + 1
        assert y - 1 <= rows.min() and rows.max() <= y + h + 1
    found = made_up_predictions(20, 7, seed=3)
    assert [p["image_id"] for p in found] == list(range(1, 21))
    assert {len(p["instances"]) for p in found} == {7}
    assert found == made_up_predictions(20, 7, seed=3) != made_up_predictions(20, 7, seed=4)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [({"num_images": 0}, "images"), ({"results": 0}, "results"), ({"repeats": 0}, "repeats")],
)
def test_numbers_that_cannot_be(arguments: Any, what: str) -> None:
    with pytest.raises(ValueError, match=f"the number of {what} must be at least 1, got 0"):
        benchmark_evaluation(**arguments)
