"""Neighbours of one colour mostly belong together: a loss on masks that needs the image alone.

The affinity loss of BoxInst (Tian et al., 2021, section 3.2).
"""

import math
from functools import lru_cache

import torch
from torch.nn import functional

from .neighbours import first_of_pairs, second_of_pairs

# Linear sRGB -> CIE XYZ, each row divided by its component of the white point D65.
_RGB_TO_XYZ = (
    (0.412453 / 0.950456, 0.357580 / 0.950456, 0.180423 / 0.950456),
    (0.212671, 0.715160, 0.072169),
    (0.019334 / 1.088754, 0.119193 / 1.088754, 0.950227 / 1.088754),
)


@lru_cache(maxsize=8)
def _xyz_matrix(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On the device once and for all: to bring it there is to wait for it."""
    with torch.inference_mode(False):  # or training could not use what inference left here
        return torch.tensor(_RGB_TO_XYZ, dtype=dtype, device=device)


def rgb_to_lab(rgb: torch.Tensor) -> torch.Tensor:
    """Convert sRGB to CIELAB under D65, with tensor operations alone.

    Args:
        rgb: (..., 3, H, W), values from 0 to 255; what is outside is clamped.

    Returns:
        (..., 3, H, W) of the same type: L from 0 to 100, a and b about from -127 to 127.
    """
    rgb = rgb.clamp(0, 255) / 255
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = torch.einsum("ij,...jhw->...ihw", _xyz_matrix(rgb.dtype, rgb.device), linear)
    # The clamp changes no value that is used: it keeps the unused branch away from roots of 0.
    root = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = root.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def affinity_loss(
    logits: torch.Tensor,
    colors: torch.Tensor,
    centres: torch.Tensor,
    valid: torch.Tensor,
    *,
    threshold: float = 0.3,
    dilation: int = 2,
) -> torch.Tensor:
    """How unlikely it is that neighbours of one colour have one label, on the average.

    An edge leads from a pixel, its centre, to one of the 8 around it, ``dilation`` away.  It counts
    where ``exp(-d / 2)`` is at least ``threshold``, d being the distance of the two colours.

    Args:
        logits: (R, H, W).
        colors: (R, 3, H, W), LAB.
        centres: (R, H, W) bool, the pixels whose edges count.
        valid: (R, H, W) bool, the pixels that edges may touch at all.
        threshold: of the similarity, above 0, at most 1.
        dilation: distance of neighbours in pixels.

    Returns:
        (R,) means of ``-log P(both in or both out)`` over the edges; 0 where there are none.
    """
    farthest = -2 * math.log(threshold)
    inside, outside = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    loss = count = logits.new_zeros(len(logits))
    # Half of the 8 directions: an edge back differs in its centre alone.
    for step in ((0, dilation), (dilation, 0), (dilation, dilation), (dilation, -dilation)):
        distance = torch.linalg.vector_norm(
            first_of_pairs(colors, step) - second_of_pairs(colors, step), dim=1
        )
        alike = (distance <= farthest) & first_of_pairs(valid, step) & second_of_pairs(valid, step)
        edges = alike * (first_of_pairs(centres, step).to(loss) + second_of_pairs(centres, step))
        same = torch.logaddexp(
            first_of_pairs(inside, step) + second_of_pairs(inside, step),
            first_of_pairs(outside, step) + second_of_pairs(outside, step),
        )
        loss = loss - (edges * same).sum((1, 2))
        count = count + edges.sum((1, 2))
    return loss / count.clamp(min=1)
