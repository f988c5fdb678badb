"""Pairs of pixels at one distance, as two views of a map."""

from typing import Tuple

import torch

Step = Tuple[int, int]
"""Down and to the right, in pixels; down is not negative."""


def first_of_pairs(x: torch.Tensor, step: Step) -> torch.Tensor:
    """The pixels of (..., H, W) that have a pixel ``step`` (down, to the right) of them."""
    height, width = x.shape[-2:]
    down, right = step
    return x[..., : max(height - down, 0), max(-right, 0) : max(width - max(right, 0), 0)]


def second_of_pairs(x: torch.Tensor, step: Step) -> torch.Tensor:
    """The pixels that are ``step`` away from those of :func:`first_of_pairs`, in the same order."""
    width, (down, right) = x.shape[-1], step
    return x[..., down:, max(right, 0) : max(width + min(right, 0), 0)]
