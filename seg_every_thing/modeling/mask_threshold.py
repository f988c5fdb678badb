"""From which probability on a pixel belongs to a mask: a number, or a fit to the box.

Detectors and their tools (postprocessing, test-time augmentation, exports) cut masks at 0.5.  So
another threshold is not handed on: the probabilities are moved such that it becomes 0.5.
"""

from typing import Any, Optional, Union

import torch

Threshold = Optional[Union[float, str]]

FIT_THRESHOLDS = (0.5, 0.4, 0.3, 0.2, 0.1)
FIT_COVER = 0.95


def checked_threshold(threshold: Any) -> Threshold:
    """The value of ``TEST.MASK_THRESHOLD``; None where the masks stay as they are, as for 0.5.

    Raises:
        ValueError: for anything but None, "fit", or a number between 0 and 1.
    """
    if threshold is None or threshold == "fit":
        return threshold
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        threshold = repr(threshold)
    elif 0 < threshold < 1:
        return None if threshold == 0.5 else float(threshold)
    raise ValueError(
        f"TEST.MASK_THRESHOLD must be a number above 0 and below 1, or 'fit': got {threshold}"
    )


def fitted_thresholds(probabilities: torch.Tensor) -> torch.Tensor:
    """For each mask the largest of 0.5, 0.4 ... 0.1 at which it covers its box on both axes.

    That is, at least 95 % of the box's rows and of its columns hold a pixel of the mask.  It is the
    smallest threshold where none does.

    Args:
        probabilities: (R, 1, M, M) on the boxes.

    Returns:
        (R,)
    """
    shadows = torch.stack([probabilities.amax(dim=3), probabilities.amax(dim=2)], dim=2)[:, 0]
    levels = shadows.new_tensor(FIT_THRESHOLDS)
    cover = (shadows[..., None] >= levels).to(shadows).mean(dim=2)  # (R, 2 axes, thresholds)
    fits = (cover >= FIT_COVER).all(dim=1)
    fits[:, -1] = True
    return levels[fits.int().argmax(dim=1)]


def moved_to_half(
    probabilities: torch.Tensor, threshold: Union[float, torch.Tensor]
) -> torch.Tensor:
    """Probabilities whose logits are shifted so that ``threshold`` becomes 0.5.

    Args:
        probabilities: (R, 1, M, M).
        threshold: of all masks, or (R,) of each.

    Returns:
        (R, 1, M, M)
    """
    t = torch.as_tensor(threshold).to(probabilities).view(-1, 1, 1, 1)
    inside, outside = probabilities * (1 - t), (1 - probabilities) * t
    return inside / (inside + outside)
