"""What a box says of the extent of the mask in it: its shadows on the two axes are the box's."""

from typing import Tuple

import torch
from torch.nn.functional import softplus

from .dice_loss import dice_loss
from .mask_geometry import box_coverage

Shadows = Tuple[torch.Tensor, torch.Tensor]
"""On the y axis (R, H), on the x axis (R, W)."""


def projection_loss(
    logits: torch.Tensor, rois: torch.Tensor, boxes: torch.Tensor, margin: float = 0.0
) -> torch.Tensor:
    """How far the shadows of a mask on the two axes are from those of its box.

    The shadow of a mask is the maximum of its probabilities over rows, or over columns.

    Args:
        logits: (R, H, W).
        rois: (R, 4), what the logits lie on.
        boxes: (R, 4), the boxes of the objects.
        margin: boxes may be too large by so many pixels on each side, though by no more than an
            eighth of it.  What lies there does not count.

    Returns:
        (R,) values from 0 (the shadows are the box's) to 2.
    """
    probabilities = logits.sigmoid()
    maxima = probabilities.amax(dim=2), probabilities.amax(dim=1)
    shadows, counts = _shadows(rois, boxes, margin, logits.shape[1:])
    on_y, on_x = (dice_loss(m * c, s * c) for m, s, c in zip(maxima, shadows, counts))
    return on_y + on_x


def tightness_loss(
    logits: torch.Tensor, rois: torch.Tensor, boxes: torch.Tensor, margin: float = 0.0
) -> torch.Tensor:
    """Multiple-instance loss: a row or column through the box has a pixel of the mask, others none.

    The unary term of "Weakly Supervised Instance Segmentation using the Bounding Box Tightness
    Prior" (Hsu et al., NeurIPS 2019), with cross-entropy: ``-log max`` as a mean over the lines
    through the box plus ``-log (1 - max)`` as a mean over the others, for rows and for columns.  A
    line at a side of the box is of both kinds, by the share of it that the box covers.

    Args:
        logits: (R, H, W).
        rois: (R, 4), what the logits lie on.
        boxes: (R, 4), the boxes of the objects.
        margin: as in :func:`projection_loss`.

    Returns:
        (R,) values from 0 on.
    """
    maxima = logits.amax(dim=2), logits.amax(dim=1)
    shadows, counts = _shadows(rois, boxes, margin, logits.shape[1:])
    return sum(
        _mean(softplus(-best), cover * count) + _mean(softplus(best), (1 - cover) * count)
        for best, cover, count in zip(maxima, shadows, counts)
    )


def _mean(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (losses * weights).sum(1) / weights.sum(1).clamp(min=1e-6)


def _shadows(
    rois: torch.Tensor, boxes: torch.Tensor, margin: float, size: torch.Size
) -> Tuple[Shadows, Shadows]:
    """Those of the boxes, and what a line counts: 1, or less where it passes the box's margin."""
    rows, columns = box_coverage(rois, boxes, size)
    if not margin:
        return (rows, columns), (torch.ones_like(rows), torch.ones_like(columns))
    inwards = ((boxes[:, 2:] - boxes[:, :2]) / 8).clamp(max=margin)
    inner = torch.cat([boxes[:, :2] + inwards, boxes[:, 2:] - inwards], dim=1)
    inner_rows, inner_columns = box_coverage(rois, inner, size)
    return (rows, columns), (1 - (rows - inner_rows), 1 - (columns - inner_columns))
