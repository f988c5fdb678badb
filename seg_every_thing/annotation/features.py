"""What can be measured of a mask without its true mask, from which its quality is predicted."""

from typing import Tuple

import cv2
import numpy as np

FEATURES = (
    *("certainty", "sharpness", "fill", "extent_x", "extent_y"),
    *("log_area", "log_aspect", "uncertain_area"),
    *("contrast", "edges", "overlap"),
)
CERTAINTY, FILL = FEATURES.index("certainty"), FEATURES.index("fill")

_MOST_PIXELS = 128  # on a side of a window: more cost time and say no more


def features_of(probabilities: np.ndarray, width: float, height: float) -> Tuple[float, ...]:
    """What a mask's probabilities say of its quality.

    Args:
        probabilities: (M, M) on the box.
        width, height: of the box in pixels.

    Returns:
        The first eight of :data:`FEATURES`.  ``certainty`` is the IoU that the probabilities
        expect: that of the mask with a true mask whose pixels are drawn from them; 0 for an empty
        mask.
    """
    p = np.asarray(probabilities, float)
    mask = p >= 0.5
    union = np.where(mask, 1.0, p).sum()
    certainty = (p * mask).sum() / union if mask.any() else 0.0
    return (
        float(certainty),
        float(np.abs(2 * p - 1).mean()),
        float(mask.mean()),
        float(mask.any(axis=0).mean()),
        float(mask.any(axis=1).mean()),
        float(np.log2(max(width * height, 1.0))),
        float(abs(np.log2(max(width, 1e-3) / max(height, 1e-3)))),
        float(((p > 0.2) & (p < 0.8)).mean() / max(mask.mean(), 0.02)),
    )


def appearance(window: np.ndarray, mask: np.ndarray) -> Tuple[float, float]:
    """Whether the image looks as if a mask ended where something ends.

    Args:
        window: (h, w, 3) uint8, BGR: the image inside the box.
        mask: (h, w) bool.

    Returns:
        ``contrast``: distance of the mean colours inside and outside (LAB), as a share of how much
        colours vary there; ``edges``: the image's gradient along the contour / in the whole window.
    """
    if max(mask.shape) > _MOST_PIXELS:
        size = tuple(min(side, _MOST_PIXELS) for side in mask.shape[::-1])
        window = cv2.resize(window, size, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    if not mask.any():
        return 0.0, 0.0
    lab = cv2.cvtColor(window, cv2.COLOR_BGR2LAB).astype(float)
    inside, outside = lab[mask], lab[~mask]
    contrast = 0.0
    if len(outside):
        spread = inside.std(axis=0).mean() + outside.std(axis=0).mean()
        contrast = np.linalg.norm(inside.mean(axis=0) - outside.mean(axis=0)) / (1 + spread)
    light = lab[:, :, 0].astype(np.float32)
    gradient = np.hypot(cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1))
    shrunk = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    contour = mask & ~shrunk
    edges = gradient[contour].mean() / (1 + gradient.mean()) if contour.any() else 0.0
    return float(contrast), float(edges)


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The largest share of each box that any other box covers.

    Args:
        boxes: (n, 4) x, y, width, height.
        others: (m, 4), the boxes among them; a box does not cover itself.

    Returns:
        (n,)
    """
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    ends = boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:]
    sides = (np.minimum(ends[0][:, None], ends[1][None]) - low).clip(min=0)
    shares = sides.prod(axis=2) / boxes[:, 2:].prod(axis=1)[:, None]
    for row, box in zip(shares, boxes):
        same = np.flatnonzero((others == box).all(axis=1))
        row[same[:1]] = 0  # itself; a second box of the same place is another object
    return shares.max(axis=1, initial=0)
