"""Choosing some of the RoIs of a batch, with one wait for the device.

Indexing with a bool tensor asks the device how many there are, each time and for each tensor, and a
GPU runs dry meanwhile.  Here all counts of a batch are asked for at once.
"""

from itertools import accumulate
from typing import List, Sequence

import torch


def true_indices(masks: Sequence[torch.Tensor]) -> List[torch.Tensor]:
    """Where bool vectors are True.

    Args:
        masks: (n,) for each image; at least one.

    Returns:
        Indices of the True items in their order, (m,) for each image.
    """
    counts = torch.stack([mask.sum() for mask in masks]).tolist()  # the wait
    # A stable sort puts them first and keeps their order.
    return [(~mask).byte().argsort(stable=True)[:count] for mask, count in zip(masks, counts)]


def in_batch(indices: Sequence[torch.Tensor], lengths: Sequence[int]) -> torch.Tensor:
    """Indices within each image -> indices within the batch, whose images are joined.

    Args:
        indices: (m,) for each image.
        lengths: how many items each image has.

    Returns:
        (M,), M being all of them.
    """
    starts = accumulate(lengths, initial=0)
    return torch.cat([index + start for index, start in zip(indices, starts)])
