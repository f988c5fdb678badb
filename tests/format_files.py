"""What the tests of formats share: pictures, boxes read from a format, files written in one."""

import json
from pathlib import Path
from typing import Any, Dict, List

import cv2
import numpy as np
import pycocotools.mask as mask_util
from annotating import ellipse, rle_of, write_data
from pycocotools.coco import COCO

from seg_every_thing.annotation.formats.conversion import boxes_as_coco, write_as

BOX = [10.0, 8.0, 24.0, 18.0]


def picture(folder: Path, name: str, height: int = 40, width: int = 50) -> Path:
    """Write a grey picture ``images/<name>`` in a folder; returns ``images``."""
    path = folder / "images" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return folder / "images"


def read_as(format: str, source: Path, images: Path, **options: Any) -> Dict[str, Any]:
    """Boxes of a format as COCO, which pycocotools reads, too."""
    target = images.parent / "read.json"
    boxes_as_coco(source, format, images, target, **options)
    COCO(str(target))
    return json.loads(target.read_text())


def objects_of(content: Dict[str, Any]) -> List[Any]:
    """(file name, label, box) of each object."""
    files = {image["id"]: image["file_name"] for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    return [
        (files[a["image_id"]], names[a["category_id"]], a["bbox"]) for a in content["annotations"]
    ]


def two_parts() -> np.ndarray:
    """A mask (48, 64) of two ellipses, the larger one with a hole."""
    mask = ellipse([2, 2, 30, 40])
    mask[14:28, 10:24] = False
    return mask | ellipse([40, 20, 12, 16])


def write_masks(folder: Path, format: str) -> Path:
    """Write in a format: an image with a mask of two parts and a hole (id 10), an ellipse (20), a
    box alone (30) and a crowd (40); and an image without objects."""
    objects = [
        {"bbox": [2, 2, 50, 40], "segmentation": rle_of(two_parts()), "score": 0.75},
        {"bbox": BOX, "segmentation": rle_of(ellipse(BOX)), "category_id": 7},
        {"bbox": [50, 2, 10, 8]},
        {"bbox": BOX, "segmentation": rle_of(ellipse(BOX)), "iscrowd": 1},
    ]
    for annotation in objects:
        x, y, w, h = annotation["bbox"]  # type: ignore
        annotation.setdefault("iscrowd", 0)
        annotation["area"] = w * h
        if "segmentation" in annotation:
            annotation["area"] = int(mask_util.area(annotation["segmentation"]))
    source = write_data(folder / "d", [objects, []])
    return write_as(format, source, source.parent / "images")


def drawn(polygon: Any, height: int = 48, width: int = 64) -> np.ndarray:
    """What pycocotools makes of a polygon x, y, x, y, ..."""
    (rle,) = mask_util.frPyObjects([np.asarray(polygon, float).tolist()], height, width)
    return mask_util.decode(rle).astype(bool)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two masks."""
    return (a & b).sum() / (a | b).sum()
