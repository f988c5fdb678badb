"""What the readers of other formats give: images with their objects, written as a COCO file."""

from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np

from ...data.json_stream import MemberWriter, encode
from ...data.segmentations import shortened
from ...files import PathLike, printable, written_atomically
from .image_folder import ImageFolder

Segmentation = Union[List[List[float]], Dict[str, Any]]


class ReadObject(NamedTuple):
    """An object of a file."""

    label: str
    box: Tuple[float, float, float, float]  # x, y, width, height in pixels
    segmentation: Segmentation  # polygons in pixels, or RLE; [] = it has a box alone
    more: Dict[str, Any]  # further keys of its annotation


class ReadImage(NamedTuple):
    """An image with its objects."""

    file_name: str  # relative to the folder of the images
    height: int
    width: int
    objects: List[ReadObject]


Reader = Callable[[Path, ImageFolder, Optional[List[str]]], Iterator[ReadImage]]
"""Reads a source; the names are those of the classes, where the user gave them."""


def checked_object(
    label: Any,
    box: Iterable[float],
    segmentation: Optional[Segmentation] = None,
    **more: Any,
) -> ReadObject:
    """An object whose box has an area.

    Args:
        label: name of its class.
        box: x, y, width, height in pixels.
        segmentation: its mask, if it has one.
        more: further keys of its annotation; those that are None are left out.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"its label must be text, not {shortened(label)}")
    x, y, w, h = (float(v) for v in box)
    if not np.isfinite([x, y, w, h]).all() or min(w, h) <= 0:
        raise ValueError(
            f"its box (x {x:g}, y {y:g}, width {w:g}, height {h:g}) has no area: mend or remove it"
        )
    kept = {key: value for key, value in more.items() if value is not None}
    rounded = (round(x, 2), round(y, 2), max(round(w, 2), 0.01), max(round(h, 2), 0.01))
    return ReadObject(label.strip(), rounded, segmentation or [], kept)


def polygon_object(label: Any, polygons: List[List[float]], **more: Any) -> ReadObject:
    """An object with its outlines, its box that of them.

    Args:
        label: name of its class.
        polygons: x, y, x, y, ... in pixels, 3 points and more each.

    Raises:
        ValueError: saying what is wrong with it.
    """
    for polygon in polygons:
        if len(polygon) < 6:
            raise ValueError(f"its polygon has {len(polygon) // 2} points: it needs 3 or more")
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in polygons])
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    rounded = [[round(float(v), 2) for v in polygon] for polygon in polygons]
    return checked_object(label, (x0, y0, x1 - x0, y1 - y0), rounded, **more)


def write_coco(
    path: PathLike, images: Iterable[ReadImage], names: Iterable[str], about: Dict[str, Any]
) -> Dict[str, int]:
    """Write a COCO file; ids run from 1 in the order of what is read.

    Args:
        path: of the file, which appears when it is complete.
        images: taken one by one.
        names: of classes that are known beforehand; others follow as they come.
        about: its "info".

    Returns:
        How many "images", "objects" and "categories" it has.

    Raises:
        ValueError: when there is no object, or an image comes twice.
        OSError: when it cannot be written.
    """
    categories = {name: i for i, name in enumerate(names, 1)}
    lines: Dict[str, str] = {}  # of images, which follow the annotations
    count = 0
    with written_atomically(path) as f:
        writer = MemberWriter(f)
        writer.put("info", about)
        writer.start_list("annotations")
        for image in images:
            if image.file_name in lines:
                raise ValueError(f"the image '{printable(image.file_name)}' comes twice")
            number = len(lines) + 1
            size = {"height": image.height, "width": image.width}
            lines[image.file_name] = encode({"id": number, "file_name": image.file_name, **size})
            for found in image.objects:
                count += 1
                category = categories.setdefault(found.label, len(categories) + 1)
                writer.extend([encode(_annotation(found, count, number, category))])
        if not count:
            raise ValueError("it holds no object: nothing to annotate")
        writer.start_list("images")
        writer.extend(lines.values())
        writer.put("categories", [{"id": i, "name": name} for name, i in categories.items()])
        writer.finish()
    return {"images": len(lines), "objects": count, "categories": len(categories)}


def _annotation(found: ReadObject, own_id: int, image: int, category: int) -> Dict[str, Any]:
    annotation: Dict[str, Any] = {"id": own_id, "image_id": image, "category_id": category}
    annotation.update(bbox=list(found.box), area=round(found.box[2] * found.box[3], 2), iscrowd=0)
    if found.segmentation:
        annotation["segmentation"] = found.segmentation
    return {**annotation, **found.more}
