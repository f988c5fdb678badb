"""RoI pooling between RoIPool and RoIAlign (Mask R-CNN, Table 2c), and its choice by config.

detectron2's ``ROIPooler`` knows "ROIPool", "ROIAlign" (half a cell off) and "ROIAlignV2" (the
average of bilinear samples).  Two things vary here: whether the box is rounded to whole cells
before it is sampled (RoIWarp) or not (RoIAlign), and whether a bin is the average or the maximum of
its samples.
"""

from typing import Dict, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling.poolers import ROIPooler
from torch import nn
from torch.nn import functional
from torchvision.ops import roi_align

POOLER_TYPES: Dict[str, Tuple[str, str]] = {
    "ROIAlignMax": ("none", "max"),
    "ROIWarpAvg": ("exclusive", "avg"),
    "ROIWarpMax": ("exclusive", "max"),
    "ROIWarpInclusiveAvg": ("inclusive", "avg"),
    "ROIWarpInclusiveMax": ("inclusive", "max"),
}
"""Names for ``POOLER_TYPE`` beside detectron2's: rounding of the box, and reduction of a bin."""

_STOCK = ("ROIAlign", "ROIAlignV2", "ROIPool", "ROIAlignRotated")


class RoISamplePool(nn.Module):
    """Bilinear samples on a regular grid in each bin of a box, reduced to one value a bin.

    Without rounding and with "avg" this is RoIAlign; with rounding it is RoIWarp.
    """

    def __init__(
        self,
        output_size: Tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        *,
        rounding: str = "none",
        reduction: str = "avg",
    ) -> None:
        """
        Args:
            output_size: bins down and across.
            spatial_scale: cells a pixel, 1 / stride.
            sampling_ratio: samples a bin in each direction; 0 = about one a cell, for "avg" alone.
            rounding: "none"; "exclusive" = both ends of a box to the nearest boundary of a cell,
                at least one cell apart; "inclusive" = from the first to the last cell that RoIPool
                would use, so one cell further.
            reduction: "avg" or "max" over the samples of a bin.

        Raises:
            ValueError: for an unknown rounding or reduction, and for "max" without a fixed number
                of samples.
        """
        super().__init__()
        if rounding not in ("none", "exclusive", "inclusive"):
            raise ValueError(f"rounding '{rounding}' is not one of none, exclusive, inclusive")
        if reduction not in ("avg", "max"):
            raise ValueError(f"reduction '{reduction}' is not one of avg, max")
        if reduction == "max" and sampling_ratio < 1:
            raise ValueError(
                f"the maximum over the samples of a bin needs a fixed number of them: set "
                f"POOLER_SAMPLING_RATIO to 1 or more (2 is usual), got {sampling_ratio}"
            )
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.rounding = rounding
        self.reduction = reduction

    def forward(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """Pool.

        Args:
            features: (N, C, H, W).
            rois: (R, 5), each an image index and x0, y0, x1, y1 in pixels; R may be 0.

        Returns:
            (R, C, *output_size).
        """
        boxes = self._rounded(rois[:, 1:] * self.spatial_scale)
        cells = torch.cat([rois[:, :1], boxes], dim=1).to(features.dtype)
        ratio = self.sampling_ratio
        if self.reduction == "avg":
            return roi_align(features, cells, self.output_size, 1.0, ratio, aligned=True)
        # One sample in the middle of each part of a bin: the very places that RoIAlign averages.
        fine = (self.output_size[0] * ratio, self.output_size[1] * ratio)
        samples = roi_align(features, cells, fine, 1.0, 1, aligned=True)
        return functional.max_pool2d(samples, ratio)

    def _rounded(self, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (R, 4) in cells, as ``rounding`` says."""
        if self.rounding == "none":
            return boxes
        boxes = torch.floor(boxes + 0.5)  # halves go up as in RoIPool; torch.round: to even
        first, last = boxes[:, :2], boxes[:, 2:]
        end = last + 1 if self.rounding == "inclusive" else last
        return torch.cat([first, torch.maximum(end, first + 1)], dim=1)

    def extra_repr(self) -> str:
        """What is shown of it in a printed model."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, rounding={self.rounding}, "
            f"reduction={self.reduction}"
        )


def with_stock_pooler(cfg: CfgNode, head: str) -> CfgNode:
    """A config that detectron2 can build a pooler from; :func:`set_pooler_type` mends the pooler.

    Args:
        cfg: a detectron2 config.
        head: "ROI_BOX_HEAD" or "ROI_MASK_HEAD".

    Returns:
        ``cfg`` itself when the type is detectron2's own, else a copy with "ROIAlignV2".

    Raises:
        ValueError: for a type that neither detectron2 nor this package knows.
    """
    pooler_type = cfg.MODEL[head].POOLER_TYPE
    if pooler_type in POOLER_TYPES:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL[head].POOLER_TYPE = "ROIAlignV2"
    elif pooler_type and pooler_type not in _STOCK:
        known = ", ".join((*_STOCK, *POOLER_TYPES))
        raise ValueError(f"MODEL.{head}.POOLER_TYPE '{pooler_type}' is not one of {known}")
    return cfg


def set_pooler_type(pooler: ROIPooler, pooler_type: str) -> None:
    """Turn a pooler of the type "ROIAlignV2" into one of ``POOLER_TYPES``, in place.

    Sizes, strides, sampling ratio and the choice of levels stay.  Other types change nothing.
    """
    if pooler_type not in POOLER_TYPES:
        return
    rounding, reduction = POOLER_TYPES[pooler_type]
    pooler.level_poolers = nn.ModuleList(
        RoISamplePool(
            level.output_size,
            level.spatial_scale,
            level.sampling_ratio,
            rounding=rounding,
            reduction=reduction,
        )
        for level in pooler.level_poolers
    )
