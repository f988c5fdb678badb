"""The objects of Visual Genome's objects.json: counted, and written as COCO annotations."""

import contextlib
from array import array
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import (
    Any,
    Collection,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    NoReturn,
    Optional,
    Set,
    Tuple,
)

import numpy as np

from ...files import PathLike, written_atomically
from ..datasets.vg_classes import VGClass, as_categories
from ..json_stream import MemberWriter, encode, iter_array
from .vg_images import SPLITS, VGImage

Box = Tuple[float, float, float, float]

_NUMBERS = {int, float}
_UNUSED = (
    *("no synset", "several synsets", "synset not chosen"),
    *("image in no split", "image not in image_data"),
)
_ANNOTATION = (
    '{"id": %s, "image_id": %s, "category_id": %s, "bbox": [%s, %s, %s, %s], "area": %s, '
    '"segmentation": [], "iscrowd": 0}'
)


class ObjectCounts(NamedTuple):
    """What the first pass finds.

    Attributes:
        synsets: occurrences by synset; an object of several synsets counts for each.
        objects: number of all objects.
        repeated_ids: object ids that occur more than once.
        largest_id: of all object ids.
    """

    synsets: "Counter[str]"
    objects: int
    repeated_ids: Set[int]
    largest_id: int


def count_objects(path: PathLike) -> ObjectCounts:
    """The first pass over objects.json.

    Raises:
        ValueError: for a broken file or record.
    """
    synsets: Counter[str] = Counter()
    ids = array("q")
    for record in iter_array(path, "counting"):
        try:
            if type(record["image_id"]) is not int:
                raise TypeError("image_id must be a whole number")
            objects = record["objects"]
            synsets.update(chain.from_iterable([o["synsets"] for o in objects]))
            ids.extend([o["object_id"] for o in objects])
        except (KeyError, TypeError, OverflowError) as e:
            _broken_record(path, record, e)
    sorted_ids = np.sort(np.frombuffer(ids, dtype=np.int64)) if ids else np.zeros(0, np.int64)
    repeated = sorted_ids[1:][sorted_ids[1:] == sorted_ids[:-1]]
    largest = int(sorted_ids[-1]) if ids else 0
    if not all(isinstance(synset, str) for synset in synsets):
        raise ValueError(f"'{path}' has synsets that are not strings")
    return ObjectCounts(synsets, len(ids), set(repeated.tolist()), largest)


def clip_box(box: Box, width: int, height: int) -> Optional[Box]:
    """The part (x, y, w, h) of a box inside an image; the same object where that is all of it.

    Returns:
        None where nothing is inside.
    """
    x, y, w, h = box
    if x >= 0 and y >= 0 and x + w <= width and y + h <= height:
        return box
    left, top = max(x, 0), max(y, 0)
    w, h = min(x + w, width) - left, min(y + h, height) - top
    return (left, top, w, h) if w > 0 and h > 0 else None


class ObjectWriter:
    """The second pass, and what it counts."""

    def __init__(
        self,
        images: List[VGImage],
        classes: List[VGClass],
        chosen: Collection[str],
        counts: ObjectCounts,
    ) -> None:
        """
        Args:
            images: with their splits.
            classes: of the files.
            chosen: synsets of which objects are used.
            counts: of the first pass.
        """
        self._images = images
        self._by_id = {image.id: image for image in images}
        self._classes = classes
        # A COCO class whose synset was not chosen keeps its place but gets no boxes.
        self._category = {c.synset: i for i, c in enumerate(classes, 1) if c.synset in chosen}
        self._counts = counts
        self._repeated_ids_seen: Set[int] = set()
        self._next_id = counts.largest_id + 1
        self.tally: Counter[str] = Counter()
        self.per_class = {split: [0] * (len(classes) + 1) for split in SPLITS}

    def run(self, objects: PathLike, files: Mapping[str, Path]) -> None:
        """Write the annotation file of each split; all of them, or none.

        Args:
            objects: objects.json.
            files: by split.

        Raises:
            ValueError: for a broken file or object.
            OSError: when a file cannot be written.
        """
        categories = as_categories(self._classes)
        with contextlib.ExitStack() as stack:
            writers, opened = {}, []
            for split, path in files.items():
                opened.append(stack.enter_context(written_atomically(path)))
                writer = MemberWriter(opened[-1])
                writer.put("info", {"description": f"Visual Genome, {split}"})
                writer.put("categories", categories)
                writer.start_list("images")
                writer.extend(encode(x.as_coco()) for x in self._images if x.split == split)
                writer.start_list("annotations")
                writers[split] = writer
            seen: Set[int] = set()
            for record in iter_array(objects, "writing"):
                image = self._by_id.get(record["image_id"])
                if image is None:
                    self.tally["image not in image_data"] += len(record["objects"])
                    continue
                seen.add(image.id)
                lines = list(self._annotations(record, image, objects))
                if image.split:
                    writers[image.split].extend(lines)
            for writer in writers.values():
                writer.finish()
            for file in opened:  # or a full disk would show when some of them are in place
                file.flush()
        self.tally["images without a record of objects"] = len(self._images) - len(seen)

    def _annotations(self, record: Any, image: VGImage, path: PathLike) -> Iterator[str]:
        per_class = self.per_class.get(image.split)
        for o in record["objects"]:
            synsets = o["synsets"]
            if type(synsets) is not list:
                _broken_object(path, image.id, o, TypeError("synsets must be a list"))
            if len(synsets) != 1:
                self.tally["several synsets" if synsets else "no synset"] += 1
                continue
            category = self._category.get(synsets[0])
            if category is None:
                self.tally["synset not chosen"] += 1
                continue
            if per_class is None:
                self.tally["image in no split"] += 1
                continue
            try:
                box = raw = _checked_box(o)
            except (KeyError, TypeError, ValueError) as e:
                _broken_object(path, image.id, o, e)
            if raw[2] <= 0 or raw[3] <= 0:
                self.tally["box without area"] += 1
                continue
            clipped = clip_box(raw, image.width, image.height)
            if clipped is None:
                self.tally["box outside the image"] += 1
                continue
            if clipped is not raw:
                self.tally["clipped"] += 1
                box = clipped
            per_class[category] += 1
            object_id = self._unique_id(o["object_id"])
            yield _ANNOTATION % (object_id, image.id, category, *box, box[2] * box[3])

    def _unique_id(self, object_id: int) -> int:
        if object_id not in self._counts.repeated_ids:
            return object_id
        if object_id not in self._repeated_ids_seen:
            self._repeated_ids_seen.add(object_id)
            return object_id
        self.tally["renumbered"] += 1
        self._next_id += 1
        return self._next_id - 1

    def summary(self) -> Dict[str, Any]:
        """What became of images, objects and boxes, for ``summary.json``."""
        images = Counter(image.split or "none" for image in self._images)
        return {
            "images": {split: images[split] for split in (*SPLITS, "none")},
            "images_without_objects_record": self.tally["images without a record of objects"],
            "annotations": {split: sum(self.per_class[split]) for split in SPLITS},
            "objects": {
                "total": self._counts.objects,
                "used": sum(map(sum, self.per_class.values())),
                "unused": {reason: self.tally[reason] for reason in _UNUSED},
            },
            "boxes": {
                "clipped": self.tally["clipped"],
                "dropped": {
                    "without area": self.tally["box without area"],
                    "outside the image": self.tally["box outside the image"],
                },
            },
            "renumbered_annotations": self.tally["renumbered"],
        }


def _checked_box(o: Dict[str, Any]) -> Box:
    box = o["x"], o["y"], o["w"], o["h"]
    # This alone tells numbers from strings, null and booleans; the sum is NaN or infinite where
    # any of them is.
    if not {type(v) for v in box} <= _NUMBERS or not abs(sum(box)) < 1e9:
        raise ValueError(f"x, y, w, h must be numbers, got {list(box)}")
    return box


def _broken_record(path: PathLike, record: Any, error: Exception) -> NoReturn:
    """Name what is wrong with a record of an image."""
    is_image = isinstance(record, dict) and type(record.get("image_id")) is int
    if not is_image or not isinstance(record.get("objects"), list):
        raise ValueError(
            f"'{path}', record {str(record)[:60]}: expected an image_id and a list of objects, as "
            f"in Visual Genome's objects.json"
        ) from error
    for o in record["objects"]:
        has_synsets = isinstance(o, dict) and isinstance(o.get("synsets"), list)
        if not has_synsets or type(o.get("object_id")) is not int:
            _broken_object(path, record.get("image_id"), o, error)
    raise ValueError(f"'{path}', image {record.get('image_id')}: {error}") from error


def _broken_object(path: PathLike, image_id: Any, o: Any, error: Exception) -> NoReturn:
    reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
    name = o.get("object_id") if isinstance(o, dict) else str(o)[:60]
    mend = "; version 1.4 of objects.json has it" if isinstance(error, KeyError) else ""
    raise ValueError(f"'{path}', image {image_id}, object {name}: {reason}{mend}") from error
