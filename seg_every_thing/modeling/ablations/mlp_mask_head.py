"""Masks from fully connected layers, without convolutions (Mask R-CNN, Table 2e)."""

from typing import Any, Dict, List

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead
from fvcore.nn import weight_init
from torch import nn

from ...config_ablations import ablation_config


@ROI_MASK_HEAD_REGISTRY.register()
class MaskRCNNMLPHead(BaseMaskRCNNHead):
    """All pixels of all masks of a RoI as outputs of a multilayer perceptron.

    Loss and inference are detectron2's, as for the convolutional head, and so is the size of the
    masks, twice that of the pooled features.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_classes: int,
        num_fc: int = 2,
        fc_dim: int = 1024,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: of the pooled RoI features, with height and width.
            num_classes: masks a RoI: the foreground classes, or 1 if class-agnostic.
            num_fc: hidden layers, each followed by a ReLU; 0 = one linear map.
            fc_dim: their width.
            kwargs: as for :class:`BaseMaskRCNNHead`.

        Raises:
            ValueError: for a negative number of layers, or features that are not square.
        """
        super().__init__(**kwargs)
        if num_fc < 0:
            raise ValueError(f"MODEL.ROI_MASK_HEAD.NUM_FC must be 0 or more, got {num_fc}")
        if not input_shape.height or input_shape.height != input_shape.width:
            raise ValueError(
                f"MaskRCNNMLPHead needs square RoI features of a known size, got {input_shape}"
            )
        self.input_size = (input_shape.channels, input_shape.height, input_shape.width)
        self.mask_size = (num_classes, 2 * input_shape.height, 2 * input_shape.width)
        width = input_shape.channels * input_shape.height * input_shape.width
        layers: List[nn.Module] = [nn.Flatten()]
        for _ in range(num_fc):
            layers += [nn.Linear(width, fc_dim), nn.ReLU()]
            weight_init.c2_xavier_fill(layers[-2])  # as detectron2's box head
            width = fc_dim
        self.hidden = nn.Sequential(*layers)
        self.predictor = nn.Linear(width, num_classes * self.mask_size[1] * self.mask_size[2])
        nn.init.normal_(self.predictor.weight, std=0.001)  # as detectron2's convolutional one
        nn.init.zeros_(self.predictor.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> Dict[str, Any]:
        ret = super().from_config(cfg, input_shape)
        head = ablation_config(cfg).MODEL.ROI_MASK_HEAD
        ret.update(
            input_shape=input_shape,
            num_classes=1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            num_fc=head.NUM_FC,
            fc_dim=head.FC_DIM,
        )
        return ret

    def layers(self, x: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) RoI features -> (R, K, 2H, 2W) logits; R may be 0.

        Raises:
            ValueError: when the features have another size than the head was built for.
        """
        if tuple(x.shape[1:]) != self.input_size:
            raise ValueError(
                f"MaskRCNNMLPHead was built for RoI features {self.input_size} and got "
                f"{tuple(x.shape[1:])}; heads for C4, which halve the features, need "
                f"MaskRCNNConvUpsampleHead"
            )
        return self.predictor(self.hidden(x)).view(x.shape[0], *self.mask_size)
