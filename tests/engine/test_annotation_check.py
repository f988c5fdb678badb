"""The trainer knows of unusable annotations before it builds a model, and writes the report."""

import json
from pathlib import Path
from typing import Any, Iterator
from unittest import mock

import pytest
from annotation_files import Content, Files, config_of, edited_files, good_content
from conftest import unregister
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer
from helpers import shapes_config

from seg_every_thing import Trainer
from seg_every_thing.engine.annotation_check import check_annotations


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    yield from edited_files(tmp_path)


def without_box(content: Content) -> None:
    del content["annotations"][1]["bbox"]


def of(files: Files, train: Any, test: Any = None) -> Any:
    cfg = config_of(files.edited(train))
    cfg.DATASETS.TEST = (files.edited(test),) if test else ()
    cfg.OUTPUT_DIR = str(files.folder / "out")
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    return cfg


@pytest.mark.parametrize("train, test", [(without_box, None), (lambda _: None, without_box)])
def test_it_is_said_before_a_model_is_built(files: Files, train: Any, test: Any) -> None:
    cfg = of(files, train, test)
    with mock.patch.object(DefaultTrainer, "build_model") as build_model:
        with pytest.raises(ValueError, match="annotation 2 of image '1.png': it has no bbox"):
            Trainer(cfg)
        assert not build_model.called


def test_evaluation_alone_needs_no_training_set(files: Files) -> None:
    cfg = of(files, without_box, lambda _: None)
    check_annotations(cfg, training=False)
    with pytest.raises(ValueError, match="no bbox"):
        check_annotations(cfg, training=True)


def test_nothing_is_evaluated_on_unusable_ground_truth(files: Files) -> None:
    cfg = of(files, lambda _: None, without_box)
    with pytest.raises(ValueError, match="no bbox"):
        Trainer.test(cfg, mock.Mock(side_effect=AssertionError("inference began")))


def test_a_missing_file_is_said_at_the_start(files: Files) -> None:
    cfg = of(files, lambda _: None, lambda _: None)
    Path(MetadataCatalog.get(cfg.DATASETS.TEST[0]).json_file).unlink()
    with pytest.raises(FileNotFoundError, match="annotation file"):
        check_annotations(cfg, training=True)


def test_a_test_set_made_by_a_function(files: Files) -> None:
    cfg = of(files, lambda _: None)
    record = {"file_name": "a.png", "image_id": 1, "height": 8, "width": 8}
    DatasetCatalog.register("from_a_function", lambda: [{**record, "annotations": [{"bbox": 1}]}])
    MetadataCatalog.get("from_a_function").thing_classes = ["cup"]
    cfg.DATASETS.TEST = ("from_a_function",)
    try:
        with pytest.raises(ValueError, match="object 0 of image 'a.png'"):
            check_annotations(cfg, training=False)
    finally:
        unregister("from_a_function")


def test_the_report_counts_test_sets(files: Files) -> None:
    cfg = of(files, lambda _: None, without_box)
    cfg.DATASETS.ON_BAD_ANNOTATION = "set_aside"
    check_annotations(cfg, training=True)
    (report,) = json.loads((files.folder / "out" / "data_report.json").read_text())["evaluation"]
    assert report["data_set"] == cfg.DATASETS.TEST[0]
    assert [(row["row"], row["objects"]) for row in report["rows"]] == [("used", 3), ("dropped", 1)]
    assert report["objects"] == len(good_content()["annotations"])


def test_a_training_writes_both(tiny_shapes: Path, tmp_path: Path) -> None:
    trainer = Trainer(shapes_config("maskx", tmp_path))
    content = json.loads((tmp_path / "data_report.json").read_text())
    (trained,), (evaluated,) = content["training"], content["evaluation"]
    assert (trained["data_set"], evaluated["data_set"]) == ("shapes_train", "shapes_val")
    by_row = {(row["row"], row["which"]): row["objects"] for row in trained["rows"]}
    withheld = by_row["box-only", "with a mask that may not be used"]
    assert 0 < withheld < trained["objects"]
    assert by_row["used", ""] + withheld == trained["objects"]
    assert evaluated["rows"][0]["objects"] == evaluated["objects"] > 0  # all masks are truth there
    assert trainer.iter == trainer.start_iter == 0
