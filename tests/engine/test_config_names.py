"""A typo in a name is said with its key, before any image is read."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from helpers import shapes_config

from seg_every_thing import Trainer
from seg_every_thing.engine.agreement import check_settings
from seg_every_thing.engine.config_names import explaining_names
from seg_every_thing.engine.predictor import build_predictor


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbon"),
        ("MODEL.ROI_HEADS.NAME", "PartialySupervisedROIHeads"),
        ("MODEL.ROI_MASK_HEAD.NAME", "MaskHead"),
        ("MODEL.RPN.HEAD_NAME", "RPNHead"),
    ],
)
def test_registries(key: str, name: str, tmp_path: Path) -> None:
    cfg = shapes_config("maskx", tmp_path, key, name, "MODEL.WEIGHTS", "")
    for build in (Trainer.build_model, build_predictor):
        with pytest.raises(ValueError, match=f"^{key}: No object named '{name}' found in"):
            build(cfg)


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    cfg = shapes_config("maskx", tmp_path)
    for error in (KeyError("p2"), KeyError("No object named 'nowhere' found in 'X' registry!")):
        with pytest.raises(KeyError) as found:
            explaining_names(mock.Mock(side_effect=error), cfg)
        assert found.value is error


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "DATALOADER.SAMPLER_TRAIN",
            "TrainSampler",
            "'TrainSampler' is not one of TrainingSampler",
        ),
        ("INPUT.FORMAT", "BRG", "'BRG' is not one of BGR, RGB, L"),
    ],
)
def test_words(key: str, value: str, message: str, tmp_path: Path, tiny_shapes: Any) -> None:
    with pytest.raises(ValueError, match=f"^{key} {message}"):
        check_settings(shapes_config("maskx", tmp_path, key, value), training=True)
    check_settings(shapes_config("maskx", tmp_path), training=True)


def test_the_format_of_a_demo(tmp_path: Path) -> None:
    cfg = shapes_config("maskx", tmp_path, "INPUT.FORMAT", "BRG", "MODEL.WEIGHTS", "")
    with pytest.raises(ValueError, match="^INPUT.FORMAT 'BRG'"):
        build_predictor(cfg)
