"""The mask loss of objects whose mask a teacher predicted, where the teacher was sure."""

from typing import Any, Dict, List

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import cat
from detectron2.structures import Instances
from torch.nn import functional

from ..data.box_grid import resampled
from .choosing import in_batch, true_indices
from .dice_loss import dice_loss
from .mask_rois import has_pseudo_mask


class PseudoMaskLoss:
    """Binary cross-entropy, and dice where masks have it, over the cells that a teacher is sure of.

    The loss of a RoI is the mean over these cells.  Pseudo-masks lie in the objects' boxes:
    everything else in a RoI is background.
    """

    @configurable
    def __init__(self, *, weight: float = 1.0, confidence: float = 0.7, dice: bool = False) -> None:
        """
        Args:
            weight: of the loss.
            confidence: cells count whose probability is at least this, or at most 1 minus this.
            dice: add a dice loss of the same cells.

        Raises:
            ValueError: for a value out of range.
        """
        key = "MODEL.ROI_MASK_HEAD.PSEUDO_LOSS"
        if not weight > 0:
            raise ValueError(f"{key}.WEIGHT must be above 0, got {weight}")
        if not 0.5 <= confidence < 1:
            raise ValueError(f"{key}.CONFIDENCE must be from 0.5 to below 1, got {confidence}")
        self.weight = weight
        self.confidence = confidence
        self.dice = dice

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            "weight": head.PSEUDO_LOSS.WEIGHT,
            "confidence": head.PSEUDO_LOSS.CONFIDENCE,
            "dice": head.LOSS == "bce+dice",
        }

    def __call__(self, logits: torch.Tensor, instances: List[Instances]) -> Dict[str, torch.Tensor]:
        """
        Args:
            logits: (R, 1, M, M).
            instances: one item an image, R in all, with ``proposal_boxes`` (the RoIs),
                ``gt_boxes``, and for objects that have a pseudo-mask ``gt_pseudo_masks`` on them.

        Returns:
            ``{"loss_mask_pseudo": scalar}``: the mean over the RoIs with a pseudo-mask, in float32
            at least; 0 times the logits without any.
        """
        use = true_indices([has_pseudo_mask(x) for x in instances])
        labelled = [x[index] for x, index in zip(instances, use) if len(index)]
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits[in_batch(use, [len(x) for x in instances])][:, 0].to(
                torch.promote_types(logits.dtype, torch.float32)
            )
            if not labelled:
                return {"loss_mask_pseudo": logits.sum() * 0}
            probabilities = resampled(
                cat([x.gt_pseudo_masks for x in labelled]).to(logits) / 255,
                cat([x.gt_boxes.tensor for x in labelled]),
                cat([x.proposal_boxes.tensor for x in labelled]),
                logits.shape[1:],
            )
            return {"loss_mask_pseudo": self.weight * self._losses(logits, probabilities).mean()}

    def _losses(self, logits: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """(R, M, M) and (R, M, M) -> (R,)."""
        sure = (probabilities >= self.confidence) | (probabilities <= 1 - self.confidence)
        sure, target = sure.to(logits), (probabilities >= 0.5).to(logits)
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        losses = (loss * sure).sum((1, 2)) / sure.sum((1, 2)).clamp(min=1)
        if self.dice:
            predicted = logits.sigmoid() * sure
            losses = losses + dice_loss(predicted.flatten(1), (target * sure).flatten(1))
        return losses
