"""The dice loss of two maps."""

import torch


def dice_loss(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """``1 - 2 sum(p t) / (sum(p p) + sum(t t))``: 0 where the two are equal, at most 1.

    Args:
        predicted: (R, n), values from 0 to 1.
        target: (R, n), values from 0 to 1.

    Returns:
        (R,)
    """
    overlap = (predicted * target).sum(1)
    total = (predicted * predicted + target * target).sum(1)
    return 1 - 2 * overlap / total.clamp(min=1e-6)
