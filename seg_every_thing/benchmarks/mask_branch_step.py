"""One training step of a mask branch, to be measured.

It is what training does with the pooled features of a batch's RoIs: forward, loss, backward
through predictor, trunk and T down to the features.  Pooling and the optimiser have no part in it.
"""

import logging
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from ..modeling.box_losses import BoxLosses
from ..modeling.mask_heads import MaskMLP, MaskXHead
from ..modeling.roi_heads import PartiallySupervisedROIHeads
from ..modeling.weight_transfer import WeightTransfer
from .measuring import (
    peak_allocated,
    peak_resident,
)

logger = logging.getLogger(__name__)

_IMAGE_SIDE = 640  # boxes have half of it, more than usual: the crops of box losses cost more
_STOCK_COPIES = 2  # of its (R, K, 2S, 2S) logits: themselves and their gradient; so measured


@dataclass(frozen=True)
class MaskBranch:
    """A mask branch to measure.

    Attributes:
        model: "ours" (transfer, cls+box, two layers), "ours+mlp", "ours+boxes" (box losses of every
            RoI beside its mask loss), or "stock" (detectron2's class specific head).
        num_classes: K.
        rois: RoIs of the batch.
        channels: of the RoI features and the trunk.
        side: height and width of the RoI features.
        box_features: inputs of the box predictor.
    """

    model: str
    num_classes: int
    rois: int = 128
    channels: int = 256
    side: int = 14
    box_features: int = 1024

    @property
    def expected_bytes(self) -> int:
        """About what the step needs, to know beforehand what does not fit."""
        trunk = 16 * self.rois * self.channels * (2 * self.side) ** 2
        logits = _STOCK_COPIES * 4 * self.rois * self.num_classes * (2 * self.side) ** 2
        return trunk + (logits if self.model == "stock" else 0)


class _Pooled(nn.Module):
    """Stands where a RoI pooler does; the features are pooled already."""

    def forward(self, features: List[torch.Tensor], boxes: List[Boxes]) -> torch.Tensor:
        return features[0]


def build_roi_heads(branch: MaskBranch) -> StandardROIHeads:
    """The RoI heads of a mask branch, without what runs before it."""
    mask_shape = ShapeSpec(channels=branch.channels, height=branch.side, width=branch.side)
    conv_dims = [branch.channels] * 5
    common: Dict[str, Any] = {
        "num_classes": branch.num_classes,
        "batch_size_per_image": branch.rois,
        "positive_fraction": 1.0,
        "proposal_matcher": None,
        "box_in_features": ["rois"],
        "box_pooler": None,
        "box_head": None,
        "box_predictor": FastRCNNOutputLayers(
            ShapeSpec(channels=branch.box_features),
            box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
            num_classes=branch.num_classes,
        ),
        "mask_in_features": ["rois"],
        "mask_pooler": _Pooled(),
    }
    if branch.model == "stock":
        stock = MaskRCNNConvUpsampleHead(
            mask_shape, num_classes=branch.num_classes, conv_dims=conv_dims
        )
        return StandardROIHeads(mask_head=stock, **common)
    mlp = None
    if branch.model == "ours+mlp":
        mlp = MaskMLP(branch.channels * (2 * branch.side) ** 2, 2 * branch.side)
    if branch.model == "ours+boxes":
        common.update(box_losses=BoxLosses(crf_weight=0.5), box_losses_for_all=True)
    return PartiallySupervisedROIHeads(
        mask_head=MaskXHead(
            mask_shape, num_classes=branch.num_classes, conv_dims=conv_dims, mlp=mlp
        ),
        weight_transfer=WeightTransfer(
            input_dim=5 * branch.box_features, output_dim=branch.channels
        ),
        **common,
    )


class MaskBranchStep:
    """Training steps of a mask branch on one random batch."""

    def __init__(self, branch: MaskBranch, device: str = "cpu") -> None:
        """
        Args:
            branch: what to build.
            device: where.
        """
        self.branch = branch
        self.device = torch.device(device)
        # The batch comes first: with the same random seed, all models get the same.
        features = torch.rand(branch.rois, branch.channels, branch.side, branch.side)
        self.features = features.to(self.device).requires_grad_()
        self.proposals = _proposals(branch).to(self.device)
        image = torch.rand(3, _IMAGE_SIDE, _IMAGE_SIDE, device=self.device) * 255
        self.images = ImageList.from_tensors([image])
        self.roi_heads = build_roi_heads(branch).to(self.device).train()
        parts = [self.roi_heads.mask_head, getattr(self.roi_heads, "weight_transfer", None)]
        self.parameters = [p for part in parts if part is not None for p in part.parameters()]

    def sizes(self) -> Dict[str, Any]:
        """All that a row says besides time.  Ask for it before anything else: it takes two steps,
        and the first of them measures the resident memory."""
        box_predictor = self.roi_heads.box_predictor.parameters()
        return {
            "resident_bytes": self.resident_bytes(),
            "peak_bytes": self.peak_bytes(),
            "parameters": sum(p.numel() for p in self.parameters),
            "detector_bytes": sum(p.numel() * p.element_size() for p in box_predictor),
            "rois": len(self.proposals),
            "distinct_classes": len(self.proposals.gt_classes.unique()),
        }

    def run(self) -> float:
        """Forward, loss and backward; returns the loss."""
        inputs: List[Any] = [{"rois": self.features}, [self.proposals]]
        if self.branch.model == "ours+boxes":
            inputs += [self.images, [self.proposals]]  # its objects are those of the RoIs
        with EventStorage():  # which detectron2's loss writes its accuracy to
            losses = self.roi_heads._forward_mask(*inputs)
        loss = sum(losses.values())
        loss.backward()
        return loss.item()

    def drop_gradients(self) -> None:
        """Free what a step leaves, so that waiting for the next turn takes no memory."""
        self.roi_heads.zero_grad(set_to_none=True)
        self.features.grad = None

    def seconds(self) -> Tuple[float, float]:
        """Duration of one step, and the processor time that this process spent in it."""
        self._synchronize()
        start, cpu_start = time.perf_counter(), time.process_time()
        self.run()
        self._synchronize()
        seconds = time.perf_counter() - start, time.process_time() - cpu_start
        self.drop_gradients()
        return seconds

    def peak_bytes(self) -> int:
        """The branch's parameters plus the most that one step holds on top of them at once.

        That is activations, gradients and scratch space.  The RoI features and the box predictor
        are there before the step and not counted.
        """
        step = peak_allocated(self.run, self.device)
        self.drop_gradients()
        return step + sum(p.numel() * p.element_size() for p in self.parameters)

    def resident_bytes(self) -> Optional[int]:
        """Peak growth of the process in one step, see :func:`peak_resident`; None on a GPU."""
        if self.device.type != "cpu":
            return None
        grown = peak_resident(self.run)
        self.drop_gradients()
        return grown

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _proposals(branch: MaskBranch) -> Instances:
    """Foreground proposals that all have a mask, of as many classes as there can be.

    More than an image holds: it costs T most, and stock nothing.
    """
    corner = torch.rand(branch.rois, 2) * _IMAGE_SIDE / 2
    boxes = torch.cat([corner, corner + _IMAGE_SIDE / 2], dim=1)
    proposals = Instances((_IMAGE_SIDE, _IMAGE_SIDE))
    proposals.proposal_boxes = Boxes(boxes)
    proposals.gt_classes = torch.randperm(branch.num_classes)[
        torch.arange(branch.rois) % branch.num_classes
    ]
    triangles = [np.array([x0, y1, (x0 + x1) / 2, y0, x1, y1]) for x0, y0, x1, y1 in boxes.tolist()]
    proposals.gt_masks = PolygonMasks([[triangle] for triangle in triangles])
    proposals.gt_boxes = Boxes(boxes)
    proposals.gt_has_mask = torch.ones(branch.rois, dtype=torch.bool)
    return proposals
