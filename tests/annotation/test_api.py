"""``seg_every_thing.annotate``: what it returns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from annotating import HEIGHT, WIDTH, ellipse, masks_are_ellipses, options_for, write_data

import seg_every_thing
from seg_every_thing.annotation import annotator, api

BOX = [10.0, 8.0, 24.0, 18.0]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    run = annotator.annotate_file
    monkeypatch.setattr(api, "annotate_file", lambda options: run(options, masks_are_ellipses))
    given = {"bbox": BOX, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    objects = [[{"bbox": BOX, "attributes": {"score": 7}}, given], [{"bbox": [1, 1, 8, 8]}]]
    found = write_data(tmp_path / "d", objects)
    options_for(found)
    return found


@pytest.mark.parametrize("form", ["rle", "rle-uncompressed", "polygon"])
def test_objects_with_their_masks(form: str, path: Path) -> None:
    found = seg_every_thing.annotate(
        str(path),
        str(path.parent / "images"),
        str(path.parent / "out.json"),
        config_file="photos/box_to_mask.yaml",
        opts=["MODEL.WEIGHTS", str(path.parent / "weights.pth")],
        format=form,
    )
    assert found.report["masks"]["made"] == 2
    first, second = found
    assert (first.file_name, first.class_name) == ("1.png", "cup")
    assert second.file_name == "2.png"
    assert first.mask.shape == (HEIGHT, WIDTH)
    overlap = first.mask & ellipse(BOX), first.mask | ellipse(BOX)
    assert overlap[0].sum() / overlap[1].sum() >= (0.95 if form == "polygon" else 1)
    assert 0 < first.score == first.annotation["attributes"]["mask_score"] < 1
    assert second.score == second.annotation["score"]


def test_an_option_that_does_not_exist(path: Path) -> None:
    with pytest.raises(TypeError, match="formt"):
        seg_every_thing.annotate(path, path.parent, path.parent / "out.json", formt="rle")


def test_bad_input_is_an_error_at_once(path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        seg_every_thing.annotate(path, path.parent / "nowhere", path.parent / "out.json")


def test_masks_are_arrays_of_bool(path: Path) -> None:
    options: Any = {"opts": ["MODEL.WEIGHTS", str(path.parent / "weights.pth")]}
    found = seg_every_thing.annotate(
        *(path, path.parent / "images", path.parent / "out.json"),
        config_file="photos/box_to_mask.yaml",
        **options,
    )
    assert next(found).mask.dtype == np.bool_
