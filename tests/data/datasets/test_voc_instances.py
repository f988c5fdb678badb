"""Pascal VOC's boxes and masks: which mask belongs to which box, and what is said of the rest."""

import logging
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import unregister
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode
from helpers import CONFIGS
from PIL import Image
from tiramisu_helpers import palette_png, real_data

from seg_every_thing.config import load_config
from seg_every_thing.data.datasets.voc import VOC_VOID, voc_palette
from seg_every_thing.data.datasets.voc_instances import (
    VOC_INSTANCE_CLASSES,
    load_voc_instances,
    match_masks,
    register_voc_instances,
)
from seg_every_thing.data.partial import load_training_dicts
from seg_every_thing.data.supervision import count_supervision

SIZE = (30, 40)
CAT, DOG = VOC_INSTANCE_CLASSES.index("cat"), VOC_INSTANCE_CLASSES.index("dog")


@pytest.fixture(autouse=True)
def clean_catalog() -> Iterator[None]:
    yield
    for name in DatasetCatalog.list():
        if name.startswith(("voc_sample_", "voc_2012_instances_")):
            unregister(name)


def xml_of(objects: Sequence[Dict[str, Any]], size: Sequence[int] = SIZE) -> str:
    items = ""
    for item in objects:
        sides = zip(("xmin", "ymin", "xmax", "ymax"), item["box"])
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
        items += f"<object><name>{item['name']}</name><part><name>head</name></part>"
        if "difficult" in item:
            items += f"<difficult>{item['difficult']}</difficult>"
        items += f"<bndbox>{box}</bndbox></object>"
    owner = "<owner><name>cat</name></owner>"
    height, width = size
    return (
        f"<annotation>{owner}<size><width>{width}</width><height>{height}</height></size>"
        f"{items}</annotation>"
    )


def write_image(
    folder: Path, image_id: str, objects: Sequence[Dict[str, Any]], xml: Optional[str] = None
) -> None:
    """Each object has the "mask" x0, y0, x1, y1, or None, whose first column is void."""
    object_map, class_map = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
    for i, item in enumerate(objects):
        if item["mask"] is not None:
            x0, y0, x1, y1 = item["mask"]
            for picture, value in (
                (object_map, item.get("index", i + 1)),
                (class_map, 1 + VOC_INSTANCE_CLASSES.index(item["name"])),
            ):
                picture[y0:y1, x0:x1] = value
                picture[y0:y1, x0] = VOC_VOID
    palette_png(folder / "SegmentationObject" / f"{image_id}.png", object_map, voc_palette())
    palette_png(folder / "SegmentationClass" / f"{image_id}.png", class_map, voc_palette())
    for kind in ("JPEGImages", "Annotations"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1]).save(folder / "JPEGImages" / f"{image_id}.jpg")
    (folder / "Annotations" / f"{image_id}.xml").write_text(xml or xml_of(objects))
    listed = folder / "ImageSets" / "Segmentation" / "train.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    with listed.open("a") as f:
        f.write(f"{image_id}\n")


# Boxes count pixels from 1, and their last pixel belongs to them.
OBJECTS: List[Dict[str, Any]] = [
    {"name": "cat", "box": (21, 1, 40, 30), "mask": (20, 0, 40, 30), "index": 2},
    {"name": "dog", "box": (1, 1, 10, 10), "mask": (0, 0, 10, 10), "index": 1, "difficult": 1},
    {"name": "dog", "box": (1, 16, 10, 30), "mask": None, "difficult": 0},
]


def test_boxes_masks_and_what_has_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "VOC2012"
    write_image(folder, "2007_000033", OBJECTS)
    write_image(folder, "2008_000002", [])
    with caplog.at_level(logging.INFO):
        first, second = load_voc_instances(folder, "train")
    assert first["file_name"] == str(folder / "JPEGImages" / "2007_000033.jpg")
    assert (first["image_id"], first["height"], first["width"]) == (2007000033, *SIZE)
    cat, difficult, box_only = first["annotations"]
    assert cat["bbox"] == [20, 0, 40, 30] and cat["bbox_mode"] == BoxMode.XYXY_ABS
    assert (cat["category_id"], cat["iscrowd"]) == (CAT, 0)
    expected = np.zeros(SIZE, bool)
    expected[:, 21:40] = True  # without the void
    assert (mask_util.decode(cat["segmentation"]) == expected).all()
    assert (difficult["category_id"], difficult["iscrowd"]) == (DOG, 1)
    assert mask_util.area(difficult["segmentation"]) == 90
    assert box_only["bbox"] == [0, 15, 10, 30] and "segmentation" not in box_only
    assert second["annotations"] == []
    said = "2 images; 1 objects with a mask, 1 with a box alone, 1 difficult ones that do not count"
    assert f"{said}; 0 masks fit no box" in caplog.text


def test_records_are_the_callers_own(tmp_path: Path) -> None:
    """They are kept, and detectron2 changes what it gets."""
    write_image(tmp_path / "VOC2012", "2007_000033", OBJECTS)
    load_voc_instances(tmp_path / "VOC2012", "train")[0]["annotations"].clear()
    assert len(load_voc_instances(tmp_path / "VOC2012", "train")[0]["annotations"]) == 3


@pytest.mark.parametrize(
    "boxes, classes, expected",
    [
        ([(0, 0, 10, 10), (20, 0, 30, 10)], [CAT, CAT], [7, 3]),
        ([(20, 0, 30, 10), (0, 0, 10, 10)], [CAT, CAT], [3, 7]),  # whatever their order
        ([(0, 0, 10, 10), (20, 0, 30, 10)], [CAT, DOG], [7, None]),  # of another class
        ([(0, 0, 10, 12), (0, 0, 10, 10)], [CAT, CAT], [None, 7]),  # the nearer one
        ([(0, 0, 30, 20)], [CAT], [None]),  # IoU 1/6 with either
        ([(0, 0, 22, 20)], [CAT], [7]),  # 100 / 440 with the left one
        ([], [], []),
    ],
)
def test_matching(boxes: Any, classes: Any, expected: Any) -> None:
    object_map, class_map = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.uint8)
    object_map[:10, :10], object_map[:10, 20:] = 7, 3
    class_map[object_map > 0] = CAT + 1
    assert match_masks(object_map, class_map, boxes, classes) == expected
    nothing = np.zeros((20, 30), np.uint8)
    assert match_masks(nothing, nothing, boxes, classes) == [None] * len(boxes)


def test_masks_that_fit_no_box_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_image(tmp_path / "VOC2012", "2007_000033", OBJECTS, xml=xml_of(OBJECTS[1:]))
    with caplog.at_level(logging.INFO):
        load_voc_instances(tmp_path / "VOC2012", "train", "mine")
    assert "mine: 1 images; 0 objects with a mask" in caplog.text
    assert "1 masks fit no box" in caplog.text


def test_registered_data_sets(tmp_path: Path) -> None:
    register_voc_instances(tmp_path / "elsewhere")
    write_image(tmp_path / "VOCdevkit" / "VOC2012", "2007_000033", OBJECTS)
    register_voc_instances(tmp_path)  # replaces the first registration
    (record,) = DatasetCatalog.get("voc_2012_instances_train")
    assert len(record["annotations"]) == 3
    for name in ("voc_2012_instances_val", "voc_sample_train", "voc_sample_val"):
        metadata = MetadataCatalog.get(name)
        assert metadata.thing_classes == list(VOC_INSTANCE_CLASSES)
        assert metadata.evaluator_type == "coco"
    assert VOC_INSTANCE_CLASSES[0] == "aeroplane" and len(VOC_INSTANCE_CLASSES) == 20
    assert list(VOC_INSTANCE_CLASSES) == sorted(VOC_INSTANCE_CLASSES)
    with pytest.raises(FileNotFoundError, match="voc_2012_instances_val.*val.txt|val.txt.*"):
        DatasetCatalog.get("voc_2012_instances_val")


def test_cocos_evaluator_takes_it(tmp_path: Path) -> None:
    write_image(tmp_path / "VOC2012", "2007_000033", OBJECTS)
    register_voc_instances(tmp_path)
    evaluator = COCOEvaluator("voc_2012_instances_train", output_dir=str(tmp_path / "out"))
    truth = evaluator._coco_api
    assert truth.getImgIds() == [2007000033]
    assert [a["iscrowd"] for a in truth.dataset["annotations"]] == [0, 1, 0]


def test_a_config_registers_what_it_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    base = str(CONFIGS / "shapes" / "Base-Shapes-RCNN-FPN.yaml")
    test = ["DATASETS.TEST", "('voc_2012_instances_val',)"]
    load_config(base, ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"])
    assert "voc_sample_val" not in DatasetCatalog.list()
    load_config(base, ["DATASETS.TRAIN", "('voc_sample_train',)", *test])
    assert MetadataCatalog.get("voc_sample_train").json_file == str(
        tmp_path / "voc_sample" / "instances_train.json"
    )
    DatasetCatalog.remove("voc_sample_train")
    DatasetCatalog.register("voc_sample_train", lambda: ["the user's own"])
    load_config(base, ["DATASETS.TRAIN", "('voc_sample_train',)", *test])
    assert DatasetCatalog.get("voc_sample_train") == ["the user's own"]


# --- broken files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "xml, said",
    [
        ("<annotation>", "no element found"),
        (xml_of([{"name": "unicorn", "box": (1, 1, 9, 9)}]), "'unicorn' is none of VOC's 20"),
        (xml_of([{"name": "cat", "box": (1, 1, 9)}]), "<bndbox><ymax> is missing"),
        (xml_of([{"name": "cat", "box": (1, 1, 9, "x")}]), "could not convert"),
        ("<annotation><size><width>4</width></size></annotation>", "<size><height> is missing"),
    ],
)
def test_broken_annotations_are_named(tmp_path: Path, xml: str, said: str) -> None:
    write_image(tmp_path / "VOC2012", "2007_000033", [], xml=xml)
    with pytest.raises(ValueError, match="cannot read the VOC annotation") as e:
        load_voc_instances(tmp_path / "VOC2012", "train")
    assert said in str(e.value) and "2007_000033.xml" in str(e.value)


def test_pictures_of_another_size(tmp_path: Path) -> None:
    write_image(tmp_path / "VOC2012", "2007_000033", [], xml=xml_of([], (40, 30)))
    with pytest.raises(ValueError, match="size 30 x 40.*says 40 x 30") as e:
        load_voc_instances(tmp_path / "VOC2012", "train")
    assert "SegmentationClass" in str(e.value)


@pytest.mark.parametrize(
    "kind", ["JPEGImages", "Annotations", "SegmentationClass", "SegmentationObject"]
)
def test_missing_files_are_named(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "VOC2012"
    write_image(folder, "2007_000033", [])
    (missing,) = (folder / kind).iterdir()
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"'mine' is incomplete.*{missing.name}"):
        load_voc_instances(folder, "train", "mine")
    (folder / kind).rmdir()
    with pytest.raises(FileNotFoundError, match=f"{kind}.*DETECTRON2_DATASETS"):
        load_voc_instances(folder, "train", "mine")


# --- real photographs ---------------------------------------------------------------------------


def test_real_voc() -> None:
    """In VOC the number of an object in the picture is its place in the list: all are found so."""
    root = real_data("VOC2007", "SegmentationObject")
    records = load_voc_instances(root / "VOC2007", "trainval")
    assert len(records) == 44
    objects = [a for r in records for a in r["annotations"]]
    assert len(objects) == 115 and all(a.get("segmentation") for a in objects)
    assert sum(a["iscrowd"] for a in objects) == 21
    for record in records:
        name = f"{record['image_id']:06d}.png"
        with Image.open(root / "VOC2007" / "SegmentationObject" / name) as picture:
            owner = np.array(picture)
        for i, a in enumerate(record["annotations"], start=1):
            assert (mask_util.decode(a["segmentation"]) == (owner == i)).all()


def test_real_voc_sample(tmp_path: Path) -> None:
    real_data("voc_sample", "instances_val.json")
    base = str(CONFIGS / "shapes" / "Base-Shapes-RCNN-FPN.yaml")
    opts = ["DATASETS.TRAIN", "('voc_sample_train',)", "DATASETS.TEST", "('voc_sample_val',)"]
    cfg = load_config(base, [*opts, "DATASETS.MASK_CLASSES", "voc_even"])
    assert len(DatasetCatalog.get("voc_sample_val")) == 200
    counts = count_supervision(load_training_dicts(cfg), None)
    assert counts["mask_objects"] == 1672 and counts["box_only_objects"] == 479
    assert counts["crowd_objects"] == 269
