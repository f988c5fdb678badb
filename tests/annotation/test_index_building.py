"""What a COCO file says is to do, where pandas has made its ids floats."""

import json
from pathlib import Path
from typing import Any, Dict

import pytest
from annotating import annotated, ellipse, options_for, report_of, rle_of, write_data

from seg_every_thing.annotation.index import Index
from seg_every_thing.annotation.index_building import build_index
from seg_every_thing.annotation.training import write_training_file

BOX = [10.0, 8.0, 24.0, 18.0]
IDS = ("id", "image_id", "category_id")


def data(folder: Path, floats: bool) -> Path:
    """Four objects of class 3 with masks, of which one is held out; one of class 7 without."""
    given = {"bbox": BOX, "segmentation": rle_of(ellipse(BOX))}
    path = write_data(folder, [[given] * 4 + [{"bbox": BOX, "category_id": 7}]])
    if floats:
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            annotation.update({key: float(annotation[key]) for key in IDS})
        path.write_text(json.dumps(content))
    return path


def indexed(path: Path) -> Dict[str, Any]:
    options = options_for(path, holdout=0.2)
    build_index(path.parent / "index.sqlite", options, "error", {})
    index = Index(path.parent / "index.sqlite")
    counts = write_training_file(path.parent / "train.json", options, index)
    found = {
        **index.counts,
        "training": counts,
        "which": index.held_out(),
        "without": index.categories_without_masks(),
    }
    index.close()
    return found


def test_ids_that_are_whole_floats_are_those_numbers(tmp_path: Path) -> None:
    found = indexed(data(tmp_path / "floats", True))
    assert found == indexed(data(tmp_path / "ints", False))
    assert found["held_out"] == 1 and found["without"] == [7]
    assert found["training"]["objects"] == 5


def test_a_report_names_classes_of_ids_that_are_floats(tmp_path: Path) -> None:
    path = data(tmp_path / "d", True)
    annotated(path, holdout=0.2)
    quality = report_of(path)["quality"]
    assert quality["classes_without_any_mask"] == ["dog"]
    assert quality["by_class"]["dog"]["made"] == 1


@pytest.mark.parametrize("key", ["images", "categories"])
def test_ids_of_images_and_categories_may_be_floats(key: str, tmp_path: Path) -> None:
    path = data(tmp_path / "d", False)
    content = json.loads(path.read_text())
    for value in content[key]:
        value["id"] = float(value["id"])
    path.write_text(json.dumps(content))
    assert indexed(path) == indexed(data(tmp_path / "ints", False))
