"""Ground truth and results of a detector, made up from a seed, for measuring the evaluation."""

from functools import lru_cache
from typing import Any, Dict, List, Tuple

import numpy as np
import pycocotools.mask as mask_util

from ..files import PathLike, write_json

HEIGHT, WIDTH = 480, 640
NUM_CLASSES = 80

_SHAPES = 200  # masks of objects; what is found of each are variants of it
_VARIANTS = 12
_CORNERS = 24
_CROWD_SHARE = 0.02


def write_ground_truth(path: PathLike, num_images: int, *, seed: int = 0) -> None:
    """Write a COCO file with about 7 objects an image, some of them crowds.

    Args:
        path: where to.
        num_images: its size.
        seed: decides everything; as for :func:`made_up_predictions`.
    """
    rng, shapes = np.random.default_rng(seed), _shapes(seed)
    annotations: List[Dict[str, Any]] = []
    for image, objects in enumerate(_objects(num_images, seed), start=1):
        for shape, category in objects:
            found = shapes[shape][0]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": category + 1,
                    "area": float(mask_util.area(found["segmentation"])),
                    "iscrowd": int(rng.random() < _CROWD_SHARE),
                    **found,
                }
            )
    images = [
        {"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH}
        for i in range(1, num_images + 1)
    ]
    categories = [{"id": k + 1, "name": f"class {k}"} for k in range(NUM_CLASSES)]
    write_json(path, {"images": images, "annotations": annotations, "categories": categories})


def made_up_predictions(
    num_images: int, results_per_image: int, *, seed: int = 0
) -> List[Dict[str, Any]]:
    """What ``COCOEvaluator.process`` keeps of a model's outputs: boxes and masks as RLE.

    Objects are found several times, more or less exactly, mostly as what they are; the rest is
    found where nothing is.

    Args:
        num_images, results_per_image: sizes.
        seed: as for :func:`write_ground_truth`.

    Returns:
        A dict an image, with ``image_id`` and ``instances``, a list of results in COCO's format.
        Category ids are contiguous, from 0.
    """
    rng, shapes = np.random.default_rng(seed + 1), _shapes(seed)
    predictions = []
    for image, objects in enumerate(_objects(num_images, seed), start=1):
        shape = rng.integers(_SHAPES, size=results_per_image)
        category = rng.integers(NUM_CLASSES, size=results_per_image)
        score = rng.random(results_per_image)
        variant = rng.integers(_VARIANTS, size=results_per_image)
        hit = rng.random(results_per_image) < (0.5 if objects else 0.0)
        right = hit & (rng.random(results_per_image) < 0.8)
        if objects:
            target = np.array(objects)[rng.integers(len(objects), size=results_per_image)]
            shape = np.where(hit, target[:, 0], shape)
            category = np.where(right, target[:, 1], category)
        score = np.where(hit, score, score / 2)
        results = []
        for s, v, k, p in zip(*(x.tolist() for x in (shape, variant, category, score))):
            found = shapes[s][v]
            results.append(
                {
                    "image_id": image,
                    "category_id": k,
                    "bbox": list(found["bbox"]),
                    "score": p,
                    "segmentation": dict(found["segmentation"]),
                }
            )
        predictions.append({"image_id": image, "instances": results})
    return predictions


def _objects(num_images: int, seed: int) -> List[List[Tuple[int, int]]]:
    """Shape and class of the objects of each image; every image holds few classes."""
    rng = np.random.default_rng(seed + 2)
    images = []
    for count in rng.poisson(7.0, num_images):
        present = rng.integers(NUM_CLASSES, size=3)
        shape, which = rng.integers(_SHAPES, size=count), rng.integers(3, size=count)
        images.append(list(zip(shape.tolist(), present[which].tolist())))
    return images


@lru_cache(maxsize=1)
def _shapes(seed: int) -> List[List[Dict[str, Any]]]:
    """``bbox`` and ``segmentation`` of polygons of all sizes, each with variants, itself first."""
    rng = np.random.default_rng(seed + 3)
    angle = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    shapes = []
    for _ in range(_SHAPES):
        side = np.exp(rng.uniform(np.log(12), np.log(300), 2))
        centre = rng.uniform(side / 2, np.array([WIDTH, HEIGHT]) - side / 2)
        radius = rng.uniform(0.7, 1.0, _CORNERS)
        variants: List[Dict[str, Any]] = []
        for i in range(_VARIANTS):
            moved = rng.standard_normal(2) * 0.02 * i * side
            size = side * np.exp(rng.standard_normal(2) * 0.03 * i)
            on_circle = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            corners = (centre + moved + size / 2 * on_circle).clip(0, [WIDTH, HEIGHT])
            (rle,) = mask_util.frPyObjects([corners.ravel().tolist()], HEIGHT, WIDTH)
            box = [*corners.min(0), *np.ptp(corners, axis=0)]
            rle = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
            variants.append({"bbox": [round(float(v), 2) for v in box], "segmentation": rle})
        shapes.append(variants)
    return shapes
