"""Masks that were made beside those that were taken away, by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotating import annotated, ellipse, rle_of, write_data

from seg_every_thing.annotation.baselines import grabcut
from seg_every_thing.annotation.comparison import compare_masks, comparison_table, hide_masks
from seg_every_thing.cli import main
from seg_every_thing.data.images import read_image

BOX = [10.0, 8.0, 24.0, 18.0]
HALF = ellipse(BOX) & (np.mgrid[:48, :64][1] < 22)
DOG = [1.0, 2.0, 30.0, 20.0]
SQUARE = [[4.0, 4.0, 24.0, 4.0, 24.0, 14.0, 4.0, 14.0]]
CROWD = {"bbox": BOX, "iscrowd": 1, "segmentation": rle_of(ellipse(BOX), False)}


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """Cups: a half ellipse, an ellipse, one without a mask, a crowd; a dog: a rectangle."""
    half, whole = ({"bbox": BOX, "segmentation": rle_of(mask)} for mask in (HALF, ellipse(BOX)))
    dog = {"bbox": DOG, "segmentation": SQUARE, "category_id": 7, "area": 200}
    path = write_data(tmp_path / "d", [[half, dog, CROWD], [whole, {"bbox": BOX}]])
    return path.rename(path.with_name("full.json"))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return 100 * (a & b).sum() / (a | b).sum()


def test_masks_are_hidden_by_class(full: Path, tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("cup\n")
    boxes = tmp_path / "boxes.json"
    assert hide_masks(full, boxes, str(tmp_path / "keep.txt")) == {"kept": 2, "hidden": 1}
    before, after = (json.loads(p.read_text()) for p in (full, boxes))
    dog = after["annotations"].pop(1)
    # Its area was that of the mask.
    assert dog == {**before["annotations"].pop(1), "segmentation": [], "area": 600.0}
    assert after == before


def test_masks_are_hidden_of_classes_that_there_are(full: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="voc_even"):
        hide_masks(full, tmp_path / "boxes.json", "voc_even")
    with pytest.raises(ValueError, match="would be written over"):
        hide_masks(full, full, "all")
    assert not (tmp_path / "boxes.json").exists()


def compared(full: Path, **options: Any) -> Any:
    """All masks hidden, and made again: ellipses."""
    hide_masks(full, full.with_name("boxes.json"), "none")
    annotated(full.with_name("boxes.json"), **options)
    return compare_masks(full.with_name("out.json"), full)


def test_means_by_class(full: Path) -> None:
    found = compared(full)
    dog = np.zeros((48, 64), bool)
    dog[4:14, 4:24] = True
    box = np.zeros((48, 64), bool)
    box[8:26, 10:34] = True
    cups = [iou(ellipse(BOX), HALF), 100.0]
    boxes = [iou(box, HALF), iou(box, ellipse(BOX))]
    dog_box = np.zeros((48, 64), bool)
    dog_box[2:22, 1:31] = True
    assert found["by_class"] == {
        "cup": {
            **{"objects": 2, "IoU": pytest.approx(np.mean(cups), abs=0.051)},
            **{"expected_IoU": None, "grabcut": None},
            "filled_box": pytest.approx(np.mean(boxes), abs=0.051),
        },
        "dog": {
            **{"objects": 1, "IoU": pytest.approx(iou(ellipse(DOG), dog), abs=0.051)},
            **{"expected_IoU": None, "grabcut": None},
            "filled_box": pytest.approx(iou(dog_box, dog), abs=0.051),
        },
    }
    every = [*cups, iou(ellipse(DOG), dog)]
    assert found["all"]["IoU"] == pytest.approx(np.mean(every), abs=0.051)
    assert found["without_reference"] == 1
    table = comparison_table(found)
    assert "expected" not in table and "grabcut" not in table and "filled box" in table


@pytest.mark.parametrize(
    "options",
    [{"format": "polygon"}, {"format": "rle-uncompressed"}, {"tighten_boxes": True}],
    ids=str,
)
def test_however_masks_are_written(options: Any, full: Path) -> None:
    found = compared(full, **options)
    assert found["all"]["IoU"] == pytest.approx(compared_plain(full), abs=2.5)


def compared_plain(full: Path) -> float:
    dog = np.zeros((48, 64), bool)
    dog[4:14, 4:24] = True
    return float(np.mean([iou(ellipse(BOX), HALF), 100.0, iou(ellipse(DOG), dog)]))


def test_the_expected_iou_is_that_of_the_masks_compared(tmp_path: Path) -> None:
    given = {"bbox": BOX, "segmentation": rle_of(HALF)}
    hidden = {"bbox": BOX, "segmentation": rle_of(ellipse(BOX)), "category_id": 7}
    path = write_data(tmp_path / "d", [[given] * 5] * 14 + [[hidden]])
    full = path.rename(path.with_name("full.json"))
    (tmp_path / "cups.txt").write_text("cup")
    hide_masks(full, path, str(tmp_path / "cups.txt"))
    (score,) = (a["score"] for a in annotated(path, holdout=0.5)["annotations"] if "score" in a)
    row = compare_masks(path.with_name("out.json"), full)["by_class"]["dog"]
    assert row["IoU"] == 100
    assert row["expected_IoU"] == round(100 * score, 1) < 80


def test_grabcut_where_images_are_given(
    full: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    compared(full)
    arguments = ["compare-masks", "--masks", full.with_name("out.json"), "--reference", full]
    arguments += ["--image-root", full.parent / "images", "--output", tmp_path / "table.json"]
    assert main([*map(str, arguments)]) == 0
    dog = np.zeros((48, 64), bool)
    dog[4:14, 4:24] = True
    cut = grabcut(read_image(full.parent / "images" / "1.png", "BGR"), (1, 2, 31, 22))
    row = json.loads((tmp_path / "table.json").read_text())["by_class"]["dog"]
    expected = row["filled_box"] if cut is None else iou(cut, dog)  # of noise
    assert row["grabcut"] == pytest.approx(expected, abs=0.051)
    log = capfd.readouterr()
    assert "grabcut" in log.out + log.err


def test_nothing_to_compare(full: Path, capsys: pytest.CaptureFixture) -> None:
    for masks in (full, full.with_name("missing.json")):
        with pytest.raises(SystemExit) as error:
            main(["compare-masks", "--masks", str(masks), "--reference", str(full)])
        assert error.value.code == 1
    lines = capsys.readouterr().err
    assert "no mask of annotate in" in lines and "missing.json" in lines


def test_what_is_no_coco_file(full: Path, tmp_path: Path) -> None:
    content = json.loads(full.read_text())
    del content["annotations"][2]["bbox"]
    full.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"full\.json': one of its 'annotations' has no bbox"):
        hide_masks(full, tmp_path / "boxes.json", "none")
    assert not (tmp_path / "boxes.json").exists()
