"""How much larger than its masks a data set draws its boxes."""

from typing import Any, Dict, List

import numpy as np

from ..data.boxes import read_box
from ..data.segmentations import Size, read_segmentation

_ENOUGH = 4000
"""Sides that tell."""
_TOO_FEW = 40


class Looseness:
    """Gathers by how much masks end before each side of their boxes."""

    def __init__(self) -> None:
        self._gaps: List[float] = []

    def add(self, annotation: Dict[str, Any], image_size: Size) -> None:
        """Take an object into account that has a box and a mask; others tell nothing.

        Args:
            annotation: of a COCO file.
            image_size: (height, width).
        """
        if len(self._gaps) >= _ENOUGH or annotation.get("iscrowd"):
            return
        try:
            extent = read_segmentation(annotation.get("segmentation"), image_size).extent
            x, y, width, height = read_box(annotation.get("bbox"), image_size).xywh
        except ValueError:  # said where the data are read for training
            return
        if extent is not None:
            gaps = extent[0] - x, extent[1] - y, x + width - extent[2], y + height - extent[3]
            self._gaps += [gap / min(image_size) for gap in gaps]

    def share(self) -> float:
        """What three quarters of the gaps do not exceed, as a share of the image's shorter side.

        0 where too few objects have a mask to tell.
        """
        if len(self._gaps) < _TOO_FEW:
            return 0.0
        return max(float(np.quantile(self._gaps, 0.75)), 0.0)
