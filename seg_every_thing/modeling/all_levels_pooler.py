"""RoI features from every level of a backbone at once, not from the one of the RoI's size."""

from typing import Any, Callable, Dict, List

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from fvcore.nn import weight_init
from torch import nn

POOLER_LEVELS = ("assigned", "all")


class AllLevelsPooler(nn.Module):
    """Pools each RoI from every level, brings the levels to one width, and adds them up.

    What the lateral connections of an FPN are to a whole image, this is to a RoI: fine levels say
    where an edge is, coarse ones what it belongs to.  On a frozen backbone without an FPN it leaves
    nothing to compute for the image that would change in training.
    """

    @configurable
    def __init__(self, *, poolers: List[nn.Module], in_channels: List[int], channels: int) -> None:
        """
        Args:
            poolers: a pooler of one level each, of equal output sizes.
            in_channels: of each level.
            channels: of the result.
        """
        super().__init__()
        self.poolers = nn.ModuleList(poolers)
        self.laterals = nn.ModuleList(Conv2d(width, channels, 1) for width in in_channels)
        for lateral in self.laterals:
            weight_init.c2_msra_fill(lateral)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Dict[str, ShapeSpec]) -> Dict[str, Any]:
        head = cfg.MODEL.ROI_MASK_HEAD
        levels = [input_shape[name] for name in cfg.MODEL.ROI_HEADS.IN_FEATURES]
        poolers = [
            ROIPooler(
                output_size=head.POOLER_RESOLUTION,
                scales=(1.0 / level.stride,),
                sampling_ratio=head.POOLER_SAMPLING_RATIO,
                pooler_type=head.POOLER_TYPE,
            )
            for level in levels
        ]
        return {
            "poolers": poolers,
            "in_channels": [level.channels for level in levels],
            "channels": head.CONV_DIM,
        }

    def forward(self, features: List[torch.Tensor], boxes: List[Boxes]) -> torch.Tensor:
        """Features (N, C_i, H_i, W_i) of each level and boxes of N images -> (R, C, S, S)."""
        pooled = [
            lateral(pooler([feature], boxes))
            for lateral, pooler, feature in zip(self.laterals, self.poolers, features)
        ]
        return torch.stack(pooled).sum(0).relu()


def with_pooler_levels(
    init_mask_head: Callable[..., Dict[str, Any]], cfg: CfgNode, input_shape: Dict[str, ShapeSpec]
) -> Dict[str, Any]:
    """Mask head and pooler of RoI heads, pooled from the levels that the config names.

    Args:
        init_mask_head: detectron2's, which gives the head the channels of the first level.
        cfg: decides by ``MODEL.ROI_MASK_HEAD.POOLER_LEVELS``.
        input_shape: of the backbone's features.

    Raises:
        ValueError: for another value than :data:`POOLER_LEVELS`.
    """
    # The heads of the Mask R-CNN ablations run without our keys.
    levels = cfg.MODEL.ROI_MASK_HEAD.get("POOLER_LEVELS", "assigned")
    if levels not in POOLER_LEVELS:
        raise ValueError(
            f"MODEL.ROI_MASK_HEAD.POOLER_LEVELS '{levels}' is not one of {', '.join(POOLER_LEVELS)}"
        )
    if levels == "assigned" or not cfg.MODEL.MASK_ON:
        return init_mask_head(cfg, input_shape)
    width = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM
    shapes = {k: ShapeSpec(channels=width, stride=x.stride) for k, x in input_shape.items()}
    return {**init_mask_head(cfg, shapes), "mask_pooler": AllLevelsPooler(cfg, input_shape)}
