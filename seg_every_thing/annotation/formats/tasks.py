"""What the writers of other formats get: a COCO file image by image, and outlines of its masks."""

import contextlib
import json
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
import pycocotools.mask as mask_util

from ...data.json_stream import encode
from ...data.segmentations import read_segmentation
from ...files import printable
from ..encoding import FAITHFUL, CutMask, to_polygons
from ..tables_on_disk import id_key
from . import coco
from .image_folder import ImageFolder

_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE image (number INTEGER PRIMARY KEY, id TEXT UNIQUE, value TEXT);
CREATE TABLE object (image TEXT, value TEXT);
"""


class Task(NamedTuple):
    """An object to write."""

    annotation: Dict[str, Any]
    category: Any  # id
    label: str
    box: Tuple[float, float, float, float]  # x, y, width, height in pixels
    polygons: List[List[float]]  # [] = it has no mask
    iou: float  # of the polygons with the mask
    mask: Optional[Dict[str, Any]]  # compressed RLE with counts in bytes; None = it has no mask

    @property
    def is_crowd(self) -> bool:
        """Whether it is a group of objects."""
        return bool(self.annotation.get("iscrowd"))

    def pixels(self) -> np.ndarray:
        """Its mask, which it has: (height, width) bool."""
        return mask_util.decode(self.mask).astype(bool)

    @property
    def score(self) -> Optional[float]:
        """Of the object or its mask."""
        score = self.annotation.get("score")
        return float(score) if isinstance(score, (int, float)) else None


class ImageTasks(NamedTuple):
    """An image to write."""

    entry: Dict[str, Any]  # of the COCO file
    file_name: str
    height: int
    width: int
    tasks: List[Task]


@dataclass
class Tally:
    """What became of the objects."""

    as_outlines: bool = True  # whether masks are written as their polygons
    crowds: str = "left out"
    counts: Dict[str, int] = field(default_factory=lambda: {"masks": 0, "boxes": 0, "crowds": 0})
    iou: float = 0.0  # sum over masks
    changed: int = 0  # masks whose polygons have an IoU below FAITHFUL with them

    def count(self, task: Task) -> bool:
        """Count an object; returns whether it is to be written, as crowds are not."""
        kind = "crowds" if task.is_crowd else "masks" if task.polygons else "boxes"
        self.counts[kind] += 1
        if kind == "masks":
            self.iou += task.iou
            self.changed += task.iou < FAITHFUL
        return kind != "crowds"

    def __str__(self) -> str:
        masks = self.counts["masks"]
        text = f"{masks} masks, {self.counts['boxes']} objects that have a box alone"
        if masks and self.as_outlines:
            text += f"; mean IoU of polygons with their masks {self.iou / masks:.4f}"
        if self.changed and self.as_outlines:
            text += f", below {FAITHFUL} for {self.changed} (holes are lost)"
        if self.counts["crowds"]:
            text += f"; {self.counts['crowds']} crowds {self.crowds}"
        return text


class Work:
    """A COCO file to write in another format, read image by image in constant memory."""

    def __init__(self, source: Path, folder: ImageFolder, target: Path) -> None:
        """
        Args:
            source: the COCO file.
            folder: of its images.
            target: folder to write, which is there.
        """
        self.source, self.folder, self.target = source, folder, target
        self.categories = {
            value["id"]: str(value["name"])
            for key, value in coco.read_boxes(source)
            if key == "categories"
        }

    def images(self) -> Iterator[ImageTasks]:
        """Images in the order of the file, each with its objects in that order.

        Raises:
            ValueError: for an object that cannot be used; the message names file and object.
        """
        with tempfile.TemporaryDirectory() as folder, contextlib.closing(
            sqlite3.connect(str(Path(folder) / "tasks.sqlite"))
        ) as db:
            db.executescript(_TABLES)
            for key, value in coco.read_boxes(self.source):
                if key == "images":
                    row = id_key(value["id"]), encode(value)
                    db.execute("INSERT INTO image (id, value) VALUES (?, ?)", row)
                elif key == "annotations":
                    row = id_key(value["image_id"]), encode(value)
                    db.execute("INSERT INTO object VALUES (?, ?)", row)
            db.execute("CREATE INDEX by_image ON object (image)")
            for own_id, text in db.execute("SELECT id, value FROM image ORDER BY number"):
                query = "SELECT value FROM object WHERE image = ? ORDER BY rowid"
                values = [json.loads(v) for (v,) in db.execute(query, (own_id,))]
                yield self._image(json.loads(text), values)

    def _image(self, entry: Dict[str, Any], annotations: List[Dict[str, Any]]) -> ImageTasks:
        name = entry["file_name"]
        height, width = entry.get("height"), entry.get("width")
        if not height or not width:
            height, width = self.folder.size(name)
        tasks = []
        for annotation in annotations:
            try:
                tasks.append(task_of(annotation, self.categories, height, width))
            except (KeyError, TypeError, ValueError) as e:
                own_id = encode(annotation.get("id"))
                reason = f"it needs {e}" if isinstance(e, KeyError) else str(e)
                raise ValueError(
                    f"'{printable(self.source)}', annotation {own_id}: {reason}"
                ) from e
        return ImageTasks(entry, name, height, width, tasks)


def task_of(
    annotation: Dict[str, Any], categories: Mapping[Any, str], height: int, width: int
) -> Task:
    """An annotation of a COCO file as an object to write.

    Args:
        annotation: of the file.
        categories: names by id.
        height, width: of its image.

    Raises:
        ValueError: for a mask that is none, or of an image of another size.
    """
    category = annotation["category_id"]
    x, y, w, h = (float(v) for v in annotation["bbox"])
    found = read_segmentation(annotation.get("segmentation"), (height, width)).segmentation
    rle, polygons, iou = None, [], 1.0
    if isinstance(found, dict):
        rle = found
        left, top, across, down = (int(v) for v in mask_util.toBbox(rle))
        pixels = mask_util.decode(rle)[top : top + down, left : left + across]
        outlines = to_polygons(CutMask(pixels.astype(bool), left, top))
        polygons, iou = [[float(v) for v in p] for p in outlines.polygons], outlines.iou
    elif found:
        rle = mask_util.merge(mask_util.frPyObjects(found, height, width))
        polygons = [[float(v) for v in polygon] for polygon in found]
    return Task(annotation, category, categories[category], (x, y, w, h), polygons, iou, rle)


def joined(polygons: List[List[float]]) -> np.ndarray:
    """One polygon (2n,) of several: bridges of no width lead there and back.

    Args:
        polygons: x, y, x, y, ... each.
    """
    rest = sorted((np.reshape(p, (-1, 2)) for p in polygons), key=len, reverse=True)
    whole = rest.pop(0)
    while rest:
        gaps = [np.abs(whole[:, None] - part[None]).sum(2) for part in rest]
        nearest = min(range(len(rest)), key=lambda i: gaps[i].min())
        part = rest.pop(nearest)
        here, there = np.unravel_index(gaps[nearest].argmin(), gaps[nearest].shape)
        around = np.roll(part, -there, axis=0)
        whole = np.concatenate([whole[: here + 1], around, around[:1], whole[here:]])
    return whole.ravel()


def file_for(folder: Path, file_name: str, ending: str) -> Path:
    """Where the file of an image goes, in a folder that was empty.

    Raises:
        ValueError: when the name leads out of the folder, or another image has the same file.
    """
    relative = PurePosixPath(file_name.replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(
            f"the image name '{printable(file_name)}' leads out of its folder: make it relative"
        )
    path = folder / relative.with_suffix(ending)
    if path.exists():
        raise ValueError(
            f"two images would share '{printable(path)}'; the second is '{printable(file_name)}': "
            f"rename one"
        )
    return path
