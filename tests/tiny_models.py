"""Models of the Shapes config, narrowed, and a batch for them."""

import functools
from pathlib import Path
from typing import Any, Dict, List

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn

from seg_every_thing import PartiallySupervisedROIHeads, add_seg_every_thing_config

BASE_CONFIG = Path(__file__).parents[1] / "configs" / "shapes" / "Base-Shapes-RCNN-FPN.yaml"
K = 3


@functools.lru_cache(maxsize=None)
def _base() -> CfgNode:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.merge_from_file(str(BASE_CONFIG))
    return cfg


def make_cfg(**overrides: Any) -> CfgNode:
    """The Shapes config, narrowed; ``a__b=1`` overrides ``MODEL.A.B``."""
    cfg = _base().clone()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.DATASETS.MASK_CLASSES = "all"
    cfg.TEST.CLASS_SPLIT = ""
    for key, value in overrides.items():
        prefix = "" if key.startswith("datasets") else "MODEL."
        cfg.merge_from_list([prefix + key.upper().replace("__", "."), value])
    return cfg


def make_roi_heads(cfg: CfgNode) -> PartiallySupervisedROIHeads:
    shapes = {f"p{i}": ShapeSpec(channels=64, stride=2**i) for i in (2, 3, 4, 5)}
    return build_roi_heads(cfg, shapes)


def make_batch() -> List[Dict[str, Any]]:
    """An image with one object of set A and a box-only one, and an image without objects."""
    torch.manual_seed(0)
    batch = []
    for n in (2, 0):
        x = Instances((64, 64))
        x.gt_boxes = Boxes(torch.tensor([[4.0, 4, 30, 30], [30, 30, 60, 60]])[:n])
        x.gt_classes = torch.tensor([0, 2])[:n]
        x.gt_masks = BitMasks(torch.arange(64 * 64).view(1, 64, 64).expand(n, 64, 64) < 1000)
        x.gt_has_mask = torch.tensor([True, False])[:n]
        image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
        batch.append({"image": image, "height": 64, "width": 64, "instances": x})
    return batch


def masks_in_given_boxes(model: nn.Module) -> torch.Tensor:
    """Probabilities (2, 1, 28, 28) of a model in two boxes of the first image, on the CPU."""
    device = model.device
    given = Instances(
        (64, 64), pred_boxes=Boxes(torch.tensor([[4.0, 4, 30, 30], [20, 20, 60, 60]]))
    )
    given.pred_classes, given.scores = torch.tensor([0, 2]), torch.ones(2)
    with torch.no_grad():
        (found,) = model.inference(make_batch()[:1], [given.to(device)], do_postprocess=False)
    assert found.pred_masks.device == device
    return found.pred_masks.cpu()
