"""The layers of a model, without what lies between them: what OpenVINO computes."""

from typing import Any, Dict, List, Tuple

import torch
from detectron2.config import CfgNode
from torch import nn

from .checks import finds_boxes


class FeatureBody(nn.Module):
    """Image to features, and for a detector what its RPN says of each anchor."""

    def __init__(self, model: nn.Module, names: List[str], with_rpn: bool) -> None:
        """
        Args:
            model: a ``GeneralizedRCNN``.
            names: of the features that RoIs are pooled from.
            with_rpn: logits and deltas of the RPN, too.
        """
        super().__init__()
        self.backbone = model.backbone
        self.names = names
        self.rpn = model.proposal_generator if with_rpn else None
        self.register_buffer("mean", model.pixel_mean)
        self.register_buffer("std", model.pixel_std)

    def forward(self, image: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """(1, 3, H, W) -> (1, H', W', C) of each level: features, then logits, then deltas.

        Channels come last: so RoIs are pooled fastest, and anchors are in detectron2's order.
        """
        features = self.backbone((image - self.mean) / self.std)
        found = [features[name] for name in self.names]
        if self.rpn is not None:
            logits, deltas = self.rpn.rpn_head([features[f] for f in self.rpn.in_features])
            found += [*logits, *deltas]
        return tuple(x.permute(0, 2, 3, 1) for x in found)


class BoxBody(nn.Module):
    """Pooled features to class scores and box deltas."""

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: a ``GeneralizedRCNN``.
        """
        super().__init__()
        self.head = model.roi_heads.box_head
        self.predictor = model.roi_heads.box_predictor

    def forward(self, pooled: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        """(R, C, S, S) -> logits (R, K + 1) and deltas (R, 4K or 4)."""
        return self.predictor(self.head(pooled))


class MaskBody(nn.Module):
    """Pooled features to the mask logits of each RoI's class; T has become a table of filters."""

    def __init__(self, model: nn.Module) -> None:
        """
        Args:
            model: a ``GeneralizedRCNN`` with a :class:`~seg_every_thing.MaskXHead`.
        """
        super().__init__()
        heads = model.roi_heads
        self.head = heads.mask_head
        self.laterals = getattr(heads.mask_pooler, "laterals", None)
        self.coordinates = heads.mask_rois.coordinates
        transfers = heads.weight_transfer is not None
        self.register_buffer("filters", heads.mask_weights().clone() if transfers else None)
        self.by_class = by_class(self.head.predictor_kind)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """To (R, 1, M, M).

        Args:
            inputs: (R, C, S, S) features, from each level where they are pooled from all;
                coordinates (R, 5, S, S) where the head wants them; classes (R,) where masks depend
                on them.
        """
        given = list(inputs)
        classes = given.pop() if self.by_class else torch.zeros(0)
        coordinates = given.pop() if self.coordinates else None
        if self.laterals is None:
            (x,) = given
        else:
            terms = [lateral(x) for lateral, x in zip(self.laterals, given)]
            x = sum(terms[1:], terms[0]).relu()
        if coordinates is not None:
            x = torch.cat([x, coordinates], dim=1)
        weights = None if self.filters is None else self.filters[classes]
        return self.head.logits(x, classes, weights)


def by_class(predictor: str) -> bool:
    """Whether the masks of a kind of predictor depend on the class."""
    return predictor in ("transfer", "class_specific")


def bodies_of(
    cfg: CfgNode, model: nn.Module
) -> Dict[str, Tuple[nn.Module, Tuple[torch.Tensor, ...]]]:
    """The parts of a model by the names of their files, each with inputs to trace it with."""
    names = list(cfg.MODEL.ROI_HEADS.IN_FEATURES)
    shapes = model.backbone.output_shape()
    image = torch.rand(1, 3, 128, 160) * 255
    side = cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION
    mask = MaskBody(model)
    levels = names if mask.laterals is not None else names[:1]
    inputs = [torch.rand(2, shapes[name].channels, side, side) for name in levels]
    inputs += [torch.rand(2, 5, side, side)] if mask.coordinates else []
    inputs += [torch.zeros(2, dtype=torch.long)] if mask.by_class else []
    parts: Dict[str, Any] = {
        "prompted": (FeatureBody(model, names, with_rpn=False), (image,)),
        "mask_head": (mask, tuple(inputs)),
    }
    if finds_boxes(cfg):
        side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
        pooled = torch.rand(2, shapes[names[0]].channels, side, side)
        parts["detector"] = FeatureBody(model, names, with_rpn=True), (image,)
        parts["box_head"] = BoxBody(model), (pooled,)
    return {name: (body.eval(), inputs) for name, (body, inputs) in parts.items()}
