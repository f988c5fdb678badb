"""A mask head learns from its own masks, as the image sharpens them.

The CRF loss of "Vision Transformers Are Good Mask Auto-Labelers" (Lan et al., CVPR 2023, arXiv
2301.03992), with two differences: the head is its own teacher, without a moving average, and the
CRF is that of :class:`MeanField`.
"""

import torch

from .dice_loss import dice_loss
from .mean_field import MeanField

# Lengths are half of TEST.MEAN_FIELD's, which has 56 cells on the sides of a box: a RoI of 1.25
# times the box has 22 of its 28.
ROI_MEAN_FIELD = MeanField(appearance_sigma=6.0, smoothness_sigma=1.0, steps=(1, 2, 3, 5))


def crf_loss(
    logits: torch.Tensor,
    images: torch.Tensor,
    inside: torch.Tensor,
    valid: torch.Tensor,
    mean_field: MeanField = ROI_MEAN_FIELD,
) -> torch.Tensor:
    """Dice loss of masks against themselves after the CRF.

    What is outside of its box is background for sure, so colours that go on there are less likely
    the object's.  The refined mask is a target: no gradient passes it.

    Args:
        logits: (R, H, W).
        images: (R, 3, H, W), values of 0 to 255.
        inside: (R, H, W) bool, the pixels that lie in the object's box.
        valid: (R, H, W) bool, the pixels that count.  The colours of others are not looked at.
        mean_field: with lengths in pixels of these maps.

    Returns:
        (R,) values from 0 to 1.
    """
    probabilities = logits.sigmoid()
    with torch.no_grad():
        refined = mean_field.masks((probabilities * inside)[:, None], images, valid)[:, 0]
        target = refined * (inside & valid)
    return dice_loss((probabilities * valid).flatten(1), target.flatten(1))
