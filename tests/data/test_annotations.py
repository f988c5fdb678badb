"""Objects of data sets that are no COCO files go through the same check."""

import copy
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
from annotation_files import BOXES, config_of, polygon, rows_of
from conftest import Untouchable, unregister
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from seg_every_thing.data.annotations import checked_dicts
from seg_every_thing.data.data_report import TRAINING, DataReport
from seg_every_thing.data.partial import load_training_dicts

NAMES = ["cup", "dog", "kite"]


def good_records() -> List[Dict[str, Any]]:
    """Two objects, one in each of detectron2's box modes."""
    x, y, w, h = BOXES[1]
    objects = [
        {"bbox": list(BOXES[0]), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0},
        {"bbox": [x, y, x + w, y + h], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 2},
    ]
    for annotation, box in zip(objects, BOXES):
        annotation["segmentation"] = polygon(box)
    record = {"file_name": "a.png", "image_id": 1, "height": 80, "width": 96}
    return [{**record, "annotations": objects}, {**record, "image_id": 2, "annotations": []}]


def check(records: List[Dict[str, Any]], split: str = "all") -> Any:
    before = copy.deepcopy(records)
    report = DataReport("x", TRAINING)
    checked = checked_dicts(records, report, split, NAMES)
    assert str(records) == str(before)  # what a function returned may be returned again
    return checked, report


def with_object(i: int, **changes: Any) -> List[Dict[str, Any]]:
    records = good_records()
    records[0]["annotations"][i].update(changes)
    return records


def test_objects_in_order_stay_the_objects_that_they_are() -> None:
    records = good_records()
    checked, report = check(records)
    assert rows_of(report) == {"used": 2} and not report.unusable
    for mine, theirs in zip(checked[0]["annotations"], records[0]["annotations"]):
        assert mine is theirs


@pytest.mark.parametrize("mode", ["XYWH_ABS", "XYXY_ABS"])
@pytest.mark.parametrize("bbox", [None, "x", [1, 2, 3], [float("nan"), 2, 30, 40], [30, 40, -1, 4]])
def test_unusable_boxes(mode: str, bbox: Any) -> None:
    checked, report = check(with_object(0, bbox=bbox, bbox_mode=BoxMode[mode]))
    assert rows_of(report) == {"used": 1, "dropped that are unusable": 1}
    assert len(checked[0]["annotations"]) == 1
    with pytest.raises(ValueError, match="object 0 of image 'a.png': its? "):
        report.check("error")
    report.check("set_aside")


def test_boxes_are_cut_in_both_modes() -> None:
    expected = {"bbox": [0, 6, 24, 24], "bbox_mode": BoxMode.XYWH_ABS}
    for mode, bbox in (("XYWH_ABS", [-20, 6, 44, 24]), ("XYXY_ABS", [-20, 6, 24, 30])):
        checked, report = check(with_object(0, bbox=bbox, bbox_mode=BoxMode[mode]))
        assert rows_of(report) == {"clipped with a box cut to the image": 1, "used": 1}
        found = checked[0]["annotations"][0]
        assert {k: found[k] for k in expected} == expected


def test_numpy_is_taken() -> None:
    records = with_object(0, bbox=np.array(BOXES[0], float), category_id=np.int64(0))
    records[0]["annotations"][0]["segmentation"] = [np.array(polygon(BOXES[0])[0])]
    assert rows_of(check(records)[1]) == {"used": 2}


@pytest.mark.parametrize("changes", [{"bbox_mode": None}, {"bbox_mode": BoxMode.XYWHA_ABS}])
def test_other_box_modes_are_refused(changes: Dict[str, Any]) -> None:
    _, report = check(with_object(0, **changes))
    with pytest.raises(ValueError, match="neither XYXY_ABS nor XYWH_ABS"):
        report.check("error")


@pytest.mark.parametrize("entry", [None, 5, "x", []])
def test_objects_that_are_none(entry: Any) -> None:
    records = good_records()
    records[0]["annotations"].append(entry)
    checked, report = check(records)
    assert rows_of(report) == {"used": 2, "dropped that are unusable": 1}
    assert len(checked[0]["annotations"]) == 2


@pytest.mark.parametrize("category", [3, -1, "cup", None, 1.0, True])
def test_unknown_classes(category: Any) -> None:
    _, report = check(with_object(0, category_id=category))
    assert rows_of(report) == {"used": 1, "dropped of an unknown category": 1}


def test_unusable_masks_leave_the_box() -> None:
    checked, report = check(with_object(0, segmentation=[[1.0, 2, float("nan"), 4, 5, 6]]))
    assert rows_of(report) == {"used": 1, "box-only with an unusable mask": 1}
    assert checked[0]["annotations"][0]["segmentation"] == []


def test_masks_outside_set_a_are_not_read(tmp_path: Any) -> None:
    (tmp_path / "a.txt").write_text("kite")
    records = with_object(0, segmentation=Untouchable())
    report = DataReport("x", TRAINING)
    for split, row in ((str(tmp_path / "a.txt"), {"used": 1}), ("", {})):
        if split == "":
            records[0]["annotations"][1]["segmentation"] = Untouchable()
        report = DataReport("x", TRAINING)
        checked_dicts(records, report, split, NAMES)
        withheld = {"box-only with a mask that may not be used": 2 - sum(row.values())}
        assert rows_of(report) == {**row, **withheld}


def test_the_size_of_images_may_be_unknown() -> None:
    records = with_object(0, bbox=[-20, 6, 44, 24])
    del records[0]["height"]
    _, report = check(records)
    assert rows_of(report)["used"] == 1  # the mask is half as wide as the box, which is not cut


def test_crowds_and_keypoints_without_a_value() -> None:
    checked, report = check(with_object(0, iscrowd=None, keypoints=None))
    assert rows_of(report) == {"used": 2} and report.filled_in == {"iscrowd": 1, "keypoints": 1}
    assert not {"iscrowd", "keypoints"} & checked[0]["annotations"][0].keys()


# --- loaded by a config -------------------------------------------------------------------------


@pytest.fixture
def registered(request: Any) -> Any:
    names = []

    def register(load: Callable[[], Any]) -> str:
        name = f"made_by_a_function_{request.node.name}_{len(names)}"
        DatasetCatalog.register(name, load)
        MetadataCatalog.get(name).thing_classes = NAMES
        names.append(name)
        return name

    yield register
    for name in names:
        unregister(name)


def test_a_function_that_makes_nonsense_is_refused(registered: Any) -> None:
    name = registered(lambda: with_object(1, bbox=[float("nan")] * 4))
    with pytest.raises(ValueError) as e:
        load_training_dicts(config_of(name))
    assert name in str(e.value) and "object 1 of image 'a.png'" in str(e.value)
    cfg = config_of(name, ON_BAD_ANNOTATION="set_aside")
    reports: List[DataReport] = []
    dicts = load_training_dicts(cfg, reports)
    assert [len(d["annotations"]) for d in dicts] == [1, 0]
    assert rows_of(reports[0]) == {"used": 1, "dropped that are unusable": 1}


def test_what_a_function_adds_to_a_file_is_checked(registered: Any, mixed_dataset: str) -> None:
    def load() -> List[Dict[str, Any]]:
        dicts = DatasetCatalog.get(mixed_dataset)
        dicts[0]["annotations"][0]["bbox"] = [1, 2, 3]
        return dicts

    with pytest.raises(ValueError, match="not 4 numbers"):
        load_training_dicts(config_of(registered(load)))
