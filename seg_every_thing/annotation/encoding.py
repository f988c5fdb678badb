"""From a mask in a window of its image to what a COCO file holds, and the parts that are kept."""

from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import cv2
import numpy as np
import pycocotools.mask as mask_util

Window = Tuple[int, int, int, int]
"""left, top, right, bottom in pixels of the image"""

FAITHFUL = 0.95
"""IoU with its mask that a polygon should have."""
_TOLERANCES = (1.0, 0.5, 0.0)  # pixels by which a polygon may leave the edge of the mask


class CutMask(NamedTuple):
    """A mask that is empty outside of a window."""

    pixels: np.ndarray  # (height, width) bool, the window
    left: int  # of the window, in pixels of the image
    top: int

    @property
    def area(self) -> int:
        """Pixels of the mask."""
        return int(np.count_nonzero(self.pixels))

    def extent(self) -> List[int]:
        """x, y, width, height of what is mask; there must be some."""
        rows, columns = (np.flatnonzero(self.pixels.any(axis)) for axis in (1, 0))
        x, y = int(columns[0]), int(rows[0])
        return [self.left + x, self.top + y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def window_of(box: Sequence[float], height: int, width: int) -> Window:
    """The pixels of a box: those whose centres lie in it, and at least one.

    A mask within them is not cut by tools that round a box to pixels.

    Args:
        box: x, y, width, height, at least in part inside the image.
        height, width: of the image.
    """
    x, y, w, h = box
    left, right = _pixels(x, x + w, width)
    top, bottom = _pixels(y, y + h, height)
    return left, top, right, bottom


def _pixels(start: float, end: float, size: int) -> Tuple[int, int]:
    first, last = max(int(np.ceil(start - 0.5)), 0), min(int(np.floor(end + 0.5)), size)
    if last <= first:
        first = min(max(int((start + end) / 2), 0), size - 1)
        last = first + 1
    return first, last


def keep_parts(pixels: np.ndarray, parts: str) -> np.ndarray:
    """Which parts of a mask are kept.

    Args:
        pixels: (H, W) bool.
        parts: "all"; "largest": the largest connected part; "external": all parts, holes filled.
    """
    if parts == "all" or not pixels.any():
        return pixels
    if parts == "external":
        contours, _ = cv2.findContours(
            pixels.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        filled = np.zeros(pixels.shape, np.uint8)
        return cv2.drawContours(filled, contours, -1, 1, cv2.FILLED).astype(bool)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8))
    return labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()


def runs_of(mask: CutMask, height: int, width: int) -> List[int]:
    """COCO's uncompressed counts of a mask in an image of (height, width)."""
    h, w = mask.pixels.shape
    columns = np.zeros((height, w), bool)
    columns[mask.top : mask.top + h] = mask.pixels
    flat = columns.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False, append=False)) + height * mask.left
    return np.diff(edges, prepend=0, append=height * width).tolist()


def to_rle(mask: CutMask, height: int, width: int) -> Dict[str, Any]:
    """Compressed RLE of the image's size, its counts as text."""
    whole = {"size": [height, width], "counts": runs_of(mask, height, width)}
    rle = mask_util.frPyObjects(whole, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


class Outlines(NamedTuple):
    """A mask as polygons."""

    polygons: List[List[int]]  # x, y, x, y, ... in pixels of the image
    area: int  # of what pycocotools makes of them
    iou: float  # of that with the mask


def to_polygons(mask: CutMask) -> Outlines:
    """The outlines of a mask's parts along the edges of its pixels; holes are lost.

    They are simplified as long as their IoU with the mask stays :data:`FAITHFUL`.
    """
    doubled = mask.pixels.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    # The left and upper halves of pixels have even places, the other halves odd ones.
    outlines = [(contour + 1) // 2 for contour in contours]
    for tolerance in _TOLERANCES:
        simple = [cv2.approxPolyDP(outline, tolerance, True)[:, 0] for outline in outlines]
        simple = [points for points in simple if len(points) >= 3]
        drawn = _drawn(simple, mask.pixels)
        union = np.count_nonzero(drawn | mask.pixels)
        iou = np.count_nonzero(drawn & mask.pixels) / max(union, 1)
        if iou >= FAITHFUL:
            break
    offset = np.array([mask.left, mask.top])
    polygons = [(points + offset).ravel().tolist() for points in simple]
    return Outlines(polygons, int(np.count_nonzero(drawn)), float(iou))


def _drawn(polygons: Sequence[np.ndarray], like: np.ndarray) -> np.ndarray:
    """What pycocotools makes of polygons."""
    if not polygons:
        return np.zeros_like(like)
    rles = mask_util.frPyObjects([p.ravel().astype(float).tolist() for p in polygons], *like.shape)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)
