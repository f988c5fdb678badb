"""One predictor for checkpoints and exports."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from exporting import picture, trained

import seg_every_thing
from seg_every_thing import load_predictor
from seg_every_thing.engine.predictor import build_predictor
from seg_every_thing.export.predictor import Predictor
from seg_every_thing.export.stock import export_stock


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model as a training leaves it."""
    folder = tmp_path_factory.mktemp("models") / "trained"
    trained(folder)
    (folder / "ours.pth").rename(folder / "model_final.pth")
    (folder / "ours.yaml").rename(folder / "config.yaml")
    return folder


def test_the_public_name_is_imported_when_it_is_used() -> None:
    assert "load_predictor" in seg_every_thing.__all__
    assert seg_every_thing.load_predictor is load_predictor
    with pytest.raises(AttributeError, match="no attribute 'load_something'"):
        seg_every_thing.load_something  # noqa: B018


def test_the_folder_of_a_training(folder: Path) -> None:
    predictor = load_predictor(folder, device="cpu")
    cfg = predictor.cfg
    assert str(folder / "model_final.pth") == cfg.MODEL.WEIGHTS
    expected = build_predictor(cfg)(picture(60, 90))["instances"]
    found = predictor(picture(60, 90))["instances"]
    assert len(found) > 20 and torch.equal(found.pred_masks, expected.pred_masks)


def test_a_training_that_was_ended(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.yaml", tmp_path)
    with pytest.raises(ValueError, match="has a config.yaml and no checkpoint"):
        load_predictor(tmp_path)
    shutil.copy(folder / "model_final.pth", tmp_path / "model_0000009.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000009.pth")
    assert str(tmp_path / "model_0000009.pth") == load_predictor(tmp_path).cfg.MODEL.WEIGHTS


def test_a_stock_export_that_was_moved(folder: Path, tmp_path: Path) -> None:
    export_stock(load_predictor(folder).cfg, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    found = load_predictor(tmp_path / "b")(picture(60, 90))["instances"]
    expected = load_predictor(folder)(picture(60, 90))["instances"]
    assert (found.pred_masks != expected.pred_masks).float().mean() < 1e-4


def test_masks_of_boxes(folder: Path) -> None:
    predictor = load_predictor(folder)
    image = picture(60, 90)
    found = predictor.masks_of(image, np.array([[1.5, 2, 40, 50], [-9, 0, 99, 99]]), [2, 0])
    assert found.pred_masks.shape == (2, 60, 90) and found.pred_classes.tolist() == [2, 0]
    assert found.pred_boxes.tensor.tolist() == [[1.5, 2, 40, 50], [-9, 0, 99, 99]]
    assert len(predictor.masks_of(image, np.zeros((0, 4)), [])) == 0
    for boxes, classes, message in (
        ([[1, 2, 3, 4]], [3], "box 0 is of class 3, and the model has classes 0 to 2"),
        ([[1, 2, 3, 4]], [0, 1], "1 boxes need as many classes, got 2"),
        ([[1, 2, 3, 4], [90, 2, 99, 8]], [0, 1], "box 1, [90.0, 2.0, 99.0, 8.0]"),
        ([[1, 2, float("nan"), 4]], [0], "box 0, [1.0, 2.0, nan, 4.0]"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            predictor.masks_of(image, np.array(boxes), classes)


def test_what_is_no_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no model"):
        load_predictor(tmp_path)
    with pytest.raises(ValueError, match="is no folder of a model"):
        load_predictor(folder / "config.yaml")
    shutil.copy(folder / "config.yaml", tmp_path)
    (tmp_path / "model.json").write_text('{"format": "jpeg"}')
    with pytest.raises(
        ValueError, match=r"model.json' is none that `seg-every-thing export` wrote"
    ):
        load_predictor(tmp_path)


def test_a_model_without_masks(folder: Path) -> None:
    predictor = load_predictor(folder)
    predictor.cfg.MODEL.MASK_ON = False
    without = Predictor(predictor.cfg, predictor.model)
    with pytest.raises(ValueError, match="gives no masks of boxes"):
        without.masks_of(picture(60, 90), np.zeros((0, 4)), [])
