"""The annotate run at the end of quickstart; tests/study/test_runner.py has it with its model."""

import json
from pathlib import Path
from typing import Any, List

import pytest
from annotating import annotated, ellipse, rle_of, write_data
from conftest import unregister
from detectron2.config import CfgNode
from detectron2.data.datasets import register_coco_instances

from seg_every_thing.annotation.options import Options
from seg_every_thing.cli import quickstart_annotation
from seg_every_thing.cli.quickstart_annotation import annotate_boxes

BOX = [10.0, 8.0, 24.0, 18.0]


@pytest.fixture
def data_set(tmp_path: Path) -> Any:
    """A cup and a dog, both with masks."""
    given = {"bbox": BOX, "segmentation": rle_of(ellipse(BOX))}
    path = write_data(tmp_path / "d", [[given, {**given, "category_id": 7}]])
    register_coco_instances("two", {}, str(path), str(path.parent / "images"))
    yield "two"
    unregister("two")


def config(folder: Path, weights: bytes, keeping: str) -> CfgNode:
    (folder / "weights.pth").write_bytes(weights)
    (folder / "keep.txt").write_text(keeping)
    return CfgNode(
        {
            "MODEL": {"WEIGHTS": str(folder / "weights.pth")},
            "TEST": {"CLASS_SPLIT": str(folder / "keep.txt")},
        }
    )


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> List[Any]:
    """Options of each run, and whether it found unfinished work; masks are ellipses."""
    seen: List[Any] = []

    def run(options: Options) -> None:
        seen.append((options, options.work_dir.exists()))
        annotated(options.annotations, image_root=options.image_root, output=options.output)

    monkeypatch.setattr(quickstart_annotation, "annotate_file", run)
    return seen


def test_set_b_is_made_anew_and_compared(
    data_set: str, runs: List[Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    folder = tmp_path / "annotate"
    found = annotate_boxes(config(tmp_path, b"1", "cup"), data_set, folder)
    assert list(found["by_class"]) == ["dog"] and found["all"]["IoU"] == 100
    assert json.loads((folder / "comparison.json").read_text()) == found
    ((options, _),) = runs
    assert options.opts == ("MODEL.WEIGHTS", str(tmp_path / "weights.pth"))
    assert options.report == folder / "review"
    assert (
        "mean IoU 100.0 with those taken away, expected not known; of whole boxes 7" in caplog.text
    )
    assert str(folder / "review" / "index.html") in caplog.text


def test_unfinished_work_of_another_model_is_not_in_the_way(
    data_set: str, runs: List[Any], tmp_path: Path
) -> None:
    folder = tmp_path / "annotate"
    for weights in (b"1", b"1", b"2"):
        annotate_boxes(config(tmp_path, weights, "cup"), data_set, folder)
        (folder / "masks.json").unlink()
        (folder / "masks_report.json").unlink()
        (folder / "masks.json.part").mkdir(exist_ok=True)
    assert [unfinished for _, unfinished in runs] == [False, True, False]


def test_without_set_b_there_is_nothing_to_do(
    data_set: str, runs: List[Any], tmp_path: Path
) -> None:
    assert annotate_boxes(config(tmp_path, b"1", "cup\ndog"), data_set, tmp_path / "a") == {}
    assert not runs
