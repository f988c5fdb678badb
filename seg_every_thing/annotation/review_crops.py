"""Crops of a review page: a small picture about a box, and the mask in its pixels."""

from math import ceil, floor
from typing import NamedTuple, Optional, Tuple

import cv2
import numpy as np

from .review_items import CropMask, ReviewItem

CROP_SIDE = 256
"""Longer side of a crop in pixels; smaller windows stay as they are."""
_MARGIN = 0.15  # of the longer side of the box, on each side of it ...
_MIN_MARGIN = 8  # ... and at least so many pixels

Window = Tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the image; at least one pixel."""


class Crop(NamedTuple):
    """What a page shows of an object."""

    window: Window
    size: Tuple[int, int]  # (width, height) in pixels of the crop
    runs: Tuple[int, ...]  # of the mask in these pixels, as in CropMask
    picture: Optional[np.ndarray]  # (height, width, 3) as the image; None without one


def crop_of(item: ReviewItem, image: Optional[np.ndarray]) -> Crop:
    """The crop of an object.

    Args:
        item: with its box and mask in pixels of the image.
        image: (H, W, 3) uint8; None where it cannot be read.
    """
    window = _window(item, None if image is None else image.shape[:2])
    x0, y0, x1, y1 = window
    scale = min(1, CROP_SIDE / max(x1 - x0, y1 - y0))
    size = max(1, round(scale * (x1 - x0))), max(1, round(scale * (y1 - y0)))
    mask = _scaled_mask(_mask_in(item.mask, window), size)
    picture = None
    if image is not None:
        picture = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    return Crop(window, size, CropMask.of(mask, 0, 0).runs, picture)


def _window(item: ReviewItem, image_size: Optional[Tuple[int, ...]]) -> Window:
    x, y, width, height = item.box
    margin = max(_MIN_MARGIN, _MARGIN * max(width, height))
    bottom, right = image_size or (ceil(y + height + margin), ceil(x + width + margin))
    x0, x1 = _within(x - margin, x + width + margin, right)
    y0, y1 = _within(y - margin, y + height + margin, bottom)
    return x0, y0, x1, y1


def _within(low: float, high: float, limit: int) -> Tuple[int, int]:
    """Whole pixels of a range that lie in 0 to the limit; the nearest one where none does."""
    start = min(max(0, floor(low)), max(0, limit - 1))
    return start, max(start + 1, min(ceil(high), limit))


def _mask_in(mask: CropMask, window: Window) -> np.ndarray:
    """A mask in another window: (height, width) bool."""
    x0, y0, x1, y1 = window
    inside = np.zeros((y1 - y0, x1 - x0), bool)
    left, top = max(x0, mask.left), max(y0, mask.top)
    right, bottom = min(x1, mask.left + mask.width), min(y1, mask.top + mask.height)
    if left < right and top < bottom:
        part = mask.decode()[top - mask.top : bottom - mask.top, left - mask.left :]
        inside[top - y0 : bottom - y0, left - x0 : right - x0] = part[:, : right - left]
    return inside


def _scaled_mask(mask: np.ndarray, size: Tuple[int, int]) -> np.ndarray:
    """Pixels at least half of which the mask covers, or most of those that it covers at all.

    So a mask that is too thin for the crop is still seen.
    """
    covered = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return covered >= min(0.5, max(covered.max(), 1e-6))
