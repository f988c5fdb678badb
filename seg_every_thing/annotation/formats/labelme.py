"""labelme's JSON files, one an image."""

import base64
import binascii
import io
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
from PIL import Image

from ...files import printable, read_json, write_text
from ..encoding import CutMask, to_rle
from .image_folder import ImageFolder
from .records import ReadImage, ReadObject, checked_object, polygon_object
from .tasks import ImageTasks, Tally, Task, Work, file_for


def read(source: Path, folder: ImageFolder, names: Optional[List[str]]) -> Iterator[ReadImage]:
    """Read rectangles as boxes; polygons and masks are masks that are there already.

    Polygons of one label and group_id are one object.  Other shapes are refused.

    Args:
        source: folder of JSON files, or one of them.
        folder: of the images.
        names: are not needed.

    Raises:
        ValueError: naming file and shape.
    """
    paths = [source] if source.is_file() else sorted(source.rglob("*.json"))
    if not paths:
        raise ValueError(f"'{printable(source)}' has no JSON file")
    for path in paths:
        content = read_json(path)
        try:
            yield _image(content, path, folder)
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            reason = f"{e} is missing" if isinstance(e, KeyError) else str(e)
            raise ValueError(f"'{printable(path)}': {reason}") from e


def _image(content: Any, path: Path, folder: ImageFolder) -> ReadImage:
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ValueError("it is no file of labelme: it has no list of 'shapes'")
    name = folder.find(content.get("imagePath") or f"{path.stem}.jpg")
    height, width = content.get("imageHeight"), content.get("imageWidth")
    if not height or not width:
        height, width = folder.size(name)
    found: List[ReadObject] = []
    groups: Dict[Tuple[str, Any], List[List[float]]] = defaultdict(list)
    for number, shape in enumerate(content["shapes"], 1):
        try:
            kind = shape.get("shape_type") or "polygon"
            points = np.array(shape["points"], float).reshape(-1, 2)
            if kind == "rectangle":
                (x0, y0), (x1, y1) = points.min(0), points.max(0)
                found.append(checked_object(shape["label"], (x0, y0, x1 - x0, y1 - y0)))
            elif kind == "mask":
                found.append(_mask(shape, points, height, width))
            elif kind == "polygon":
                group = shape.get("group_id")
                key = (shape["label"], number if group is None else f"group {group}")
                polygon_object(shape["label"], [points.ravel().tolist()])  # checks it
                groups[key].append(points.ravel().tolist())
            else:
                raise ValueError(f"a {kind} is neither rectangle nor polygon nor mask: remove it")
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            reason = f"{e} is missing" if isinstance(e, KeyError) else str(e)
            raise ValueError(f"shape {number}: {reason}") from e
    found += [polygon_object(label, polygons) for (label, _), polygons in groups.items()]
    return ReadImage(name, int(height), int(width), found)


def _mask(shape: Dict[str, Any], points: np.ndarray, height: int, width: int) -> ReadObject:
    """A picture of the mask between two corners, both of which belong to it."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"]))) as picture:
            pixels = np.asarray(picture) > 0
    except (binascii.Error, OSError) as e:
        raise ValueError(f"its mask is no picture: {e}") from e
    left, top = (int(v) for v in points.min(0))
    pixels = pixels[: max(height - top, 0), : max(width - left, 0)]
    cut = CutMask(pixels, left, top)
    if min(left, top) < 0 or not pixels.any():
        raise ValueError("its mask has no pixel in the image: remove it")
    return checked_object(shape["label"], cut.extent(), to_rle(cut, height, width))


def write(work: Work) -> Tally:
    """Write a JSON file an image: a polygon a part, parts of an object in a group.

    An object without a mask is a rectangle.  Crowds are left out.

    Raises:
        ValueError: when two images would share a file.
        OSError: when something cannot be written.
    """
    tally = Tally()
    root = work.folder.root.resolve()
    for image in work.images():
        path = file_for(work.target, image.file_name, ".json")
        # The folder is made under another name beside the final one: relative paths stay right.
        place = os.path.relpath(root / image.file_name, path.resolve().parent)
        content: Dict[str, Any] = {
            "version": "5.0.0",
            "flags": {},
            "shapes": _shapes(image, tally),
            "imagePath": place.replace(os.sep, "/"),
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
        write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return tally


def _shapes(image: ImageTasks, tally: Tally) -> List[Dict[str, Any]]:
    shapes: List[Dict[str, Any]] = []
    for number, task in enumerate(image.tasks, 1):
        if not tally.count(task):
            continue
        x, y, w, h = task.box
        outlines = task.polygons or [[x, y, x + w, y + h]]
        shapes += [
            {
                "label": task.label,
                "points": np.reshape(points, (-1, 2)).tolist(),
                "group_id": number if len(outlines) > 1 else None,
                "description": _description(task),
                "shape_type": "polygon" if task.polygons else "rectangle",
                "flags": {},
            }
            for points in outlines
        ]
    return shapes


def _description(task: Task) -> str:
    return "" if task.score is None else f"score {task.score:.4f}"
