"""What a review page shows of a mask."""

from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Tuple, Union

import numpy as np
import pycocotools.mask as mask_util

CHANGED_BY_POLYGON = "changed_by_polygon"
"""Flag: written as polygons, the mask is no longer quite what it was (IoU below 0.95)."""
EMPTY = "empty"
"""Flag: nothing of the box was mask."""
FILLED = "filled"
"""Flag: the mask is the whole box."""
FLAGS = (CHANGED_BY_POLYGON, EMPTY, FILLED)


@dataclass(frozen=True)
class CropMask:
    """A mask inside a window of its image; outside of the window it is empty."""

    left: int  # of the window, in pixels of the image
    top: int
    width: int
    height: int
    runs: Tuple[int, ...]
    """Lengths of runs of outside, inside, outside, ..., column by column, as COCO's uncompressed
    counts with size (height, width)."""

    @classmethod
    def of(cls, mask: np.ndarray, left: int, top: int) -> "CropMask":
        """
        Args:
            mask: (height, width) bool, the window.
            left, top: its place in the image.
        """
        flat = np.asarray(mask, bool).ravel(order="F")
        edges = np.flatnonzero(np.diff(flat, prepend=False))
        runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
        return cls(left, top, mask.shape[1], mask.shape[0], tuple(runs.tolist()))

    def decode(self) -> np.ndarray:
        """The window: (height, width) bool."""
        rle = {"size": [self.height, self.width], "counts": list(self.runs)}
        return mask_util.decode(mask_util.frPyObjects(rle, self.height, self.width)).astype(bool)


@dataclass(frozen=True)
class ReviewItem:
    """A mask that was made, with what is needed to judge it."""

    annotation_id: Union[int, str]
    image_id: Union[int, str]
    file_name: str  # as the annotations have it; any text
    image_path: Path  # of the file: read it with data.images.read_image, which turns it by its EXIF
    class_name: str  # any text
    box: Tuple[float, float, float, float]  # x, y, width, height in pixels of the image
    score: Optional[float]  # 0 to 1: the IoU that is expected; None = not known
    fill: float  # pixels of the mask / area of the box, 0 to 1
    flags: Tuple[str, ...]  # of FLAGS
    mask: CropMask
