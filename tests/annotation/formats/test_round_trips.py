"""What we write, read by the tools that it is for; each test runs where its package is there."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from annotating import ellipse
from format_files import BOX, iou, picture, read_as, two_parts, write_masks
from pycocotools.coco import COCO


def package(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed")


def test_pycocotools_draws_the_masks(tmp_path: Path) -> None:
    coco = COCO(str(write_masks(tmp_path, "cvat") / "annotations.json"))
    masks = [coco.annToMask(coco.anns[i]).astype(bool) for i in (1, 2)]
    assert (masks[0] == two_parts()).all() and (masks[1] == ellipse(BOX)).all()
    assert [coco.anns[i]["area"] for i in (1, 2)] == [mask.sum() for mask in masks]


def test_datumaro_gives_back_what_was_written(tmp_path: Path) -> None:
    """The reader of CVAT is a fork of it."""
    datumaro = package("datumaro")
    path = write_masks(tmp_path, "cvat") / "annotations.json"
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    shutil.copytree(tmp_path / "d" / "images", root / "images" / "default")
    shutil.copy(path, root / "annotations" / "instances_default.json")
    found = datumaro.Dataset.import_from(str(root), "coco_instances")
    (item,) = (item for item in found if item.id == "1")
    masks = {a.id: a for a in item.annotations if a.type.name == "mask"}
    boxes = {a.id: a for a in item.annotations if a.type.name == "bbox"}
    assert (masks[1].image.astype(bool) == two_parts()).all()
    assert (masks[2].image.astype(bool) == ellipse(BOX)).all()
    assert sorted(boxes) == [1, 2, 3, 4] and sorted(masks) == [1, 2, 4]
    assert [a.attributes["is_crowd"] for _, a in sorted(masks.items())] == [False, False, True]

    found.export(str(tmp_path / "back"), "coco_instances", segmentation_mode="mask")
    (exported,) = (tmp_path / "back").rglob("*.json")
    before, after = COCO(str(path)), COCO(str(exported))
    assert sorted(before.anns) == sorted(after.anns) and before.cats == after.cats
    names = [{i: image["file_name"] for i, image in x.imgs.items()} for x in (before, after)]
    assert names[0] == names[1]
    for own_id, given in before.anns.items():
        returned = after.anns[own_id]
        for key in ("bbox", "category_id", "image_id"):
            assert given[key] == returned[key]
        assert given["attributes"].items() <= returned["attributes"].items()
        if given["segmentation"]:
            assert (before.annToMask(given) == after.annToMask(returned)).all()


def test_masks_that_cvat_calls_crowds_come_back(tmp_path: Path) -> None:
    """Its exports, made by datumaro, have iscrowd 1 on every RLE: --crowd-rle-is-mask."""
    datumaro = package("datumaro")
    from seg_every_thing.annotation.index_building import with_mask_of_crowd

    item = datumaro.DatasetItem(
        "a",
        media=datumaro.components.media.Image.from_numpy(np.zeros((48, 64, 3), np.uint8)),
        annotations=[datumaro.Mask(two_parts(), label=0, id=1, group=1)],
    )
    made = datumaro.Dataset.from_iterable([item], categories=["cup"])
    made.export(str(tmp_path / "cvat"), "coco_instances", segmentation_mode="mask")
    (exported,) = (tmp_path / "cvat").rglob("*.json")
    (annotation,) = json.loads(exported.read_text())["annotations"]
    assert annotation["iscrowd"] == 1
    assert with_mask_of_crowd(annotation)["iscrowd"] == 0


def test_supervision_reads_coco_and_yolo(tmp_path: Path) -> None:
    supervision = package("supervision")
    path = write_masks(tmp_path, "cvat") / "annotations.json"
    images = str(tmp_path / "d" / "images")
    read = supervision.DetectionDataset
    found = read.from_coco(images, str(path), force_masks=True)
    objects = {Path(name).name: detections for name, _, detections in found}["1.png"]
    assert found.classes == ["cup", "dog"] and objects.class_id.tolist() == [0, 1, 0, 0]
    assert (objects.mask[0] == two_parts()).all() and (objects.mask[1] == ellipse(BOX)).all()

    folder = write_masks(tmp_path / "y", "yolo")
    names = str(folder / "data.yaml")
    found = read.from_yolo(images, str(folder / "labels"), names, force_masks=True)
    objects = {Path(name).name: detections for name, _, detections in found}["1.png"]
    assert objects.class_id.tolist() == [0, 1, 0]
    assert iou(objects.mask[1].astype(bool), ellipse(BOX)) > 0.9  # it draws the outline, too
    assert np.allclose(objects.xyxy[2], [50, 2, 60, 10], atol=0.01)


def test_label_studio_decodes_our_brush(tmp_path: Path) -> None:
    brush = pytest.importorskip(
        "label_studio_sdk.converter.brush", reason="label-studio-sdk is not installed"
    )
    path = write_masks(tmp_path, "label-studio-brush") / "tasks.json"
    first, _ = json.loads(path.read_text())
    regions = first["predictions"][0]["result"]
    assert [r["type"] for r in regions] == ["brushlabels", "brushlabels", "rectanglelabels"]
    for region, mask in zip(regions, (two_parts(), ellipse(BOX))):
        alpha = brush.decode_rle(region["value"]["rle"]).reshape(48, 64, 4)[:, :, 3]
        assert ((alpha > 0) == mask).all()  # holes and all

    # An export with that answer is read back to the same mask.
    images = picture(tmp_path / "e", "1.png", 48, 64)
    task = {"id": 1, "data": first["data"], "annotations": [{"result": regions}]}
    (tmp_path / "e" / "export.json").write_text(json.dumps([task]))
    content = read_as("label-studio", tmp_path / "e" / "export.json", images)
    decoded = mask_util.decode(content["annotations"][0]["segmentation"])
    assert (decoded.astype(bool) == two_parts()).all()


def test_fiftyone_loads_the_masks(tmp_path: Path, monkeypatch: Any) -> None:
    """Its reader, without its database, which needs a download."""
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    reader = package("fiftyone.utils.coco")
    path = write_masks(tmp_path, "cvat") / "annotations.json"
    _, names, _, _, objects = reader.load_coco_detection_annotations(str(path))
    assert names == {1: "cup", 2: "dog"}
    found = [x.to_detection((64, 48), names, load_segmentation=True) for x in objects[1]]
    assert [x.label for x in found] == ["cup", "dog", "cup", "cup"]
    assert (found[0].mask.astype(bool) == two_parts()[2:42, 2:52]).all()  # it cuts them to boxes
    assert (found[1].mask.astype(bool) == ellipse(BOX)[8:26, 10:34]).all()
    assert found[2].mask is None
    assert np.allclose(np.array(found[2].bounding_box) * [64, 48, 64, 48], [50, 2, 10, 8])
