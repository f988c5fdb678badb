"""What the tests of exports share: small models, and programs that have neither package."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tiny_models import make_cfg
from torch import nn

MODELS: Dict[str, Dict[str, Any]] = {
    "transfer": {},
    "transfer_mlp": {
        "roi_mask_head__mlp__enabled": True,
        "roi_mask_head__box_scale": 1.25,
        "roi_mask_head__coordinates": True,
    },
    "class_agnostic": {
        "roi_mask_head__predictor": "class_agnostic",
        "roi_mask_head__box_scale": 1.25,
        "roi_mask_head__clip_to_box": False,
    },
    "mlp_alone": {
        "meta_architecture": "BoxToMask",
        "roi_mask_head__predictor": "none",
        "roi_mask_head__mlp__enabled": True,
        "roi_mask_head__mlp__input": "pooled",
    },
    "box_to_mask": {
        "meta_architecture": "BoxToMask",
        "roi_mask_head__predictor": "class_specific",
        "roi_mask_head__box_scale": 1.25,
        "roi_mask_head__pooler_levels": "all",
        "roi_mask_head__upsample": "resize",
    },
}

WITHOUT_PACKAGES = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("detectron2", "seg_every_thing", "fvcore"):
            raise ImportError(name)

sys.meta_path.insert(0, Refuse())
"""
"""The beginning of a program that can import neither detectron2 nor this package."""


def trained(folder: Path, **overrides: Any) -> Tuple[CfgNode, nn.Module]:
    """A model whose masks differ from class to class, its checkpoint and its config file."""
    folder.mkdir()
    cfg = make_cfg(**overrides)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.TEST.DETECTIONS_PER_IMAGE = 60
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for parameter in model.roi_heads.parameters():
        nn.init.normal_(parameter, std=0.2)
    if model.roi_heads.mask_head.mlp is not None:
        for parameter in model.roi_heads.mask_head.mlp.parameters():
            nn.init.normal_(parameter, std=0.01)  # it has thousands of inputs
    if cfg.MODEL.META_ARCHITECTURE != "BoxToMask":
        torch.manual_seed(0)  # boxes of the same classes, whatever the mask branch
        for parameter in model.roi_heads.box_head.parameters():
            nn.init.normal_(parameter, std=0.05)
        for parameter in model.roi_heads.box_predictor.parameters():
            nn.init.normal_(parameter, std=0.2)
        nn.init.zeros_(model.roi_heads.box_predictor.cls_score.bias)  # or one class wins everywhere
    save(folder, cfg, model)
    return cfg, model


def save(folder: Path, cfg: CfgNode, model: nn.Module) -> None:
    """Write the checkpoint, which the config then names, and the config file."""
    cfg.MODEL.WEIGHTS = str(folder / "ours.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    (folder / "ours.yaml").write_text(cfg.dump())


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: coarse noise."""
    noise = np.random.RandomState(seed).rand(height, width, 3)
    coarse = np.random.RandomState(seed).rand(height // 8 + 1, width // 8 + 1, 3)
    return (200 * coarse.repeat(8, 0).repeat(8, 1)[:height, :width] + 50 * noise).astype(np.uint8)


def given_boxes(count: int, height: int, width: int) -> Tuple[np.ndarray, List[int]]:
    """Boxes (count, 4) in an image, and their classes."""
    random = np.random.RandomState(count)
    corners = random.rand(count, 2) * [width / 2, height / 2]
    sides = random.rand(count, 2) * [width / 3, height / 3] + 8
    return np.concatenate([corners, corners + sides], axis=1), [i % 3 for i in range(count)]


def run_without_packages(script: str, *args: Any) -> str:
    """What a program prints that can import neither detectron2 nor this package."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", WITHOUT_PACKAGES + script, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
