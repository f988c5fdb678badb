"""Exported models give the same masks in a process that cannot import this package."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
import yaml
from detectron2.modeling import build_model
from exporting import trained
from tiny_models import make_cfg

from seg_every_thing.checkpoint.loading import load_for_inference
from seg_every_thing.cli import main
from seg_every_thing.config import load_config
from seg_every_thing.export.stock import check_stock, export_stock, stock_config, stock_model

FOREIGN = """
import sys

sys.modules["seg_every_thing"] = None  # which lets its import fail
import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultPredictor

for folder in sys.argv[2:]:
    cfg = get_cfg()
    cfg.merge_from_file(folder + "/config.yaml")
    inputs = torch.load(sys.argv[1], weights_only=True)
    with torch.no_grad():
        (x,) = DefaultPredictor(cfg).model.inference(inputs, do_postprocess=False)
    boxes = x.pred_boxes.tensor
    torch.save((boxes, x.scores, x.pred_classes, x.pred_masks), folder + "/found.pth")
try:
    import seg_every_thing
except ImportError:
    print("without the package")
"""
MODELS: Dict[str, Dict[str, Any]] = {
    "transfer": {},
    "embedding": {
        "weight_transfer__input": "embedding",
        "weight_transfer__embedding_file": "random:0",
        "weight_transfer__normalize": True,
    },
    "class_agnostic": {"roi_mask_head__predictor": "class_agnostic"},
    "class_specific": {"roi_mask_head__predictor": "class_specific"},
}


@torch.no_grad()
def test_stock_detectron2_finds_the_same(tmp_path: Path) -> None:
    noise = torch.Generator().manual_seed(1)
    image = torch.randint(256, (3, 64, 96), generator=noise, dtype=torch.uint8)
    torch.save([{"image": image}], tmp_path / "inputs.pth")
    models, folders = {}, {}
    for name, overrides in MODELS.items():
        _, models[name] = trained(tmp_path / name, **overrides)
        folders[name] = tmp_path / name / "exported"
        command = ["export", "--config-file", str(tmp_path / name / "ours.yaml")]
        assert main([*command, "--format", "stock", "--output", str(folders[name])]) == 0
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, str(tmp_path / "inputs.pth"), *map(str, folders.values())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("without the package")
    for name, model in models.items():
        (x,) = model.inference([{"image": image}], do_postprocess=False)
        boxes, scores, classes, masks = torch.load(folders[name] / "found.pth", weights_only=True)
        assert len(x) > 12 and len(x.pred_classes.unique()) > 1
        assert torch.equal(classes, x.pred_classes) and torch.equal(boxes, x.pred_boxes.tensor)
        assert torch.equal(scores, x.scores)
        torch.testing.assert_close(masks, x.pred_masks, rtol=0, atol=1e-5)
        assert masks.std() > 0.05  # masks that are all alike would be no test
        assert sorted(p.name for p in folders[name].iterdir()) == [
            *("config.yaml", "found.pth", "model.pth"),
        ]


def test_the_config_has_keys_of_detectron2_alone(tmp_path: Path) -> None:
    cfg, _ = trained(tmp_path / "a")
    path = export_stock(cfg, tmp_path / "exported")
    written = yaml.safe_load(path.read_text())
    assert written["MODEL"]["ROI_HEADS"]["NAME"] == "StandardROIHeads"
    assert written["MODEL"]["ROI_HEADS"]["NUM_CLASSES"] == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert written["MODEL"]["WEIGHTS"] == str(tmp_path / "exported" / "model.pth")
    assert "WEIGHT_TRANSFER" not in written["MODEL"] and "MASK_CLASSES" not in written["DATASETS"]
    assert "MLP" not in written["MODEL"]["ROI_MASK_HEAD"]
    weights = torch.load(tmp_path / "exported" / "model.pth", weights_only=True)["model"]
    assert not [name for name in weights if "weight_transfer" in name]
    filters = weights["roi_heads.mask_head.predictor.weight"]
    assert filters.shape == (cfg.MODEL.ROI_HEADS.NUM_CLASSES, 8, 1, 1)


REFUSED = [
    ("MODEL.ROI_MASK_HEAD.MLP.ENABLED", True, "with MODEL.ROI_MASK_HEAD.MLP.ENABLED False"),
    ("MODEL.ROI_MASK_HEAD.BOX_SCALE", 1.25, "with MODEL.ROI_MASK_HEAD.BOX_SCALE 1.0"),
    ("MODEL.ROI_MASK_HEAD.COORDINATES", True, "COORDINATES False"),
    ("MODEL.ROI_MASK_HEAD.POOLER_LEVELS", "all", "POOLER_LEVELS assigned"),
    ("MODEL.ROI_MASK_HEAD.TRUNK", "hourglass", "TRUNK convs"),
    ("MODEL.ROI_MASK_HEAD.UPSAMPLE", "resize", "UPSAMPLE deconv"),
    ("MODEL.ROI_MASK_HEAD.PREDICTOR", "none", "PREDICTOR transfer or class_agnostic or class_s"),
    ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "NAME PartiallySupervisedROIHeads"),
    ("MODEL.META_ARCHITECTURE", "BoxToMask", "META_ARCHITECTURE GeneralizedRCNN"),
    ("MODEL.MASK_ON", False, "MASK_ON True"),
    ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "such as build_resnet_fpn_backbone"),
    ("TEST.MASK_THRESHOLD", "fit", "add TEST.MASK_THRESHOLD 0.5"),
    ("TEST.CRF", True, "add TEST.CRF False"),
    ("MODEL.WEIGHTS", "", "add MODEL.WEIGHTS"),
]


@pytest.mark.parametrize("key, value, mend", REFUSED)
def test_models_without_counterpart_are_refused(key: str, value: Any, mend: str) -> None:
    cfg = make_cfg(weights="x.pth")
    check_stock(cfg)
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError) as error:
        check_stock(cfg)
    message = str(error.value)
    assert key in message and mend in message and "\n" not in message


def test_refusal_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "a")
    command = ["export", "--config-file", str(tmp_path / "a" / "ours.yaml"), "--format", "stock"]
    with pytest.raises(SystemExit) as end:
        main([*command, "--output", str(tmp_path / "b"), "--opts", "TEST.CRF", "True"])
    assert end.value.code == 1 and "TEST.CRF True: stock" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_the_checkpoint_is_not_written_over(tmp_path: Path) -> None:
    cfg, _ = trained(tmp_path / "a")
    Path(cfg.MODEL.WEIGHTS).rename(tmp_path / "a" / "model.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "a" / "model.pth")
    before = (tmp_path / "a" / "model.pth").read_bytes()
    with pytest.raises(ValueError, match="model.pth"):
        export_stock(cfg, tmp_path / "a")
    assert (tmp_path / "a" / "model.pth").read_bytes() == before


@pytest.mark.parametrize("name", ["config.yaml", "model.pth"])
def test_files_of_another_origin_are_not_replaced(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name}' exists, and is of no such export") as error:
        export_stock(make_cfg(weights="x.pth"), tmp_path)
    assert "\n" not in str(error.value) and (tmp_path / name).read_text() == "mine"


def test_an_export_is_replaced_and_fast_or_not_is_the_same(tmp_path: Path) -> None:
    cfg, _ = trained(tmp_path / "a")
    written = []
    for fast in (False, True):
        cfg.TEST.FAST = fast
        path = export_stock(cfg, tmp_path / "exported")
        written.append([path.read_bytes(), torch.load(path.with_name("model.pth"))["model"]])
    (config, weights), (fast_config, fast_weights) = written
    assert config == fast_config
    assert weights.keys() == fast_weights.keys()
    assert all(torch.equal(weights[key], fast_weights[key]) for key in weights)


def test_a_model_with_other_masks_is_not_written(tmp_path: Path) -> None:
    cfg, model = trained(tmp_path / "a")
    stock = stock_config(cfg)
    stock_model(model, stock)
    stock.MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO = 1
    with pytest.raises(RuntimeError, match="masks of the exported model differ by up to"):
        stock_model(model, stock)


def test_the_export_can_be_read_with_our_keys_beside(tmp_path: Path) -> None:
    """As by `demo`, which then runs it as any Mask R-CNN."""
    cfg, _ = trained(tmp_path / "a")
    ours = load_config(str(export_stock(cfg, tmp_path / "exported")))
    model = build_model(ours)
    load_for_inference(model, ours.MODEL.WEIGHTS, allow_partial=False)
    assert type(model.roi_heads).__name__ == "StandardROIHeads"
