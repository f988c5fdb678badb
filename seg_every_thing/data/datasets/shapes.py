"""Shapes: a data set drawn on the fly in which the class decides the mask.

A class is a shape in a hue ("red star").  Objects stand in overlapping groups of different classes,
so one box often holds several objects and nothing but the class says which of them is meant.  That
is the ambiguity of COCO (a person on a horse) in a form that a CPU learns in minutes.  It is a test
bench for partial supervision, not a result.
"""

import json
import logging
import math
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ...files import write_text
from ...leftovers import move_unless_there, temporary_folder
from ..picture_files import save_picture

logger = logging.getLogger(__name__)

SHAPES: Tuple[str, ...] = (
    *("disk", "ring", "bar", "pillar"),
    *("triangle", "star", "cross", "crescent"),
)
HUES: Tuple[Tuple[str, int], ...] = (  # name, centre on OpenCV's 0..179 hue circle
    ("red", 0),
    ("yellow", 28),
    ("green", 60),
    ("cyan", 90),
    ("blue", 118),
    ("pink", 152),
)
SHAPES_CLASSES: Tuple[str, ...] = tuple(f"{hue} {shape}" for shape in SHAPES for hue, _ in HUES)
SHAPES_SET_A: Tuple[str, ...] = tuple(
    f"{hue} {shape}"
    for i, shape in enumerate(SHAPES)
    for j, (hue, _) in enumerate(HUES)
    if (i + j) % 2 == 0
)
"""Half of the classes, like the squares of one colour on a chessboard: each shape and each hue
occurs in set A, while every set B class is a combination that set A never shows."""

_VERSION = 3  # raise it when the drawing changes: the folder name carries it
# Width to height, and size: shapes differ in them, so that box regression, too, knows the class.
_ASPECT = {"bar": 2.2, "pillar": 0.5, "triangle": 1.2, "crescent": 0.7}
_SCALE = {"disk": 0.85, "ring": 1.15, "triangle": 1.1, "star": 1.25, "cross": 1.1, "crescent": 1.2}
_MIN_VISIBLE = 0.45  # an object that shows less of itself than this is not drawn at all
_SUBPIXEL_BITS = 4


def register_shapes(
    root: Optional[Union[str, Path]] = None,
    *,
    seed: int = 0,
    num_train: int = 1500,
    num_val: int = 300,
    image_size: int = 128,
) -> None:
    """Draw Shapes when it is not on disk yet, and register ``shapes_train`` and ``shapes_val``.

    Calling it again with the same arguments changes nothing; with others, the names point to
    the new set from then on.  Processes that start together may all call it: each draws into a
    folder of its own and the first to finish renames that folder into place.

    Args:
        root: data set root; default ``$DETECTRON2_DATASETS``, else ``datasets``.
        seed: decides every pixel; equal arguments give equal files.
        num_train: number of training images.
        num_val: number of validation images.
        image_size: side of the square images, in pixels.

    Raises:
        ValueError: for sizes that cannot be drawn.
        OSError: when the root cannot be written; the message names it.
    """
    if min(num_train, num_val) < 1 or image_size < 32 or seed < 0:
        raise ValueError(
            f"Shapes needs at least 1 image in each set, 32 pixels and a seed of 0 or more, "
            f"got num_train={num_train}, num_val={num_val}, image_size={image_size}, seed={seed}"
        )
    root = Path(root if root is not None else os.getenv("DETECTRON2_DATASETS", "datasets"))
    folder = root / "shapes" / f"v{_VERSION}_{image_size}px_{num_train}_{num_val}_seed{seed}"
    if not folder.is_dir():
        _draw_data_set(folder, seed, {"train": num_train, "val": num_val}, image_size)
    for split in ("train", "val"):
        _register(f"shapes_{split}", folder / f"instances_{split}.json", folder / split)


def _register(name: str, json_file: Path, image_root: Path) -> None:
    metadata = MetadataCatalog.get(name)
    if name in DatasetCatalog.list():
        if metadata.get("json_file") == str(json_file):
            return
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
        metadata = MetadataCatalog.get(name)
    DatasetCatalog.register(name, lambda: load_coco_json(str(json_file), str(image_root), name))
    metadata.set(
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="coco",
        thing_classes=list(SHAPES_CLASSES),
        thing_dataset_id_to_contiguous_id={i + 1: i for i in range(len(SHAPES_CLASSES))},
    )


def _draw_data_set(folder: Path, seed: int, sizes: Dict[str, int], image_size: int) -> None:
    """Write all images and both JSON files, then move the finished folder to its name."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder) as staging:
            logger.info("Drawing Shapes (%s images) into %s", sum(sizes.values()), folder)
            for split_id, (split, count) in enumerate(sizes.items()):
                _draw_split(staging, split, split_id, count, seed, image_size)
            move_unless_there(staging, folder)
    except OSError as e:
        raise OSError(
            f"Shapes cannot be written under '{folder.parent}' ({e.strerror or e}): set "
            f"DETECTRON2_DATASETS to a folder that you may write to, or pass root="
        ) from e


def _draw_split(
    staging: Path, split: str, split_id: int, count: int, seed: int, image_size: int
) -> None:
    (staging / split).mkdir()
    images: List[Dict[str, Any]] = []
    annotations: List[Dict[str, Any]] = []
    for i in range(count):
        image, objects = draw_image(np.random.default_rng([seed, split_id, i]), image_size)
        name = f"{i:06d}.png"
        save_picture(staging / split / name, image)
        images.append({"id": i + 1, "file_name": name, "width": image_size, "height": image_size})
        for class_index, mask in objects:
            annotations.append(_annotation(len(annotations) + 1, i + 1, class_index, mask))
    content = {
        "info": {"description": "Shapes", "seed": seed, "version": _VERSION},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(SHAPES_CLASSES)],
    }
    write_text(staging / f"instances_{split}.json", json.dumps(content))


def _annotation(
    annotation_id: int, image_id: int, class_index: int, mask: np.ndarray
) -> Dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": class_index + 1,
        "bbox": [float(v) for v in mask_util.toBbox(rle)],
        "area": float(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
    }


def draw_image(
    rng: np.random.Generator, image_size: int
) -> Tuple[np.ndarray, List[Tuple[int, np.ndarray]]]:
    """Draw one image.

    Args:
        rng: the only source of chance.
        image_size: side in pixels.

    Returns:
        The image, (S, S, 3) uint8 BGR; for each object its class index and visible mask, (S, S)
        bool.
    """
    hsv = _background(rng, image_size)
    owner = np.full((image_size, image_size), -1)  # index of the object seen at each pixel
    full_masks: List[np.ndarray] = []
    classes: List[int] = []
    for centre in _group_centres(rng, image_size):
        members = 2 if rng.random() < 0.7 else 3
        # Different hues and shapes within a group, else the class could not tell the members apart.
        hues = rng.choice(len(HUES), members, replace=False)
        shapes = rng.choice(len(SHAPES), members, replace=False)
        for shape, hue in zip(shapes, hues):
            mask = _shape_mask(rng, SHAPES[shape], centre, image_size)
            candidate = np.where(mask, len(full_masks), owner)
            areas = [m.sum() for m in full_masks] + [max(mask.sum(), 1)]
            visible = [(candidate == k).sum() for k in range(len(areas))]
            if any(v < _MIN_VISIBLE * a for v, a in zip(visible, areas)):
                continue
            owner = candidate
            full_masks.append(mask)
            classes.append(int(shape) * len(HUES) + int(hue))
            _paint(rng, hsv, mask, HUES[hue][1])
    image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR).astype(np.float32)
    image += rng.normal(0, 8, image.shape)
    objects = [(c, owner == k) for k, c in enumerate(classes)]
    return np.clip(image, 0, 255).astype(np.uint8), objects


def _background(rng: np.random.Generator, image_size: int) -> np.ndarray:
    """Faintly coloured clouds, (S, S, 3) uint8 HSV."""
    hsv = np.empty((image_size, image_size, 3), np.uint8)
    for channel, (low, high) in enumerate(((0, 180), (0, 70), (40, 200))):
        coarse = rng.uniform(low, high, (5, 5)).astype(np.float32)
        hsv[..., channel] = cv2.resize(coarse, (image_size, image_size)).clip(0, 255)
    return hsv


def _group_centres(rng: np.random.Generator, image_size: int) -> List[np.ndarray]:
    """One or two places, far enough apart to be two groups, in pixels (x, y)."""
    first = rng.uniform(0.3, 0.7, 2) if rng.random() < 0.4 else rng.uniform(0.24, 0.34, 2)
    centres = [first * image_size]
    if first.max() <= 0.34:
        second = 1 - rng.uniform(0.24, 0.34, 2)
        mirrored = rng.random() < 0.5  # otherwise groups would lie on one diagonal only
        centres.append(second * image_size)
        if mirrored:
            centres = [np.array([image_size - c[0], c[1]]) for c in centres]
    return centres


def _shape_mask(
    rng: np.random.Generator, shape: str, centre: np.ndarray, image_size: int
) -> np.ndarray:
    side = rng.uniform(0.28, 0.45) * image_size * _SCALE.get(shape, 1.0)
    stretch = math.sqrt(_ASPECT.get(shape, 1.0)) * rng.uniform(0.92, 1.08)
    angle = rng.uniform(-0.2, 0.2)
    position = centre + rng.uniform(-0.11, 0.11, 2) * image_size
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    contours = []
    for outline in _outlines(shape):
        points = outline * (side / 2) * np.array([stretch, 1 / stretch])
        points = points @ rotation.T + position
        contours.append(np.round(points * 2**_SUBPIXEL_BITS).astype(np.int32))
    canvas = np.zeros((image_size, image_size), np.uint8)
    cv2.fillPoly(canvas, contours, 1, shift=_SUBPIXEL_BITS)  # even-odd: an inner outline is a hole
    return canvas.astype(bool)


def _outlines(shape: str) -> List[np.ndarray]:
    """Outlines, (N, 2) corners each, in a square of side 2 about the origin."""
    if shape in ("disk", "pillar"):  # a pillar is a disk stretched upwards
        return [_arc(0, 2 * math.pi)]
    if shape == "ring":
        return [_arc(0, 2 * math.pi), 0.5 * _arc(0, 2 * math.pi)]
    if shape == "bar":
        return [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], float)]
    if shape == "triangle":
        return [np.array([[-1, 1], [1, 1], [0, -1]], float)]
    if shape == "star":
        t = np.arange(10) * math.pi / 5 - math.pi / 2
        radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)[:, None]
        return [radius * np.stack([np.cos(t), np.sin(t)], 1)]
    if shape == "cross":
        a = 0.36
        quarter = np.array([[a, -1], [a, -a], [1, -a]])
        turn = np.array([[0, 1], [-1, 0]])  # a row vector times this turns by a quarter
        corners = [quarter]
        for _ in range(3):
            corners.append(corners[-1] @ turn)
        return [np.concatenate(corners)]
    if shape == "crescent":  # between a half circle and a flatter arc through the same ends
        inner = _arc(math.pi / 2, 3 * math.pi / 2) * np.array([0.25, 1.0])
        moon = np.concatenate([_arc(math.pi / 2, 3 * math.pi / 2), inner[::-1]])
        return [(moon + np.array([0.5, 0.0])) * np.array([2.0, 1.0])]
    raise ValueError(f"unknown shape '{shape}', known: {', '.join(SHAPES)}")


def _arc(start: float, end: float) -> np.ndarray:
    """(32, 2) points of the unit circle."""
    t = np.linspace(start, end, 32)
    return np.stack([np.cos(t), np.sin(t)], 1)


def _paint(rng: np.random.Generator, hsv: np.ndarray, mask: np.ndarray, hue: int) -> None:
    hsv[mask, 0] = (hue + rng.integers(-3, 4)) % 180
    hsv[mask, 1] = rng.integers(165, 256)
    hsv[mask, 2] = rng.integers(130, 256)
