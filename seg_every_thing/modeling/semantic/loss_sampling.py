"""Patchwise training as loss sampling (FCN paper, sections 3.4 and 4.3).

A batch of patches drawn from an image is the loss of the whole image with some of its cells left
out.  A cell is the block of pixels that one unit of the score map decides.
"""

from typing import Optional

import torch
from torch.nn import functional as F


def sample_cells(
    height: int,
    width: int,
    num_images: int,
    keep_probability: float,
    *,
    generator: Optional[torch.Generator] = None,
    device: Optional[torch.device] = None,
) -> torch.Tensor:
    """Choose cells of the loss independently of each other.

    Args:
        height, width: size of the grid of cells.
        num_images: number of grids.
        keep_probability: chance of each cell to be kept, in (0, 1].
        generator: source of the random numbers; default: torch's own.
        device: where the result lives; with a generator, the generator's device.

    Returns:
        bool (num_images, height, width), True where a cell is kept.

    Raises:
        ValueError: for a probability outside (0, 1].
    """
    check_probability(keep_probability)
    size = (num_images, height, width)
    return torch.rand(size, generator=generator, device=device) < keep_probability


def check_probability(keep_probability: float) -> None:
    """
    Raises:
        ValueError: for a probability outside (0, 1].
    """
    if not 0 < keep_probability <= 1:
        raise ValueError(f"LOSS_SAMPLE_P must be in (0, 1], got {keep_probability}")


def ignore_cells(
    targets: torch.Tensor, kept: torch.Tensor, cell: int, ignore_value: int
) -> torch.Tensor:
    """Make every pixel of the cells that are not kept void.

    Args:
        targets: (N, H, W) class indices.
        kept: bool (N, ceil(H / cell), ceil(W / cell)).
        cell: side of a cell in pixels.
        ignore_value: index of void pixels.

    Returns:
        A new (N, H, W) tensor.
    """
    height, width = targets.shape[-2:]
    pixels = F.interpolate(kept[:, None].float(), scale_factor=cell, mode="nearest")[:, 0] > 0.5
    return targets.masked_fill(~pixels[:, :height, :width], ignore_value)


def sample_targets(
    targets: torch.Tensor,
    keep_probability: float,
    cell: int,
    ignore_value: int,
    generator: Optional[torch.Generator] = None,
) -> torch.Tensor:
    """Targets in which each cell has been dropped with probability ``1 - keep_probability``.

    To keep as many cells a step as without sampling, raise the images of a batch by
    ``1 / keep_probability``.

    Args:
        targets: (N, H, W) class indices.
        keep_probability: in (0, 1]; at 1 the targets come back as they are.
        cell: side of a cell in pixels.
        ignore_value: index of void pixels.
        generator: source of the random numbers, on the device of the targets.

    Returns:
        (N, H, W) targets.

    Raises:
        ValueError: for a probability outside (0, 1].
    """
    check_probability(keep_probability)
    if keep_probability == 1:
        return targets
    rows, columns = (-(-size // cell) for size in targets.shape[-2:])
    kept = sample_cells(
        *(rows, columns, len(targets), keep_probability),
        generator=generator,
        device=targets.device,
    )
    return ignore_cells(targets, kept, cell, ignore_value)
