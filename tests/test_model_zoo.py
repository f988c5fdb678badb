"""Configs by name: on the command line, as a base of one's own file, and in Python."""

import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from detectron2.config import CfgNode
from helpers import CONFIGS

from seg_every_thing import model_zoo
from seg_every_thing.cli import main
from seg_every_thing.config import load_config

NAME = "coco/maskx_R_50_FPN_1x.yaml"


def test_every_config_has_a_name() -> None:
    files = {str(p.relative_to(CONFIGS)) for p in CONFIGS.rglob("*.yaml")}
    assert set(model_zoo.config_files()) == files and NAME in files
    assert all(os.path.samefile(model_zoo.get_config_file(n), CONFIGS / n) for n in files)


def test_a_config_is_complete_with_its_bases() -> None:
    cfg = model_zoo.get_config(NAME)
    assert cfg.MODEL.ROI_MASK_HEAD.MLP.ENABLED  # the leaf
    assert cfg.MODEL.ROI_HEADS.NAME == "PartiallySupervisedROIHeads"  # its base
    assert cfg.MODEL.WEIGHT_TRANSFER.INPUT == "cls+box"  # our default
    assert cfg.MODEL.RPN.NMS_THRESH == 0.7  # detectron2's
    assert cfg.dump() == load_config(str(CONFIGS / NAME)).dump()
    assert type(cfg) is CfgNode and pickle.loads(pickle.dumps(cfg)) == cfg


def test_typos_get_near_names() -> None:
    with pytest.raises(ValueError, match=r"'coco/maskx_R50.yaml' in the model zoo .near: coco/m"):
        model_zoo.get_config_file("coco/maskx_R50.yaml")
    with pytest.raises(ValueError, match="near: coco/maskx_R_50_FPN_1x.yaml"):
        model_zoo.get_config("maskx_R_50_FPN_1x.yaml")
    with pytest.raises(ValueError, match="it has: coco/, coco/.*, shapes/"):
        model_zoo.get_config_file("0")


def test_only_names_of_the_zoo_are_names() -> None:
    for name in ("../setup.py", "coco", "", str(CONFIGS / NAME), f"coco/../{NAME}"):
        with pytest.raises(ValueError, match="model zoo"):
            model_zoo.get_config_file(name)


def test_a_file_comes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(NAME).SEED == -1
    (tmp_path / "coco").mkdir()
    (tmp_path / NAME).write_text("SEED: 7\n")
    assert load_config(NAME).SEED == 7


@pytest.mark.parametrize("base", ["coco/stage_two/cls.yaml", "near.yaml"])
def test_a_base_is_a_file_or_a_name(tmp_path: Path, base: str, monkeypatch: Any) -> None:
    (tmp_path / "near.yaml").write_text("_BASE_: coco/stage_two/cls.yaml\nSEED: 1\n")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"_BASE_": base, "OUTPUT_DIR": "x"}))
    monkeypatch.chdir(tmp_path)
    for path in ("mine.yaml", str(tmp_path / "mine.yaml")):
        cfg = load_config(path)
        assert cfg.OUTPUT_DIR == "x" and (cfg.SEED == 1) == (base == "near.yaml")
        assert cfg.MODEL.WEIGHT_TRANSFER.INPUT == "cls"  # the named config
        assert cfg.MODEL.FREEZE_DETECTOR  # and through its own bases in other folders
        assert cfg.MODEL.RESNETS.DEPTH == 50


def test_a_base_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("_BASE_: coco/stage_two/clss.yaml\n")
    with pytest.raises(ValueError, match=r"mine.yaml.*clss.yaml.*near: coco/stage_two/cls.yaml"):
        load_config(str(tmp_path / "mine.yaml"))


def test_commands_look_names_up(tmp_path: Path, capsys: Any) -> None:
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.zeros((9, 9, 3), np.uint8))
    for command in (["train"], ["demo", "-i", str(picture), "-o", str(tmp_path / "out")]):
        with pytest.raises(SystemExit) as e:
            main([*command, "--config-file", "shapes/maksx.yaml"])
        assert e.value.code == 1 and "near: shapes/maskx.yaml" in capsys.readouterr().err
