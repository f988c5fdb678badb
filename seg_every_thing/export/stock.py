"""Mask^X R-CNN as a Mask R-CNN that detectron2 runs without this package.

Once trained, T is a constant: its K filters are the weights of a class-specific mask predictor
(Learning to Segment Every Thing, section 3.2).
"""

import contextlib
from pathlib import Path
from typing import Any, Dict, Tuple

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from ..engine.predictor import build_predictor
from ..files import PathLike, check_targets, make_output_dir, written_atomically
from ..modeling.mask_threshold import checked_threshold
from .checks import check_weights, value_of
from .layout import check_ours

TOLERANCE = 1e-5
"""Of probabilities: both models add the same products, in another order."""

_FIRST_LINE = "# For detectron2, without seg_every_thing."

_NEEDED: Dict[str, Tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN",),
    "MODEL.MASK_ON": (True,),
    "MODEL.ROI_HEADS.NAME": ("PartiallySupervisedROIHeads",),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskXHead",),
    "MODEL.ROI_MASK_HEAD.PREDICTOR": ("transfer", "class_agnostic", "class_specific"),
    "MODEL.ROI_MASK_HEAD.MLP.ENABLED": (False,),
    "MODEL.ROI_MASK_HEAD.BOX_SCALE": (1.0,),
    "MODEL.ROI_MASK_HEAD.COORDINATES": (False,),
    "MODEL.ROI_MASK_HEAD.POOLER_LEVELS": ("assigned",),
    "MODEL.ROI_MASK_HEAD.TRUNK": ("convs",),
    "MODEL.ROI_MASK_HEAD.UPSAMPLE": ("deconv",),
}
"""What Mask R-CNN of detectron2 has no other way to do."""

_OF_T = ("roi_heads.weight_transfer.", "roi_heads.class_vectors", "roi_heads.normalize_over")
"""Weights that the filters take the place of."""


def check_stock(cfg: CfgNode) -> None:
    """Make sure that detectron2 has all that the model of a config consists of.

    Raises:
        ValueError: for what it does not have; the message names the config key and the mend.
    """
    for key, allowed in _NEEDED.items():
        value = value_of(cfg, key)
        if value not in allowed:
            raise ValueError(
                f"{key} {value} is nothing that stock detectron2 can run: train a model with "
                f"{key} {' or '.join(map(str, allowed))}, or use this one with seg_every_thing"
            )
    name = cfg.MODEL.BACKBONE.NAME
    if name in BACKBONE_REGISTRY and _is_ours(BACKBONE_REGISTRY.get(name)):
        raise ValueError(
            f"MODEL.BACKBONE.NAME {name} is none of stock detectron2: train a model with one of "
            f"its own, such as build_resnet_fpn_backbone, or use this one with seg_every_thing"
        )
    if checked_threshold(cfg.TEST.MASK_THRESHOLD) is not None:
        raise ValueError(
            f"TEST.MASK_THRESHOLD {cfg.TEST.MASK_THRESHOLD}: stock detectron2 cuts masks at 0.5; "
            f"add TEST.MASK_THRESHOLD 0.5 to --opts"
        )
    if cfg.TEST.CRF:
        raise ValueError("TEST.CRF True: stock detectron2 has none; add TEST.CRF False to --opts")
    check_weights(cfg)


def stock_config(cfg: CfgNode) -> CfgNode:
    """The config of the Mask R-CNN: detectron2's keys alone, with the values that they have here.

    Raises:
        ValueError: for a model that has no counterpart.
    """
    check_stock(cfg)
    stock = get_cfg()
    _copy_values(cfg, stock)
    stock.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    head = stock.MODEL.ROI_MASK_HEAD
    head.NAME = "MaskRCNNConvUpsampleHead"
    head.CLS_AGNOSTIC_MASK = cfg.MODEL.ROI_MASK_HEAD.PREDICTOR == "class_agnostic"
    return stock


def stock_model(model: nn.Module, stock: CfgNode) -> nn.Module:
    """The Mask R-CNN of a config with the weights of a model of ours, T evaluated.

    Args:
        model: in evaluation mode, on the CPU.
        stock: the result of :func:`stock_config` for its config.

    Raises:
        RuntimeError: when its masks are not those of ``model``.
    """
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith(_OF_T)}
    if model.roi_heads.weight_transfer is not None:
        filters = model.roi_heads.mask_weights()
        weights["roi_heads.mask_head.predictor.weight"] = filters[:, :, None, None]
        weights["roi_heads.mask_head.predictor.bias"] = filters.new_zeros(len(filters))
    made = build_model(stock).eval()
    made.load_state_dict(weights)
    _check_equal(model, made, stock.MODEL.ROI_HEADS.NUM_CLASSES)
    return made


def export_stock(cfg: CfgNode, output: PathLike) -> Path:
    """Write ``model.pth`` and ``config.yaml``, which names it, into a folder: both or neither.

    Args:
        cfg: of a model with ``MODEL.WEIGHTS``.
        output: the folder.

    Returns:
        The path of the config.

    Raises:
        ValueError: for a model that has no counterpart in detectron2, weights that are not of
            this model, or files of another origin in the folder.
        OSError: when the files cannot be written.
    """
    device, cfg = cfg.MODEL.DEVICE, cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    cfg.TEST.FAST = False  # whose copy has other layers
    stock = stock_config(cfg)
    output = Path(output).absolute()
    checkpoint, config = output / "model.pth", output / "config.yaml"
    check_targets([cfg.MODEL.WEIGHTS], [checkpoint, config])
    check_ours(output, [config.name, checkpoint.name], _FIRST_LINE)
    make_output_dir(output)
    made = stock_model(build_predictor(cfg).model, stock)
    stock.MODEL.WEIGHTS, stock.MODEL.DEVICE = str(checkpoint), device
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(written_atomically(checkpoint, "wb"))]
        torch.save({"model": made.state_dict(), "__author__": "seg_every_thing"}, files[0])
        files.append(stack.enter_context(written_atomically(config)))
        files[1].write(f"{_FIRST_LINE}\n{stock.dump()}")
        for file in files:  # or a full disk would show when one of them is in place
            file.flush()
    return config


def _is_ours(component: Any) -> bool:
    return component.__module__.startswith(__name__.split(".")[0] + ".")


def _copy_values(source: CfgNode, target: CfgNode) -> None:
    """Of the keys of ``target``, at every depth."""
    for key, value in target.items():
        if isinstance(value, CfgNode):
            _copy_values(source[key], value)
        else:
            target[key] = source[key]


@torch.no_grad()
def _check_equal(model: nn.Module, made: nn.Module, num_classes: int, boxes: int = 8) -> None:
    """Compare masks of boxes in noise, whose classes lie evenly among all."""
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 96, 128), generator=noise, dtype=torch.uint8)
    corners = torch.rand(boxes, 2, generator=noise) * torch.tensor([64.0, 48])
    masks = []
    for each in (model, made):
        x = Instances((96, 128))
        x.pred_boxes = Boxes(torch.cat([corners, corners + torch.tensor([48.0, 40])], dim=1))
        x.pred_classes = torch.linspace(0, num_classes - 1, boxes).long()
        (x,) = each.inference([{"image": image}], [x], do_postprocess=False)
        masks.append(x.pred_masks)
    difference = (masks[0] - masks[1]).abs().max().item()
    if not difference <= TOLERANCE:
        raise RuntimeError(f"the masks of the exported model differ by up to {difference:.2g}")
