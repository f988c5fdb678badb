"""From formats to COCO and back: files in the way, reruns, names that lead elsewhere."""

import json
import logging
from pathlib import Path

import pytest
from annotating import ellipse, rle_of, write_data
from format_files import BOX, picture, read_as, write_masks
from pycocotools.coco import COCO

from seg_every_thing.annotation.formats.conversion import WRITERS, check_places, place_of, write_as

TABLE = "file_name,label,x,y,width,height\na.png,cup,1,2,10,20\n"


def test_reading_again_gives_the_same_file(tmp_path: Path) -> None:
    images = picture(tmp_path, "a.png")
    (tmp_path / "boxes.csv").write_text(TABLE)
    first = read_as("csv", tmp_path / "boxes.csv", images)
    assert read_as("csv", tmp_path / "boxes.csv", images) == first
    (tmp_path / "read.json").write_text('{"images": []}')
    with pytest.raises(ValueError, match="read.json' exists and holds something else"):
        read_as("csv", tmp_path / "boxes.csv", images)
    with pytest.raises(ValueError, match="none.csv' do not exist"):
        read_as("csv", tmp_path / "none.csv", images)


@pytest.mark.parametrize("format", ["yolo", "labelme", "label-studio", "cvat"])
def test_folders_are_replaced_only_if_ours(tmp_path: Path, format: str) -> None:
    folder = write_masks(tmp_path, format)
    source = tmp_path / "d" / "boxes.json"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_as(format, source, source.parent / "images")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "old.txt").touch()
    source.write_text(source.read_text().replace('"score": 0.75', '"score": 0.5'))
    write_as(format, source, source.parent / "images")
    assert not (folder / "old.txt").exists()
    (folder / ".seg_every_thing").unlink()
    with pytest.raises(ValueError, match="exists and was not made by --to"):
        check_places([format], source)


def test_files_of_labelme_follow_their_images(tmp_path: Path) -> None:
    folder = write_masks(tmp_path, "labelme")
    source, moved = tmp_path / "d" / "boxes.json", tmp_path / "moved" / "images"
    moved.parent.mkdir()
    (source.parent / "images").rename(moved)
    write_as("labelme", source, moved)
    place = json.loads((folder / "1.json").read_text())["imagePath"]
    assert (folder / place).resolve() == moved / "1.png"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (tmp_path / "link").symlink_to(moved)
    write_as("labelme", source, tmp_path / "link")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("format", ["yolo", "labelme", "cvat"])
def test_names_do_not_lead_out(tmp_path: Path, format: str) -> None:
    source = write_data(tmp_path / "d", [[{"bbox": BOX}]])
    source.write_text(source.read_text().replace('"1.png"', '"../../1.png"'))
    with pytest.raises(ValueError, match="leads out of its folder"):
        write_as(format, source, source.parent / "images")
    assert not place_of(format, source).exists()


def test_images_that_would_share_a_file(tmp_path: Path) -> None:
    source = write_data(tmp_path / "d", [[{"bbox": BOX}], []])
    source.write_text(source.read_text().replace('"2.png"', '"1.jpg"'))
    with pytest.raises(ValueError, match="two images would share .*second is '1.jpg'"):
        write_as("yolo", source, source.parent / "images")


def test_bad_objects_are_named(tmp_path: Path) -> None:
    bad = {"bbox": BOX, "segmentation": rle_of(ellipse(BOX, 40, 40))}
    source = write_data(tmp_path / "d", [[{"bbox": BOX}, bad]])
    for format in set(WRITERS) - {"label-studio-brush"}:
        with pytest.raises(ValueError, match="boxes.json', annotation 20: the RLE .* 40 x 40"):
            write_as(format, source, source.parent / "images")


@pytest.mark.parametrize(
    "format, said",
    [
        (
            "yolo",
            "2 masks, 1 objects that have a box alone; mean IoU of polygons with their masks 0.",
        ),
        ("yolo", "(holes are lost); 1 crowds left out"),
        ("cvat", "2 masks, 1 objects that have a box alone; 1 crowds kept"),
    ],
)
def test_what_is_lost_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, format: str, said: str
) -> None:
    logger = logging.getLogger("seg_every_thing.annotation.formats.conversion")
    logger.addHandler(caplog.handler)  # detectron2's loggers do not propagate
    logger.setLevel(logging.INFO)
    try:
        write_masks(tmp_path, format)
    finally:
        logger.removeHandler(caplog.handler)
    assert said in caplog.text


def test_cvat_counts_from_1(tmp_path: Path) -> None:
    path = write_masks(tmp_path, "cvat") / "annotations.json"
    content = json.loads(path.read_text())
    COCO(str(path))
    assert [c["id"] for c in content["categories"]] == [1, 2]
    assert [i["id"] for i in content["images"]] == [1, 2]
    written = content["annotations"]
    assert [a["id"] for a in written] == [1, 2, 3, 4]
    assert [a["attributes"]["original_id"] for a in written] == [10, 20, 30, 40]
    assert [a["category_id"] for a in written] == [1, 2, 1, 1]
    assert [a["iscrowd"] for a in written] == [0, 0, 0, 1]
    assert written[2]["segmentation"] == [] and written[2]["bbox"] == [50, 2, 10, 8]
    assert written[0]["score"] == 0.75
    given = json.loads((tmp_path / "d" / "boxes.json").read_text())["annotations"]
    assert written[0]["segmentation"] == given[0]["segmentation"]  # holes and all


def test_objects_of_image_ids_that_are_floats_are_written(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX, "image_id": 99.0, "category_id": 3.0}]])
    target = write_as("cvat", path, path.parent / "images")
    (found,) = json.loads((target / "annotations.json").read_text())["annotations"]
    assert (found["image_id"], found["category_id"], found["bbox"]) == (1, 1, BOX)
