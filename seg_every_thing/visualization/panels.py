"""Captioned pictures in a row."""

from typing import List, Sequence, Tuple

import cv2
import numpy as np
from detectron2.utils.visualizer import VisImage

_LEGIBLE_SIDE = 384  # pixels; smaller pictures are enlarged, or labels would cover them


def side_by_side(panels: Sequence[Tuple[str, np.ndarray]]) -> np.ndarray:
    """One picture of several captioned ones in a row.

    Args:
        panels: caption and (H, W, 3) uint8 BGR picture of each.

    Returns:
        (H', W', 3) uint8, BGR: panels at the height of the highest, which is enlarged if small.

    Raises:
        ValueError: when there are no panels.
    """
    if not panels:
        raise ValueError("side_by_side needs at least one panel")
    highest = max((picture.shape for _, picture in panels), key=lambda shape: shape[0])
    height = highest[0] * enlargement(highest)
    strip, gap = max(28, height // 16), max(6, height // 64)
    columns: List[np.ndarray] = []
    for caption, picture in panels:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
        columns.append(np.full((strip + height, gap, 3), 255, np.uint8))
        columns.append(np.concatenate([_caption_strip(caption, strip, width), picture]))
    return np.concatenate(columns[1:], axis=1)


def enlargement(shape: Sequence[int]) -> int:
    """The whole number by which a picture of shape (H, W, ...) is enlarged."""
    short, long = sorted(shape[:2])
    return max(1, min(round(_LEGIBLE_SIDE / short), 4 * _LEGIBLE_SIDE // long))


def _caption_strip(caption: str, height: int, width: int) -> np.ndarray:
    strip = VisImage(np.full((height, width, 3), 255, np.uint8))
    # A bold character is about 0.7 em wide, a point 100 / 72 pixels high.
    size = min(0.42 * height, width / max(len(caption), 1) / 0.7) * 0.72
    place = {"ha": "center", "va": "center", "color": "#222", "weight": "bold"}
    strip.ax.text(width / 2, height / 2, caption.replace("$", r"\$"), size=max(size, 4), **place)
    return strip.get_image()[:, :, ::-1]
