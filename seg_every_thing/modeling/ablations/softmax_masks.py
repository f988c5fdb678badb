"""Masks of classes that compete: a softmax over classes in each pixel (Mask R-CNN, Table 2b)."""

from typing import Any, Dict, List, Union

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch.nn import functional


def class_probabilities(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Share that the softmax over classes gives to one class, in each pixel.

    Args:
        logits: (R, K + 1, S, S), background last.
        classes: (R,) in [0, K).

    Returns:
        (R, S, S).
    """
    index = classes.view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
    return logits.softmax(dim=1).gather(1, index)[:, 0]


def softmax_mask_loss(
    logits: torch.Tensor, instances: List[Instances], vis_period: int = 0
) -> torch.Tensor:
    """Mean cross-entropy over pixels: inside a mask its class is right, outside it background.

    Args:
        logits: (R, K + 1, S, S), background last.
        instances: one item an image, R in all, with ``gt_classes``, ``gt_masks`` and
            ``proposal_boxes``; items without instances need no fields.
        vis_period: iterations between two drawings for TensorBoard; 0 = none.

    Returns:
        A scalar; for R = 0 it is 0, with gradients of 0.
    """
    labelled = [x for x in instances if len(x)]
    if not labelled:
        return logits.sum() * 0
    background, side = logits.shape[1] - 1, logits.shape[2]
    crops = [x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, side) for x in labelled]
    inside = cat(crops).to(logits.device) > 0.5
    classes = cat([x.gt_classes for x in labelled])
    target = torch.where(inside, classes[:, None, None], background)
    _log_progress(class_probabilities(logits.detach(), classes), inside, vis_period)
    return functional.cross_entropy(logits, target)


def _log_progress(found: torch.Tensor, inside: torch.Tensor, vis_period: int) -> None:
    """Accuracy in training under the names that detectron2's own mask loss uses."""
    storage = get_event_storage()
    wrong = (found > 0.5) != inside
    positive = inside.sum().item()
    negative = inside.numel() - positive
    storage.put_scalar("mask_rcnn/accuracy", 1 - wrong.float().mean().item())
    storage.put_scalar(
        "mask_rcnn/false_positive", (wrong & ~inside).sum().item() / max(negative, 1)
    )
    storage.put_scalar("mask_rcnn/false_negative", (wrong & inside).sum().item() / max(positive, 1))
    if vis_period > 0 and storage.iter % vis_period == 0:
        for i, pair in enumerate(torch.cat([found, inside.to(found)], dim=2)):
            storage.put_image(f"mask: predicted and true ({i})", pair.expand(3, -1, -1))


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNSoftmaxHead(MaskRCNNConvUpsampleHead):
    """detectron2's mask head with K + 1 channels that compete, in place of K independent ones.

    The paper does not spell out what a pixel outside the object is; here it is a channel of its
    own, the last.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, num_classes: int, **kwargs: Any) -> None:
        """
        Args:
            input_shape: of the pooled RoI features.
            num_classes: number of foreground classes K.
            kwargs: as for :class:`MaskRCNNConvUpsampleHead`.
        """
        super().__init__(input_shape, num_classes=num_classes + 1, **kwargs)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> Dict[str, Any]:
        if cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK:
            raise ValueError(
                "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK True leaves MaskRCNNSoftmaxHead no classes "
                "that could compete: set it False"
            )
        return super().from_config(cfg, input_shape)

    def forward(
        self, x: torch.Tensor, instances: List[Instances]
    ) -> Union[Dict[str, torch.Tensor], List[Instances]]:
        """Losses in training, else the instances with ``pred_masks``.

        Args:
            x: (R, C, H, W) pooled features of all RoIs of the batch.
            instances: one item an image, R in all.

        Returns:
            ``{"loss_mask": scalar}`` in training; otherwise ``instances``, each with ``pred_masks``
            of shape (N, 1, 2H, 2W), probabilities of the predicted class.
        """
        logits = self.layers(x)
        if self.training:
            loss = softmax_mask_loss(logits, instances, self.vis_period)
            return {"loss_mask": loss * self.loss_weight}
        masks = class_probabilities(logits, cat([i.pred_classes for i in instances]))[:, None]
        for image, found in zip(instances, masks.split([len(i) for i in instances])):
            image.pred_masks = found
        return instances
