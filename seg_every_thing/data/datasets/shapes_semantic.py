"""Semantic labels for Shapes, made from its instance masks when they are first used.

``shapes_sem_{train,val}``: background and the 8 shapes, whatever their hue.  What a pixel is shows
only in the outline around it, and outlines are fine: both the coarse and the fine layers of a
network are needed.  ``shapes_hue_sem_{train,val}``: background and the 6 hues.  The hue can be told
from each pixel alone, so this asks for fine boundaries only.  There is no void.
"""

import logging
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog

from ...files import read_json
from ...leftovers import move_unless_there, temporary_folder
from ..labels import Color, PathLike, data_set_root, record, register_labelled
from ..picture_files import save_picture
from .shapes import HUES, SHAPES, register_shapes

logger = logging.getLogger(__name__)

SHAPES_SEM_CLASSES: Tuple[str, ...] = ("background", *SHAPES)
SHAPES_HUE_SEM_CLASSES: Tuple[str, ...] = ("background", *(hue for hue, _ in HUES))
SHAPES_VOID = 255
"""Label of void, which Shapes does not have."""

_LABELLINGS: Dict[str, Tuple[Tuple[str, ...], Callable[[int], int]]] = {
    # name of the data set -> classes, label of an instance class
    "shapes_sem": (SHAPES_SEM_CLASSES, lambda index: 1 + index // len(HUES)),
    "shapes_hue_sem": (SHAPES_HUE_SEM_CLASSES, lambda index: 1 + index % len(HUES)),
}
SHAPES_SEM_NAMES: Tuple[str, ...] = tuple(f"{n}_{s}" for n in _LABELLINGS for s in ("train", "val"))


def register_shapes_semantic(root: Optional[PathLike] = None) -> None:
    """Register the semantic data sets of Shapes; nothing is drawn or read before use.

    They are made of ``shapes_train`` and ``shapes_val`` as registered when they are used; if nobody
    has registered these, :func:`~seg_every_thing.data.datasets.shapes.register_shapes` does then.

    Args:
        root: for ``register_shapes``; default ``$DETECTRON2_DATASETS``, else ``datasets``.
    """
    for labelling, (classes, _) in _LABELLINGS.items():
        for split in ("train", "val"):
            register_labelled(
                f"{labelling}_{split}",
                partial(load_shapes_semantic, labelling, split, root),
                source=data_set_root(root) / "shapes",
                classes=classes,
                colors=_colors(len(classes)),
                ignore_label=SHAPES_VOID,
            )


def load_shapes_semantic(
    labelling: str, split: str, root: Optional[PathLike] = None
) -> List[Dict[str, str]]:
    """Pair the images of Shapes with label pictures, which are drawn when they are not there yet.

    Args:
        labelling: "shapes_sem" or "shapes_hue_sem".
        split: "train" or "val".
        root: as for :func:`register_shapes_semantic`.

    Raises:
        ValueError: for other names.
        OSError: when the labels cannot be written beside the images.
    """
    if labelling not in _LABELLINGS or split not in ("train", "val"):
        raise ValueError(f"Shapes has no semantic data set '{labelling}_{split}'")
    if f"shapes_{split}" not in DatasetCatalog.list():
        register_shapes(root)
    metadata = MetadataCatalog.get(f"shapes_{split}")
    content = read_json(metadata.json_file)
    label_folder = Path(metadata.json_file).parent / f"{labelling}_{split}"
    if not label_folder.is_dir():
        _draw_labels(content, label_folder, _LABELLINGS[labelling][1])
    image_root = Path(metadata.image_root)
    return [
        record(image_root / i["file_name"], label_folder / i["file_name"])
        for i in content["images"]
    ]


def _draw_labels(content: Dict[str, Any], folder: Path, label_of: Callable[[int], int]) -> None:
    """Write a label picture for each image, then move the finished folder to its name."""
    objects = defaultdict(list)
    for annotation in content["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    try:
        with temporary_folder(folder) as staging:
            logger.info("Drawing %s label pictures into %s", len(content["images"]), folder)
            for image in content["images"]:
                label = np.zeros((image["height"], image["width"]), np.uint8)
                for annotation in objects[image["id"]]:  # visible masks: they do not overlap
                    mask = mask_util.decode(annotation["segmentation"]).astype(bool)
                    label[mask] = label_of(annotation["category_id"] - 1)
                save_picture(staging / image["file_name"], label)
            move_unless_there(staging, folder)
    except OSError as e:
        raise OSError(
            f"the labels of Shapes cannot be written under '{folder.parent}' ({e.strerror or e})"
        ) from e


def _colors(count: int) -> List[Color]:
    """Grey for the background, then hues around the circle."""
    colors: List[Color] = [(96, 96, 96)]
    for k in range(count - 1):
        hsv = np.uint8([[[180 * k // (count - 1), 220, 230]]])
        r, g, b = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
        colors.append((int(r), int(g), int(b)))
    return colors
