"""The last look at a file: at what was made, and at nothing else."""

import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
from annotating import HEIGHT, WIDTH, annotated, ellipse_mask, report_of, rle_of, write_data

from seg_every_thing.annotation.encoding import CutMask
from seg_every_thing.annotation.index import Index
from seg_every_thing.annotation.making import Masker, Work
from seg_every_thing.annotation.masker import MadeMask
from seg_every_thing.annotation.validation import validate_file

BOX = [10.0, 8.0, 24.0, 18.0]
SQUARE = np.pad(np.ones((4, 5), bool), ((2, HEIGHT - 6), (3, WIDTH - 8)))  # 20 pixels
# Made by annotate once, and then corrected by hand in a tool that counts in its own way.
BY_HAND: Dict[str, Any] = {
    "bbox": BOX,
    "segmentation": [[10.0, 8.0, 34.0, 8.0, 34.0, 26.0]],
    "area": 390.0,
    "attributes": {"source": "seg_every_thing", "score": 0.5},
    "score": 0.5,
}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, ""),
        ({"area": 21}, "annotation 20: its area is 20"),
        ({"segmentation": rle_of(SQUARE[1:])}, "annotation 20: its RLE has size [47, 64]"),
        ({"segmentation": rle_of(SQUARE & False), "area": 0}, "annotation 20: its area is 0"),
    ],
)
def test_masks_that_were_made_are_read_again(
    changes: Dict[str, Any], fault: str, tmp_path: Path
) -> None:
    made = {"bbox": BOX, "segmentation": rle_of(SQUARE), "area": 20, **changes}
    path = write_data(tmp_path / "d", [[BY_HAND, made, BY_HAND]])
    checked = validate_file(path, lambda _: (HEIGHT, WIDTH), [1])
    assert (checked["masks"], checked["faults"]) == (1, bool(fault))
    assert "".join(checked["first"]).startswith(fault)
    assert validate_file(path, lambda _: (HEIGHT, WIDTH), [])["masks"] == 0


def test_masks_of_an_earlier_run_may_have_been_corrected(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[BY_HAND, {"bbox": BOX}, {**BY_HAND, "image_id": 5}]])
    content = json.loads(path.read_text())
    content["annotations"].append(None)
    path.write_text(json.dumps(content))
    kept = content["annotations"]
    config = ("DATASETS.ON_BAD_ANNOTATION", "set_aside")
    weights = ("MODEL.WEIGHTS", str(path.parent / "weights.pth"))
    found = annotated(path, opts=(*weights, *config))["annotations"]
    assert [found[0], found[2], found[3]] == [kept[0], kept[2], None]
    assert report_of(path)["validation"] == {"masks": 1, "faults": 0, "first": []}


def test_objects_that_are_dropped_count(tmp_path: Path) -> None:
    """What follows them has other numbers in the file that is written."""

    def first_is_empty(work: Work, index: Index) -> Masker:
        def make(image: np.ndarray, boxes: np.ndarray, categories: Any) -> List[MadeMask]:
            first, *rest = (ellipse_mask(image, box) for box in boxes)
            nothing = CutMask(np.zeros_like(first.mask.pixels), *first.mask[1:])
            return [first._replace(mask=nothing), *rest]

        return make

    path = write_data(tmp_path / "d", [[{"bbox": BOX}, {"bbox": BOX}, BY_HAND]])
    found = annotated(path, first_is_empty, on_empty="drop")["annotations"]
    assert [a["id"] for a in found] == [20, 30]
    assert report_of(path)["validation"]["masks"] == 1
