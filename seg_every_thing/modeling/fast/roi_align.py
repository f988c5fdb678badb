"""RoIAlign on a CPU as a weighted sum of pixels, on all threads.

torchvision's own kernel for CPUs runs on one thread, a channel at a time.  Both axes of a bin are
sampled independently of each other, so that a bin is the sum of few pixels with weights, and
PyTorch's ``embedding_bag`` computes such sums for all channels of a pixel at once.
"""

from typing import Tuple

import torch
from detectron2.layers import ROIAlign
from torch import nn
from torch.nn import functional


def roi_align(
    features: torch.Tensor,
    rois: torch.Tensor,
    output_size: Tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> torch.Tensor:
    """As ``torchvision.ops.roi_align``, without gradients and for float32 on a CPU.

    Equal to it up to rounding (1e-5 of features of size one).

    Args:
        features: (N, C, H, W); fastest in the memory format ``channels_last``.
        rois: (R, 5) index of the image, x0, y0, x1, y1.
        output_size: height and width of the result.
        spatial_scale: pixels of the features / unit of the RoIs.
        sampling_ratio: samples on each axis of a bin; 0 = one a pixel or part of it.
        aligned: pixel centres lie half a pixel from the pixels' corners.

    Returns:
        (R, C, height, width), in the memory format ``channels_last``.
    """
    num_images, channels, height, width = features.shape
    bins_y, bins_x = output_size
    if len(rois) == 0:
        return features.new_zeros(0, channels, bins_y, bins_x)
    pixels = features.permute(0, 2, 3, 1).reshape(num_images * height * width, channels)
    corners = rois[:, 1:].float() * spatial_scale - (0.5 if aligned else 0.0)
    sizes = corners[:, 2:] - corners[:, :2]
    if not aligned:
        sizes = sizes.clamp(min=1)
    y, weight_y = _taps(corners[:, 1], sizes[:, 1], bins_y, sampling_ratio, height)
    x, weight_x = _taps(corners[:, 0], sizes[:, 0], bins_x, sampling_ratio, width)
    first = rois[:, 0].to(torch.int32)[:, None, None, None, None] * (height * width)
    index = (first + y[:, :, None, :, None] * width) + x[:, None, :, None, :]
    weight = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
    used = weight != 0
    counts = used.view(len(rois) * bins_y * bins_x, -1).sum(1, dtype=torch.int32)
    starts = counts.cumsum(0, dtype=torch.int32) - counts
    pooled = functional.embedding_bag(
        index[used], pixels, starts, mode="sum", per_sample_weights=weight[used]
    )
    return pooled.view(len(rois), bins_y, bins_x, channels).permute(0, 3, 1, 2)


def _taps(
    start: torch.Tensor, size: torch.Tensor, bins: int, sampling_ratio: int, limit: int
) -> Tuple[torch.Tensor, torch.Tensor]:
    """The pixels of each bin on one axis, and their weights.

    Args:
        start, size: (R,) of the RoIs, in pixels.
        bins: of a RoI.
        sampling_ratio: see :func:`roi_align`.
        limit: pixels on this axis.

    Returns:
        Both (R, bins, taps): int32 and float32; weights are 0 where there is no tap.
    """
    step = size / bins
    # A RoI without an area has no samples, and so features of 0, as in torchvision.
    samples = step.ceil() if sampling_ratio == 0 else torch.full_like(step, sampling_ratio)
    samples = samples[:, None, None]
    most = max(int(samples.max()), 1)
    place = torch.arange(most, dtype=torch.float32)
    begin = start[:, None] + torch.arange(bins, dtype=torch.float32) * step[:, None]
    position = begin[:, :, None] + (place + 0.5) * step[:, None, None] / samples.clamp(min=1)
    counts = (place < samples) & (position >= -1) & (position <= limit)
    position = position.clamp(min=0, max=limit - 1)
    low = position.floor()
    high_weight = position - low
    share = counts / samples.clamp(min=1)
    low = low.to(torch.int32)
    index = torch.cat([low, (low + 1).clamp(max=limit - 1)], dim=2)
    weight = torch.cat([(1 - high_weight) * share, high_weight * share], dim=2)
    if sampling_ratio:
        return index, weight
    # Neighbouring samples are at most a pixel apart and share pixels: their weights are added up.
    base = low[:, :, :1]
    merged = weight.new_zeros(*weight.shape[:2], most + 1)
    place_of = (index - base).clamp(min=0, max=most).long()
    merged.scatter_add_(2, place_of, weight)
    taps = base + torch.arange(most + 1, dtype=torch.int32)
    return taps.clamp(max=limit - 1), merged


class FastROIAlign(nn.Module):
    """:class:`ROIAlign` of detectron2 by :func:`roi_align`, where that applies."""

    def __init__(self, stock: ROIAlign) -> None:
        """
        Args:
            stock: what it stands for, and what it leaves other devices and types to.
        """
        super().__init__()
        self.stock = stock

    def forward(self, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) features and (R, 5) RoIs -> (R, C, height, width)."""
        if features.device.type != "cpu" or features.dtype != torch.float32:
            return self.stock(features, rois)
        stock = self.stock
        return roi_align(
            *(features, rois, stock.output_size, stock.spatial_scale, stock.sampling_ratio),
            stock.aligned,
        )
