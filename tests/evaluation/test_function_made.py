"""Test sets that a function makes: detectron2 converts them, each time as they are then."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import numpy as np
import pycocotools.mask as mask_util
import pytest
from annotation_files import polygon
from conftest import unregister
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from evaluating import instances_of, run

from seg_every_thing import PartialCOCOEvaluator
from seg_every_thing.evaluation.coco import ABSENT

NAME = "test_function_made"
SIZE = 400
BOX = [20, 30, 300, 300]
Record = Dict[str, Any]


def record_with(annotations: List[Dict[str, Any]]) -> Record:
    image = {"file_name": "1.png", "image_id": 1, "height": SIZE, "width": SIZE}
    return {**image, "annotations": annotations}


def an_object(mode: BoxMode = BoxMode.XYWH_ABS, **more: Any) -> Dict[str, Any]:
    x, y, w, h = BOX
    bbox = BOX if mode == BoxMode.XYWH_ABS else [x, y, x + w, y + h]
    return {"bbox": list(bbox), "bbox_mode": mode, "category_id": 0, **more}


@pytest.fixture
def data() -> Iterator[List[Record]]:
    """What the function returns, each time the same lists; tests change it."""
    records: List[Record] = []
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(thing_classes=["cup", "dog"], evaluator_type="coco")
    yield records
    unregister(NAME)


def evaluator_of(folder: Path, tasks: Any = ("bbox", "segm"), **more: Any) -> PartialCOCOEvaluator:
    return PartialCOCOEvaluator(NAME, tasks=tasks, output_dir=str(folder), **more)


def metrics_of(folder: Path, category: int = 0, **more: Any) -> Dict[str, Dict[str, float]]:
    """With one result, right in box and mask."""
    mask = mask_util.merge(mask_util.frPyObjects(polygon(BOX), SIZE, SIZE))
    found = {"bbox": BOX, "segmentation": mask, "score": 0.9, "category_id": category}
    return run(evaluator_of(folder, **more), {1: instances_of([found], (SIZE, SIZE))})


# --- objects with a box alone -------------------------------------------------------------------


@pytest.mark.parametrize("mode", [BoxMode.XYWH_ABS, BoxMode.XYXY_ABS])
@pytest.mark.parametrize("tasks", [("bbox",), ("bbox", "segm")])
@pytest.mark.parametrize(
    "mask",
    [{}, *({"segmentation": none} for none in (None, [], {}))],
    ids=["absent", "None", "[]", "{}"],
)
def test_an_object_without_a_mask_is_as_large_as_its_box(
    data: List[Record], tmp_path: Path, mask: Dict[str, Any], tasks: Any, mode: BoxMode
) -> None:
    data.append(record_with([an_object(mode, **mask)]))
    before = copy.deepcopy(data)
    metrics = metrics_of(tmp_path, tasks=tasks)
    assert metrics["bbox"]["APl"] == pytest.approx(100)
    assert metrics["bbox"]["APs"] == metrics["bbox"]["APm"] == ABSENT
    assert metrics.get("segm", {"AP": ABSENT})["AP"] == ABSENT
    assert data == before


def test_so_is_one_whose_mask_is_set_aside(data: List[Record], tmp_path: Path) -> None:
    data.append(record_with([an_object(segmentation=[[float("nan")] * 6])]))
    metrics = metrics_of(tmp_path, on_bad_annotation="set_aside")
    assert metrics["bbox"]["APl"] == pytest.approx(100) and metrics["bbox"]["APs"] == ABSENT


@pytest.mark.parametrize("mask", [[[1.0, 2, 3]], [[float("nan")] * 6], "x", {"counts": 5}])
def test_masks_that_are_not_evaluated_may_be_anything(
    data: List[Record], tmp_path: Path, mask: Any
) -> None:
    data.append(record_with([an_object(segmentation=mask)]))
    assert metrics_of(tmp_path, tasks=("bbox",))["bbox"]["APl"] == pytest.approx(100)


def as_counts() -> Dict[str, Any]:
    return {
        "size": [SIZE, SIZE],
        "counts": [20 * SIZE + 30, *[300, 100] * 299, 300, 80 * SIZE + 70],
    }


def as_rle() -> Dict[str, Any]:
    return mask_util.frPyObjects(as_counts(), SIZE, SIZE)


@pytest.mark.parametrize(
    "mask",
    [
        lambda: polygon(BOX),
        lambda: [np.array(polygon(BOX)[0])],
        as_counts,
        as_rle,
        lambda: {**as_rle(), "size": list(np.array([SIZE, SIZE]))},
    ],
    ids=["polygon", "array", "counts", "bytes", "numpy size"],
)
def test_masks_in_every_form_that_training_takes(
    data: List[Record], tmp_path: Path, mask: Callable[[], Any]
) -> None:
    data.append(record_with([an_object(segmentation=mask())]))
    before = copy.deepcopy(data)
    for folder in ("a", "b"):
        for metrics in metrics_of(tmp_path / folder).values():
            assert metrics["AP"] == metrics["APl"] == pytest.approx(100)
    assert str(data) == str(before)


# --- converted anew -----------------------------------------------------------------------------


@pytest.mark.parametrize("evaluator_type", [None, "coco"])
def test_evaluating_again_after_the_data_changed(
    data: List[Record], tmp_path: Path, evaluator_type: Optional[str]
) -> None:
    if evaluator_type is None:
        del MetadataCatalog.get(NAME).evaluator_type
    data.append(record_with([an_object(segmentation=polygon(BOX))]))
    assert metrics_of(tmp_path)["segm"]["AP-cup"] == pytest.approx(100)
    data[0]["annotations"][0]["category_id"] = 1
    metrics = metrics_of(tmp_path)["segm"]
    assert metrics["AP-dog"] == 0 and "AP-cup" not in metrics
    assert metrics_of(tmp_path, category=1)["segm"]["AP-dog"] == pytest.approx(100)


def test_another_folder_after_the_first_is_gone(data: List[Record], tmp_path: Path) -> None:
    data.append(record_with([an_object(segmentation=polygon(BOX))]))
    first = metrics_of(tmp_path / "a")
    shutil.rmtree(tmp_path / "a")
    assert metrics_of(tmp_path / "b") == first
    assert not (tmp_path / "a").exists() and list((tmp_path / "b").glob("*_coco_format.json"))


def test_without_an_output_folder_nothing_is_left(data: List[Record], tmp_path: Path) -> None:
    data.append(record_with([an_object(segmentation=polygon(BOX))]))
    truth = PartialCOCOEvaluator(NAME)._coco_api
    assert [a["bbox"] for a in truth.anns.values()] == [BOX]
    assert not MetadataCatalog.get(NAME).get("json_file")


def test_the_data_set_stays_one_that_a_function_makes(data: List[Record], tmp_path: Path) -> None:
    data.append(record_with([an_object(bbox=None)]))
    with pytest.raises(ValueError, match="object 0 of image '1.png'") as e:
        evaluator_of(tmp_path)
    assert "_coco_format" not in str(e.value)  # which the user did not write
    assert not MetadataCatalog.get(NAME).get("json_file")
    data[0]["annotations"] = [an_object(segmentation=polygon(BOX))]
    assert metrics_of(tmp_path)["segm"]["AP"] == pytest.approx(100)
    assert not MetadataCatalog.get(NAME).get("json_file")


def test_what_an_earlier_evaluation_left_is_not_judged(data: List[Record], tmp_path: Path) -> None:
    (tmp_path / f"{NAME}_coco_format.json").write_text(json.dumps({"images": [], "categories": []}))
    data.append(record_with([an_object(segmentation=polygon(BOX))]))
    assert metrics_of(tmp_path)["segm"]["AP"] == pytest.approx(100)


def test_keypoints_do_not_move(data: List[Record], tmp_path: Path) -> None:
    """detectron2's converter takes half a pixel off, of the very lists that it gets."""
    MetadataCatalog.get(NAME).keypoint_names = ["middle"]
    data.append(record_with([an_object(keypoints=[14.5, 14.5, 2])]))
    for _ in range(2):
        truth = evaluator_of(tmp_path, tasks=("bbox", "keypoints"))._coco_api
        assert truth.anns[1]["keypoints"] == [14, 14, 2]
    assert data[0]["annotations"][0]["keypoints"] == [14.5, 14.5, 2]
