"""The log tells at the start what teaches masks, which classes lack them, and what cannot train."""

import logging
from pathlib import Path
from typing import Any, Dict, List

import pytest
from conftest import MakeDataset, Untouchable, box_polygon
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog

from seg_every_thing import add_seg_every_thing_config
from seg_every_thing.data.partial import load_training_dicts
from seg_every_thing.data.supervision import count_supervision, log_supervision


def config_of(dataset: str, *opts: Any) -> CfgNode:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.merge_from_list(["MODEL.MASK_ON", True, "DATASETS.TRAIN", (dataset,), *opts])
    return cfg


def object_of(category: int, with_mask: bool = True, **more: Any) -> Dict[str, Any]:
    box = [10, 10, 20, 20]
    mask = {"segmentation": box_polygon(box)} if with_mask else {}
    return {"bbox": box, "category_id": category, "iscrowd": 0, **mask, **more}


def test_counts_by_hand(mixed_dataset: str) -> None:
    dicts = DatasetCatalog.get(mixed_dataset)
    # Image 1: cup polygon, dog RLE, kite RLE, cup none, dog none, kite crowd.  Image 2: kite crowd.
    # Image 4: dog none, cup polygon.
    assert count_supervision(dicts, None) == {
        "images": 4,
        "mask_objects": 4,
        "mask_classes": 3,
        "box_only_objects": 3,
        "withheld_objects": 0,
        "crowd_objects": 2,
    }
    assert count_supervision(dicts, [0, 1]) == {
        "images": 4,
        "mask_objects": 3,
        "mask_classes": 2,
        "box_only_objects": 4,
        "withheld_objects": 1,
        "crowd_objects": 2,
    }


def test_counts_are_there_even_when_zero() -> None:
    keys = "images mask_objects mask_classes box_only_objects withheld_objects crowd_objects"
    assert count_supervision([], None) == dict.fromkeys(keys.split(), 0)


def test_counting_reads_no_mask_outside_set_a() -> None:
    annotation = {"category_id": 1, "bbox": [0, 0, 1, 1], "segmentation": Untouchable()}
    counts = count_supervision([{"annotations": [annotation]}], [0])
    assert counts["box_only_objects"] == counts["withheld_objects"] == 1


def test_report_at_start(
    mixed_dataset: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text("cup\ndog")
    cfg = config_of(mixed_dataset)
    cfg.DATASETS.MASK_CLASSES = str(tmp_path / "a.txt")
    with caplog.at_level(logging.INFO, "seg_every_thing"):
        load_training_dicts(cfg)
    assert (
        "2 images; 3 objects of 2 classes give masks; 4 objects are box-only "
        "(1 of them have a mask that is not read); 1 crowd objects unused"
    ) in caplog.text
    assert "learn nothing" not in caplog.text


def test_report_warns_when_there_is_no_mask_at_all(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "seg_every_thing"):
        log_supervision([{"annotations": [{"category_id": 0}]}], None, "all")
    assert "No object gives a mask" in caplog.text


def test_boxes_that_teach_are_no_reason_to_warn(
    mixed_dataset: str, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config_of(mixed_dataset)
    cfg.DATASETS.MASK_CLASSES = "none"
    for key, warns in ((None, True), ("BOX_LOSS", False)):
        if key:
            cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.ENABLED = True
        caplog.clear()
        load_training_dicts(cfg)
        assert ("learn nothing" in caplog.text) == warns


def test_no_report_without_masks(mixed_dataset: str, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config_of(mixed_dataset)
    cfg.MODEL.MASK_ON = False
    with caplog.at_level(logging.INFO, "seg_every_thing"):
        assert len(load_training_dicts(cfg)) == 2
    assert "Supervision" not in caplog.text


def warnings_of(caplog: Any, *objects: Dict[str, Any], **options: Any) -> List[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, "seg_every_thing"):
        log_supervision([{"annotations": list(objects)}], **options)
    return [record.getMessage() for record in caplog.records]


def test_classes_of_set_a_without_a_mask_are_named(caplog: Any) -> None:
    names = ["ant", "bee", "cow", "doe"]
    options = {"mask_classes": (0, 1, 3), "split": "mine.txt", "class_names": names}
    crowd = object_of(1, iscrowd=1)
    only_in_b = object_of(2)
    (line,) = warnings_of(
        caplog, object_of(0), object_of(1, with_mask=False), crowd, only_in_b, **options
    )
    assert line.endswith("'mine.txt': of the 3 classes of set A, 2 have no mask: bee, doe")
    assert not warnings_of(caplog, object_of(0), object_of(1), object_of(3), **options)
    options = {"mask_classes": None, "split": "all", "class_names": list("abcdefghijklm")}
    (line,) = warnings_of(caplog, object_of(0), **options)
    assert line.endswith(
        "of the 13 classes of set A, 12 have no mask: b, c, d, e, f, g, h, i, j, k and 2 more"
    )


def test_the_names_are_those_of_the_data_set(
    make_dataset: MakeDataset, tmp_path: Path, caplog: Any
) -> None:
    (tmp_path / "a.txt").write_text("kite\ncup\n")
    dataset = make_dataset([[object_of(1), object_of(3), object_of(7, with_mask=False)]])
    cfg = config_of(dataset, "DATASETS.MASK_CLASSES", str(tmp_path / "a.txt"))
    with caplog.at_level(logging.WARNING, "seg_every_thing"):
        load_training_dicts(cfg)
    assert "of the 2 classes of set A, 1 have no mask: kite" in caplog.text


@pytest.mark.parametrize(
    "opts", [("MODEL.FREEZE_DETECTOR", True), ("MODEL.META_ARCHITECTURE", "BoxToMask")]
)
def test_no_mask_is_an_error_where_nothing_else_trains(
    make_dataset: MakeDataset, opts: Any
) -> None:
    dataset = make_dataset([[object_of(1, with_mask=False)]])
    with pytest.raises(ValueError, match=f"no object of {dataset} gives a mask .*BOX_LOSS"):
        load_training_dicts(config_of(dataset, *opts))
    boxes = ("MODEL.ROI_MASK_HEAD.BOX_LOSS.ENABLED", True)
    assert len(load_training_dicts(config_of(dataset, *opts, *boxes))) == 1
    assert len(load_training_dicts(config_of(dataset))) == 1  # boxes train
