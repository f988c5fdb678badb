"""Masks of an exported model, brought into the image.  It needs numpy alone: copy it anywhere."""

import numpy as np


def paste_masks(
    masks: np.ndarray,
    boxes: np.ndarray,
    height: int,
    width: int,
    scale: float = 1.0,
    threshold: float = 0.5,
) -> np.ndarray:
    """Masks on boxes -> masks of the image, as detectron2 pastes them.

    Boxes may be in pixels of any size of the image: scale them first, then give that size.

    Args:
        masks: (n, side, side) probabilities.
        boxes: (n, 4) x0, y0, x1, y1 in pixels of the image.
        height: of the image.
        width: of the image.
        scale: "masks": "scale" of model.json: side of a mask / side of its box.
        threshold: from which probability a pixel belongs to the mask.

    Returns:
        (n, height, width) bool
    """
    masks, boxes = np.asarray(masks, np.float32), np.asarray(boxes, np.float32).reshape(-1, 4)
    pasted = np.zeros((len(masks), height, width), bool)
    for mask, box, into in zip(masks, boxes, pasted):
        centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * np.float32(scale)
        low, high = centre - half, centre + half
        (x0, y0), (x1, y1) = np.floor(low).astype(int) - 1, np.ceil(high).astype(int) + 1
        x = np.arange(max(x0, 0), max(min(x1, width), x0, 0))
        y = np.arange(max(y0, 0), max(min(y1, height), y0, 0))
        if len(x) and len(y):
            rows = _weights(y, low[1], high[1], mask.shape[0])
            columns = _weights(x, low[0], high[0], mask.shape[1])
            window = into[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
            window[:] = rows @ mask @ columns.T >= threshold
    return pasted


def _weights(pixels: np.ndarray, start: float, end: float, cells: int) -> np.ndarray:
    """How much of each cell each pixel gets, by linear interpolation: (pixels, cells)."""
    position = (pixels + np.float32(0.5) - start) / max(end - start, 1e-6) * cells - 0.5
    return np.maximum(1 - abs(position[:, None] - np.arange(cells)), 0).astype(np.float32)
