"""Where the labels of a picture go: off each other where that can be had."""

from typing import Sequence, Tuple

import numpy as np

_TOUCHING = 1e-6  # square pixels: rounding, not a label that hides another


def place_label(
    box: np.ndarray, size: Tuple[float, float], taken: Sequence[np.ndarray], canvas: Sequence[float]
) -> np.ndarray:
    """Find a place for the label of a box, given the labels that have theirs.

    Corners of the box come first, then lines below its top left corner, then the free place nearest
    to the box: a label covers another only where the picture has no free place left for it.

    Args:
        box: (4,) x0, y0, x1, y1 in pixels.
        size: width and height of the label.
        taken: the (4,) places of the labels before it.
        canvas: width and height of the picture.

    Returns:
        (4,) x0, y0, x1, y1, inside the picture unless the label is larger than that; where nothing
        is free, the place at the box that hides least.
    """
    (x0, y0, x1, y1), (w, h) = box, size
    others = np.reshape(np.asarray(taken, dtype=float), (-1, 4))
    corners = [(x0, y0 - h), (x0, y0), (x0, y1 - h), (x1 - w, y0), (x1 - w, y1 - h), (x0, y1)]
    below = [(x0, y0 + k * h) for k in range(1, 6)]
    near = _places(np.array(corners + below), size, canvas)
    hidden = _hidden_area(near, others)
    if hidden.min() < _TOUCHING:
        return near[(hidden < _TOUCHING).argmax()]
    # What lies free can be pushed left and up until it meets an edge of the picture or a label, so
    # a search along these edges misses no free place.
    xs = np.concatenate([[0, canvas[0] - w, x0, x1 - w], others[:, 2], others[:, 0] - w])
    ys = np.concatenate([[0, canvas[1] - h, y0 - h, y1], others[:, 3], others[:, 1] - h])
    grid = np.stack(np.meshgrid(np.unique(xs), np.unique(ys)), axis=-1).reshape(-1, 2)
    far = _places(grid, size, canvas)
    free = far[_hidden_area(far, others) < _TOUCHING]
    if len(free) == 0:
        return near[hidden.argmin()]
    return free[np.hypot(*gaps(free, box).T).argmin()]


def gaps(places: np.ndarray, box: np.ndarray) -> np.ndarray:
    """How far (n, 4) places lie from a (4,) box, (n, 2) in x and y; 0 where they meet."""
    return np.maximum(box[:2] - places[:, 2:], places[:, :2] - box[2:]).clip(min=0)


def _places(corners: np.ndarray, size: Tuple[float, float], canvas: Sequence[float]) -> np.ndarray:
    """(n, 2) upper left corners, moved into the picture, as (n, 4) places."""
    inside = np.minimum(corners, np.subtract(canvas, size)).clip(min=0)
    return np.concatenate([inside, inside + size], axis=1)


def _hidden_area(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much of the others each of (n, 4) places hides, (n,) square pixels."""
    low = np.maximum(places[:, None, :2], others[None, :, :2])
    high = np.minimum(places[:, None, 2:], others[None, :, 2:])
    return (high - low).clip(min=0).prod(axis=2).sum(axis=1)
