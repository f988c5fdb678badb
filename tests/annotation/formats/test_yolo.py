"""YOLO's text files, boxes and outlines in, polygons out."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from annotating import ellipse
from format_files import BOX, drawn, iou, objects_of, picture, read_as, two_parts, write_masks
from PIL import Image

from seg_every_thing.annotation.formats.tasks import joined


def source(folder: Path, text: str, name: str = "a.txt") -> Path:
    path = folder / "labels" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder / "labels"


def test_boxes_scores_and_outlines(tmp_path: Path) -> None:
    picture(tmp_path, "b.png")
    images = picture(tmp_path, "train/a.png")
    (tmp_path / "data.yaml").write_text("names:\n  0: cup\n  1: dog\n")
    labels = source(tmp_path, "1 0.5 0.5 0.2 0.5\n\n0 .5 .5 .2 .5 .75\n", "train/a.txt")
    source(tmp_path, "0 0 0 1 0 1 0.5\n", "b.txt")
    content = read_as("yolo", labels, images)
    assert content["categories"] == [{"id": 1, "name": "cup"}, {"id": 2, "name": "dog"}]
    assert objects_of(content) == [
        ("b.png", "cup", [0, 0, 50, 20]),
        ("train/a.png", "dog", [20, 10, 10, 20]),
        ("train/a.png", "cup", [20, 10, 10, 20]),
    ]
    outlined, _, scored = content["annotations"]
    assert outlined["segmentation"] == [[0, 0, 50, 0, 50, 20]]
    assert "segmentation" not in scored and scored["score"] == 0.75
    assert [image["height"] for image in content["images"]] == [40, 40]


def test_shares_are_of_the_turned_image(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (50, 40)).save(tmp_path / "images" / "a.jpg", exif=exif)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "classes.txt").write_text("cup\n")
    content = read_as("yolo", source(tmp_path, "0 0.5 0.5 0.5 0.5"), tmp_path / "images")
    assert objects_of(content) == [("a.jpg", "cup", [10, 12.5, 20, 25])]


@pytest.mark.parametrize(
    "text, what",
    [
        ("1 .5 .5 .2 .2", "class 1 is not 0 to 0"),
        ("0 20 10 10 20", "shares of the image"),
        ("0 .5 .5 .2", "got 3 numbers"),
        ("0 .5 .5 0 .2", "has no area"),
        ("0 .5 .5 nan .2", "shares of the image"),
        ("cup .5 .5 .2 .2", "expected a class number"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, what: str) -> None:
    images = picture(tmp_path, "a.png")
    names = tmp_path / "names.txt"
    names.write_text("cup\n")
    labels = source(tmp_path, f"0 .5 .5 .1 .1\n\n{text}\n")
    with pytest.raises(ValueError, match=what) as error:
        read_as("yolo", labels, images, classes=names)
    assert "a.txt', line 3: " in str(error.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    images = picture(tmp_path, "a.png")
    labels = source(tmp_path, "0 .5 .5 .1 .1")
    with pytest.raises(ValueError, match="give --classes FILE"):
        read_as("yolo", labels, images)
    (labels / "classes.txt").write_text("cup\n")
    source(tmp_path, "0 .5 .5 .1 .1", "z.txt")
    with pytest.raises(ValueError, match="z.txt' has no image of its name"):
        read_as("yolo", labels, images)
    (labels / "classes.txt").write_text("cup\ncup\n")
    with pytest.raises(ValueError, match="classes.txt' must differ"):
        read_as("yolo", labels, images)


def test_written_polygons_are_the_masks(tmp_path: Path) -> None:
    folder = write_masks(tmp_path, "yolo")
    assert yaml.safe_load((folder / "data.yaml").read_text()) == {"names": {0: "cup", 1: "dog"}}
    assert (folder / "labels" / "2.txt").read_text() == ""
    lines = (folder / "labels" / "1.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1", "0"]  # and no crowd
    parts, whole, box = (np.array(line.split()[1:], float) for line in lines)
    scale = np.array([64, 48])
    filled = two_parts()
    filled[14:28, 10:24] = True  # holes are lost
    assert iou(drawn((parts.reshape(-1, 2) * scale).ravel()), filled) > 0.95
    assert iou(drawn((whole.reshape(-1, 2) * scale).ravel()), ellipse(BOX)) > 0.95
    assert (box.reshape(-1, 2) * scale).round(3).tolist() == [[50, 2], [60, 2], [60, 10], [50, 10]]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = write_masks(tmp_path, "yolo")
    content = read_as("yolo", folder / "labels", tmp_path / "d" / "images")
    boxes = [box for _, _, box in objects_of(content)]
    assert np.allclose(boxes, [[2, 2, 50, 40], BOX, [50, 2, 10, 8]], atol=1)


def test_bridges_add_no_pixel() -> None:
    squares = [[x, y, x + 6, y, x + 6, y + 6, x, y + 6] for x, y in ((2, 2), (20, 30), (50, 5))]
    expected = np.zeros((48, 64), bool)
    for x, y in ((2, 2), (20, 30), (50, 5)):
        expected[y : y + 6, x : x + 6] = True
    polygon = joined([[float(v) for v in square] for square in squares])
    assert len(polygon) == 2 * (12 + 4)  # each bridge begins and ends at two points
    x, y = polygon.reshape(-1, 2).T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert area == expected.sum() == 3 * 36
    assert iou(drawn(polygon), expected) > 0.9  # pycocotools draws lines of half a pixel
