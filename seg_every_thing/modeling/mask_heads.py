"""The mask head of Mask^X R-CNN: detectron2's trunk, a choice of predictors, and the MLP branch.

Every predictor computes one channel a RoI, that of the class the RoI needs, so neither time nor
memory depends on the number of classes, and detectron2's class-agnostic loss and inference apply.
"""

from typing import Any, Dict, List, Optional, Union

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import (
    MaskRCNNConvUpsampleHead,
    mask_rcnn_inference,
    mask_rcnn_loss,
)
from detectron2.structures import Instances
from fvcore.nn import weight_init
from torch import nn

from .choosing import in_batch, true_indices
from .dice_loss import dice_loss
from .mask_geometry import NUM_COORDINATES
from .mask_mlp import MaskMLP
from .mask_rois import has_usable_mask
from .mask_trunks import HourglassTrunk, ResizeConv

PREDICTORS = ("transfer", "class_agnostic", "class_specific", "none")
MLP_INPUTS = ("upsampled", "pooled")
LOSSES = ("bce", "bce+dice")
TRUNKS = ("convs", "hourglass")
UPSAMPLES = ("deconv", "resize")


def instance_classes(instances: List[Instances], training: bool) -> torch.Tensor:
    """Class of each of the R RoIs of a batch, (R,): ground truth in training, else predicted."""
    return cat([x.gt_classes if training else x.pred_classes for x in instances])


def gathered_logits(
    features: torch.Tensor, weights: torch.Tensor, bias: Optional[torch.Tensor] = None
) -> torch.Tensor:
    """A 1x1 convolution with one filter a RoI.

    Args:
        features: (R, C, H, W).
        weights: (R, C), the filter of the class that each RoI needs.
        bias: (R,) or None.

    Returns:
        (R, 1, H, W) logits.
    """
    num_rois, channels, height, width = features.shape
    # Sizes are spelled out because view(-1) is ambiguous for R = 0.
    pixels = features.reshape(num_rois, channels, height * width)
    logits = torch.bmm(weights.unsqueeze(1), pixels).view(num_rois, 1, height, width)
    return logits if bias is None else logits + bias.view(num_rois, 1, 1, 1)


def mask_dice_loss(logits: torch.Tensor, instances: List[Instances]) -> torch.Tensor:
    """Mean dice loss of masks, in float32 at least; beside cross-entropy it keeps masks confident.

    Args:
        logits: (R, 1, M, M).
        instances: one item an image, R in all, with ``gt_masks`` and ``proposal_boxes``.

    Returns:
        A scalar; for R = 0 it is 0, with gradients of 0.
    """
    labelled = [x for x in instances if len(x)]
    if not labelled:
        return logits.sum() * 0
    side = logits.shape[-1]
    crops = [x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, side) for x in labelled]
    probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
    return dice_loss(probabilities.flatten(1), cat(crops).to(probabilities).flatten(1)).mean()


@ROI_MASK_HEAD_REGISTRY.register()
class MaskXHead(MaskRCNNConvUpsampleHead):
    """detectron2's mask trunk, then logits of the needed class alone, plus the MLP branch.

    The names of trunk and predictor are those of :class:`MaskRCNNConvUpsampleHead`, so weights of
    stock Mask R-CNN models load.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        conv_dims: List[int],
        predictor: str = "transfer",
        mlp: Optional[MaskMLP] = None,
        mlp_input: str = "upsampled",
        loss: str = "bce",
        hourglass: Optional[HourglassTrunk] = None,
        upsample: str = "deconv",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: of the pooled RoI features.
            num_classes: number of foreground classes K.
            conv_dims: widths of the trunk, the last for its upsampling layer.
            predictor: "transfer" (the caller gives a filter for each RoI), "class_agnostic",
                "class_specific" (K learned filters with bias), or "none" (MLP branch alone).
            mlp: the MLP branch, or None.
            mlp_input: "upsampled" = trunk output, "pooled" = pooled RoI features.
            loss: "bce", or "bce+dice".
            hourglass: a trunk with the last of ``conv_dims`` as width, in place of convolutions.
            upsample: last layer of the trunk of convolutions: "deconv", or "resize"
                (:class:`ResizeConv`).
            kwargs: as for :class:`MaskRCNNConvUpsampleHead`.

        Raises:
            ValueError: for an unknown predictor, MLP input, loss or upsampling, or the predictor
                "none" without MLP branch.
        """
        if predictor not in PREDICTORS:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.PREDICTOR '{predictor}' is not one of {', '.join(PREDICTORS)}"
            )
        if mlp_input not in MLP_INPUTS:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.MLP.INPUT '{mlp_input}' is not one of {', '.join(MLP_INPUTS)}"
            )
        if loss not in LOSSES:
            raise ValueError(f"MODEL.ROI_MASK_HEAD.LOSS '{loss}' is not one of {', '.join(LOSSES)}")
        if upsample not in UPSAMPLES:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.UPSAMPLE '{upsample}' is not one of {', '.join(UPSAMPLES)}"
            )
        if predictor == "none" and mlp is None:
            raise ValueError(
                "MODEL.ROI_MASK_HEAD.PREDICTOR 'none' needs MODEL.ROI_MASK_HEAD.MLP.ENABLED True: "
                "otherwise nothing predicts a mask"
            )
        learned = num_classes if predictor == "class_specific" else 1
        super().__init__(input_shape, num_classes=learned, conv_dims=conv_dims, **kwargs)
        self.hourglass = hourglass
        if hourglass is not None:
            for name in [n for n in self._modules if n.startswith(("mask_fcn", "deconv"))]:
                delattr(self, name)
            self.conv_norm_relus: List[nn.Module] = []
        elif upsample == "resize":
            self.deconv = ResizeConv([input_shape.channels, *conv_dims][-2], conv_dims[-1])
        if predictor in ("transfer", "none"):
            del self.predictor
        elif predictor == "class_specific":
            weight_init.c2_msra_fill(self.predictor)  # as in the original; detectron2: N(0, 0.001)
        if predictor == "none" and mlp_input == "pooled":
            # The trunk has no part in the result, and DDP fails on parameters without gradient.
            self._modules.clear()
            self.conv_norm_relus = []
        self.predictor_kind = predictor
        self.mlp = mlp
        self.mlp_input = mlp_input
        self.loss = loss

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> Dict[str, Any]:
        head = cfg.MODEL.ROI_MASK_HEAD
        if head.COORDINATES:
            channels = input_shape.channels + NUM_COORDINATES
            input_shape = ShapeSpec(channels, input_shape.height, input_shape.width)
        ret = super().from_config(cfg, input_shape)
        ret.update(
            num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            predictor=head.PREDICTOR,
            mlp_input=head.MLP.INPUT,
            loss=head.LOSS,
            upsample=head.UPSAMPLE,
        )
        if head.TRUNK not in TRUNKS:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.TRUNK '{head.TRUNK}' is not one of {', '.join(TRUNKS)}"
            )
        if head.TRUNK == "hourglass":
            ret.update(conv_dims=[head.CONV_DIM], hourglass=HourglassTrunk(cfg, input_shape))
        if head.MLP.ENABLED:
            side = 2 * input_shape.height
            size = input_shape.channels * input_shape.height * input_shape.width
            if head.MLP.INPUT == "upsampled":
                size = head.CONV_DIM * side * side
            ret["mlp"] = MaskMLP(size, side, num_fc=head.MLP.NUM_FC, fc_dim=head.MLP.FC_DIM)
        return ret

    def forward(
        self,
        x: torch.Tensor,
        instances: List[Instances],
        class_weights: Optional[torch.Tensor] = None,
    ) -> Union[Dict[str, torch.Tensor], List[Instances]]:
        """Losses in training, else the instances with ``pred_masks``.

        Args:
            x: (R, C, H, W) pooled features of all RoIs of the batch.
            instances: their instances, one item an image, R in all.
            class_weights: (R, C') filters for the predictor "transfer", C' = last of conv_dims.

        Returns:
            ``{"loss_mask": scalar}`` in training; otherwise ``instances``, each with ``pred_masks``
            of shape (N, 1, 2H, 2W), probabilities.
        """
        logits = self.logits(x, instance_classes(instances, self.training), class_weights)
        return self.losses(logits, instances) if self.training else self.masks(logits, instances)

    def losses(self, logits: torch.Tensor, instances: List[Instances]) -> Dict[str, torch.Tensor]:
        """Mask losses of the RoIs whose object has a usable mask, divided by their number.

        Args:
            logits: (R, 1, M, M).
            instances: one item an image, R in all, with ``proposal_boxes`` and ground truth.
        """
        usable = true_indices([has_usable_mask(x) for x in instances])
        if any(len(index) < len(x) for index, x in zip(usable, instances)):
            logits = logits[in_batch(usable, [len(x) for x in instances])]
            instances = [x[index] for x, index in zip(instances, usable)]
        loss = mask_rcnn_loss(logits, instances, self.vis_period)
        if self.loss == "bce+dice":
            loss = loss + mask_dice_loss(logits, instances)
        return {"loss_mask": loss * self.loss_weight}

    def masks(self, logits: torch.Tensor, instances: List[Instances]) -> List[Instances]:
        """The instances, R in all, with the probabilities of (R, 1, M, M) as ``pred_masks``."""
        mask_rcnn_inference(logits, instances)
        return instances

    def logits(
        self,
        x: torch.Tensor,
        classes: torch.Tensor,
        class_weights: Optional[torch.Tensor] = None,
    ) -> torch.Tensor:
        """Mask logits (R, 1, 2H, 2W) of the class that each RoI needs.

        Args:
            x: (R, C, H, W) pooled features.
            classes: (R,) class indices; used by the predictor "class_specific".
            class_weights: (R, C') filters; used by the predictor "transfer".

        Raises:
            ValueError: when the predictor is "transfer" and there are no ``class_weights``.
        """
        if self.mlp is not None and self.predictor_kind == "none" and self.mlp_input == "pooled":
            return self.mlp(x)  # the trunk has no part in the result
        features = self.trunk(x)
        terms = []
        if self.predictor_kind == "transfer":
            if class_weights is None:
                raise ValueError(
                    "MaskXHead with PREDICTOR 'transfer' gets its filters from "
                    "MODEL.ROI_HEADS.NAME 'PartiallySupervisedROIHeads'"
                )
            terms.append(gathered_logits(features, class_weights))
        elif self.predictor_kind == "class_specific":
            weights, bias = self.predictor.weight.flatten(1), self.predictor.bias
            terms.append(gathered_logits(features, weights[classes], bias[classes]))
        elif self.predictor_kind == "class_agnostic":
            terms.append(self.predictor(features))
        if self.mlp is not None:
            terms.append(self.mlp(features if self.mlp_input == "upsampled" else x))
        return sum(terms[1:], terms[0])

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) -> (R, C', 2H, 2W)."""
        if self.hourglass is not None:
            return self.hourglass(x)
        for layer in [*self.conv_norm_relus, self.deconv, self.deconv_relu]:
            x = layer(x)
        return x
