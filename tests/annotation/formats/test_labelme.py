"""labelme's JSON files."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from annotating import ellipse
from format_files import BOX, drawn, iou, objects_of, picture, read_as, write_masks
from PIL import Image


def write(folder: Path, *shapes: Any) -> Path:
    (folder / "json").mkdir()
    content = {"shapes": shapes, "imagePath": "..\\images\\a.png", "imageData": None}
    (folder / "json" / "a.json").write_text(json.dumps(content))
    return folder / "json"


def shape(kind: str, *points: Any, **more: Any) -> Any:
    return {"label": "cup", "shape_type": kind, "points": points, **more}


def test_rectangles_groups_and_masks(tmp_path: Path) -> None:
    images = picture(tmp_path, "a.png")
    data = io.BytesIO()
    Image.fromarray(np.array([[1, 1, 0], [1, 1, 1]], bool)).save(data, "PNG")
    mask = base64.b64encode(data.getvalue()).decode()
    source = write(
        tmp_path,
        shape("rectangle", [30, 20], [10, 5]),
        shape("polygon", [0, 0], [4, 0], [4, 4], group_id=1),
        shape("polygon", [10, 10], [14, 10], [14, 14], group_id=1),
        shape("polygon", [0, 0], [4, 0], [4, 4]),
        shape("mask", [7, 8], [9, 9], mask=mask),
    )
    content = read_as("labelme", source, images)
    assert sorted(box for _, _, box in objects_of(content)) == [
        [0, 0, 4, 4],
        [0, 0, 14, 14],
        [7, 8, 3, 2],
        [10, 5, 20, 15],
    ]
    by_box = {tuple(a["bbox"]): a.get("segmentation") for a in content["annotations"]}
    assert by_box[(10, 5, 20, 15)] is None
    assert len(by_box[(0, 0, 14, 14)]) == 2
    decoded = mask_util.decode(by_box[(7, 8, 3, 2)])
    assert np.argwhere(decoded).tolist() == [[8, 7], [8, 8], [9, 7], [9, 8], [9, 9]]


@pytest.mark.parametrize(
    "bad, what",
    [
        (shape("circle", [1, 1], [2, 2]), "shape 1: a circle is neither"),
        (shape("rectangle", [1, 1], [1, 2]), "shape 1: its box .* no area"),
        (shape("polygon", [1, 1], [1, 2]), "shape 1: its polygon has 2 points"),
        (shape("mask", [1, 1], [1, 2], mask="aaaa"), "shape 1: its mask is no picture"),
        (7, "shape 1: "),
        ({"label": "cup", "shape_type": "polygon"}, "shape 1: 'points' is missing"),
    ],
)
def test_bad_shapes_are_named(tmp_path: Path, bad: Any, what: str) -> None:
    images = picture(tmp_path, "a.png")
    source = write(tmp_path, bad)
    with pytest.raises(ValueError, match=what) as error:
        read_as("labelme", source, images)
    assert "a.json': " in str(error.value)


def test_written_parts_are_a_group(tmp_path: Path) -> None:
    folder = write_masks(tmp_path, "labelme")
    content = json.loads((folder / "1.json").read_text())
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (48, 64, None)
    assert (folder / content["imagePath"]).resolve() == tmp_path / "d" / "images" / "1.png"
    first, second, whole, box = content["shapes"]
    assert first["group_id"] == second["group_id"] == 1 and whole["group_id"] is None
    assert [s["label"] for s in content["shapes"]] == ["cup", "cup", "dog", "cup"]
    assert (box["shape_type"], box["points"]) == ("rectangle", [[50, 2], [60, 10]])
    assert iou(drawn(np.ravel(whole["points"])), ellipse(BOX)) > 0.95
    assert first["description"] == "score 0.7500"
    assert json.loads((folder / "2.json").read_text())["shapes"] == []


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = write_masks(tmp_path, "labelme")
    content = read_as("labelme", folder, tmp_path / "d" / "images")
    boxes = sorted(box for _, _, box in objects_of(content))
    assert np.allclose(boxes, [[2, 2, 50, 40], BOX, [50, 2, 10, 8]], atol=1)
