"""Label maps as pictures."""

from typing import Dict, Sequence, Tuple

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

Color = Tuple[int, int, int]

_SIDE = 320  # pixels; smaller pictures are enlarged without blur
_FILL = 0.6


def class_colors_of(dataset_name: str, num_classes: int) -> Dict[str, Color]:
    """Class name -> (R, G, B), in the order of the labels.

    A data set that nobody registered has numbers for names, and hues around the circle.
    """
    metadata = MetadataCatalog.get(dataset_name)
    names = metadata.get("stuff_classes", [str(i) for i in range(num_classes)])
    colors = metadata.get("stuff_colors")
    if colors is None:
        hsv = [[(180 * i // len(names), 220, 230) for i in range(len(names))]]
        colors = cv2.cvtColor(np.array(hsv, np.uint8), cv2.COLOR_HSV2RGB)[0].tolist()
    return {name: (int(c[0]), int(c[1]), int(c[2])) for name, c in zip(names, colors)}


def color_map(label: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """Labels (H, W) uint8 in their colours, (H, W, 3) BGR; other values, as void, are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = np.array(colors, np.uint8)[:, ::-1]
    return table[label]


def overlaid(image_bgr: np.ndarray, label: np.ndarray, colors: Sequence[Color]) -> np.ndarray:
    """An image (H, W, 3) uint8 BGR under the colours of its labels (H, W)."""
    return cv2.addWeighted(image_bgr, 1 - _FILL, color_map(label, colors), _FILL, 0)


def enlarged(picture: np.ndarray) -> np.ndarray:
    """A small picture by a whole factor, each pixel a square; a large one as it is."""
    scale = max(1, round(_SIDE / picture.shape[0]))
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)


def colors_of_config(cfg: CfgNode) -> Dict[str, Color]:
    """:func:`class_colors_of` the first data set of ``DATASETS.TEST``, for the model's classes.

    Raises:
        ValueError: when the model has another number of classes than the data set.
    """
    num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    name = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "unnamed"
    colors = class_colors_of(name, num_classes)
    if len(colors) != num_classes:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}, the data set '{name}' has "
            f"{len(colors)} classes"
        )
    return colors
