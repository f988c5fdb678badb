"""The box of an object: whether it is one, and whether a file writes corners for sizes."""

from typing import Any, NamedTuple, Optional, Sequence

import numpy as np

from .segmentations import MAX_COORDINATE, Corners, Size, are_numbers, shortened

EMPTY_BOX = "with a box without area"
OUTSIDE_BOX = "with a box outside the image"
CUT_BOX = "with a box cut to the image"

_TOLERANCE = 1.0
"""Pixels by which a box may leave its image: tools round, and COCO counts pixels in two ways."""
_MIN_SIDE = 1e-5
"""detectron2 takes narrower boxes for empty ones."""


class Box(NamedTuple):
    """A box that was checked."""

    xywh: Sequence[float]  # as it was, or cut to the image
    flaw: str = ""  # EMPTY_BOX, OUTSIDE_BOX: it is of no use; CUT_BOX


def read_box(bbox: Any, image_size: Optional[Size] = None) -> Box:
    """Check a box.

    Args:
        bbox: x, y, width, height in pixels.
        image_size: (height, width) that it is cut to where it leaves the image; None = it is not.

    Returns:
        The box.

    Raises:
        ValueError: unless it is 4 finite numbers, the last two not negative.
    """
    if bbox is None:
        raise ValueError("it has no bbox")
    if not isinstance(bbox, (list, tuple, np.ndarray)) or not are_numbers(bbox) or len(bbox) != 4:
        raise ValueError(f"its bbox {shortened(bbox)} is not 4 numbers x, y, width, height")
    if not all(abs(v) <= MAX_COORDINATE for v in bbox):  # NaN is not, either
        wrong = next(v for v in bbox if not abs(v) <= MAX_COORDINATE)
        raise ValueError(
            f"its bbox {shortened(list(bbox))} has {shortened(wrong)}, which is no place or size"
        )
    xywh: Any = bbox
    x, y, w, h = xywh
    if min(w, h) < 0:
        raise ValueError(f"its bbox {shortened(list(bbox))} has a negative width or height")
    if min(w, h) <= _MIN_SIDE:
        return Box(xywh, EMPTY_BOX)
    if image_size is None:
        return Box(xywh)
    height, width = image_size
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if min(x1 - x0, y1 - y0) <= _MIN_SIDE:
        return Box(xywh, OUTSIDE_BOX)
    if max(x0 - x, y0 - y, x + w - x1, y + h - y1) > _TOLERANCE:
        return Box([x0, y0, x1 - x0, y1 - y0], CUT_BOX)
    return Box(xywh)


def overlap(one: Corners, other: Corners) -> float:
    """Intersection over union of two boxes x0, y0, x1, y1; 0 where either has no area."""
    w = min(one[2], other[2]) - max(one[0], other[0])
    h = min(one[3], other[3]) - max(one[1], other[1])
    if w <= 0 or h <= 0:
        return 0.0
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return w * h / (areas - w * h)


class CornerVotes:
    """Whether the boxes of a file are something else by mistake: no single one can tell.

    That is x0, y0, x1, y1, or shares of the image instead of pixels.

    A box speaks for one reading where it fits the mask of its object better, or, without a mask,
    where only one of the readings gives a box inside the image.
    """

    def __init__(self) -> None:
        self.boxes = self.for_corners = self.for_sizes = self.within_a_pixel = 0

    def add(self, bbox: Any, image_size: Size, extent: Optional[Corners]) -> None:
        """Count a box that :func:`read_box` takes, and the extent of its mask if it has one."""
        self.boxes += 1
        x, y, a, b = bbox
        self.within_a_pixel += max(bbox) <= 1 < min(image_size)
        ordered = a > x and b > y
        if extent is not None:
            as_sizes = overlap((x, y, x + a, y + b), extent)
            as_corners = overlap((x, y, a, b), extent) if ordered else 0.0
            self.for_corners += as_corners > as_sizes + 0.1
            self.for_sizes += as_sizes > as_corners + 0.1
        else:
            height, width = image_size[0] + _TOLERANCE, image_size[1] + _TOLERANCE
            as_sizes = x + a <= width and y + b <= height
            as_corners = ordered and a <= width and b <= height
            self.for_corners += as_corners and not as_sizes
            self.for_sizes += as_sizes and not as_corners

    def check(self) -> None:
        """Judge all boxes together.

        Raises:
            ValueError: when they are corners or shares.
        """
        if 2 <= self.boxes == self.within_a_pixel:
            raise ValueError(
                f"its {self.boxes} boxes have no number above 1: they seem to be shares of the "
                f"image. Write x, y, width, height in pixels"
            )
        speak, against = self.for_corners, self.for_sizes
        if speak >= max(2, 0.3 * self.boxes) and against <= 0.1 * speak:
            raise ValueError(
                f"its boxes are x0, y0, x1, y1: read as x, y, width, height, {speak} of "
                f"{self.boxes} leave their images or miss their masks, and as corners they fit. "
                f"Write x, y, width, height"
            )
