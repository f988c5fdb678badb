"""Intersection over union of two masks, and of their boundaries."""

from typing import Tuple

import cv2
import numpy as np

DILATION_RATIO = 0.02


def boundary_width(height: int, width: int) -> int:
    """How many pixels deep a boundary is: 2 % of the image's diagonal, at least 1."""
    return max(1, int(round(DILATION_RATIO * float(np.hypot(height, width)))))


def boundary_of(mask: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a mask that are at most ``width`` from its contour.

    What lies beyond the array counts as outside, so the border of an image is contour, too.

    Args:
        mask: (H, W) bool.
        width: in pixels.

    Returns:
        (H, W) bool.
    """
    ringed = np.pad(mask, 1).astype(np.uint8)
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    return mask & ~cv2.erode(ringed, kernel)[1:-1, 1:-1].astype(bool)


def mask_and_boundary_iou(predicted: np.ndarray, truth: np.ndarray) -> Tuple[float, float]:
    """Mask IoU, and Boundary IoU (Cheng et al., "Boundary IoU", 2021, equation 3).

    The second one is the IoU of the two masks' boundaries, of 2 % of the image's diagonal.

    Args:
        predicted: (H, W) bool, as large as the image.
        truth: (H, W) bool.

    Returns:
        Both from 0 to 1; 0 where both masks are empty.
    """
    width = boundary_width(*truth.shape)
    rows, columns = (np.flatnonzero((predicted | truth).any(axis)) for axis in (1, 0))
    if not rows.size:
        return 0.0, 0.0
    # Outside of this window nothing is in either mask, so nothing there is boundary.
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    predicted, truth = predicted[window], truth[window]
    return _iou(predicted, truth), _iou(boundary_of(predicted, width), boundary_of(truth, width))


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))
