"""From Visual Genome's objects.json to COCO-format files, in two passes and little memory.

The first pass counts synsets, the second writes.  What stays in memory is a record an image and
eight bytes an object.
"""

import contextlib
import logging
import time
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
    NamedTuple,
    NoReturn,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import numpy as np

from ...files import (
    PathLike,
    check_targets,
    make_output_dir,
    write_json,
    write_text,
    written_atomically,
)
from ..datasets.vg_classes import VGClass, as_categories, joint_classes, rank_synsets, ties_at
from ..json_stream import MemberWriter, encode, iter_array
from .vg_images import SPLITS, VGImage, coco_val_ids_for, read_images, split_images

logger = logging.getLogger(__name__)

Box = Tuple[float, float, float, float]

_COCO_CLASSES, _SUMMARY = "coco_classes.txt", "summary.json"
_NUMBERS = {int, float}
_UNUSED = (
    *("no synset", "several synsets", "synset not chosen"),
    *("image in no split", "image not in image_data"),
)
_ANNOTATION = (
    '{"id": %s, "image_id": %s, "category_id": %s, "bbox": [%s, %s, %s, %s], "area": %s, '
    '"segmentation": [], "iscrowd": 0}'
)


def prepare_visual_genome(
    image_data: PathLike,
    objects: PathLike,
    output: PathLike,
    *,
    num_classes: int = 3000,
    synsets: Optional[Sequence[str]] = None,
    coco_annotations: Optional[PathLike] = None,
    num_test: int = 5000,
    num_val: Optional[int] = None,
) -> Dict[str, Any]:
    """Write ``instances_vg3k_{train,val,test}.json``, ``summary.json`` and ``coco_classes.txt``.

    Objects with exactly one synset, one of the chosen, become annotations, with boxes clipped to
    their image.  All files are complete or not there.

    Args:
        image_data: image_data.json of Visual Genome, or its .zip.
        objects: objects.json of version 1.4, or its .zip.
        output: the folder to write to.
        num_classes: choose the so many most frequent synsets, see :func:`rank_synsets`.
        synsets: choose these instead.
        coco_annotations: says which images are COCO's validation images, see
            :func:`coco_val_ids_for`.
        num_test, num_val: sizes of splits, see :func:`split_images`.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ValueError: for broken input, or one that would be written over; the message names file and
            object.
        OSError: when the output cannot be written.
    """
    if num_classes < 1:
        raise ValueError(f"--num-classes must be at least 1, got {num_classes}")
    start = time.perf_counter()
    check_targets([image_data, objects, coco_annotations], output_files(output))
    output = make_output_dir(output)
    images = read_images(image_data)
    val_ids = coco_val_ids_for(images, coco_annotations)
    images = split_images(images, val_ids, num_test=num_test, num_val=num_val)
    logger.info("%d images; counting the synsets of '%s'", len(images), objects)
    counts = count_objects(objects)
    ranked = rank_synsets(counts.synsets, synsets)
    if not ranked:
        raise ValueError(f"no object in '{objects}' has a synset: version 1.4 of the file has them")
    if len(ranked) < num_classes and synsets is None:
        logger.warning(
            "Only %d synsets occur, fewer than --num-classes %d", len(ranked), num_classes
        )
    chosen = ranked if synsets is not None else ranked[:num_classes]
    classes = joint_classes(chosen)
    logger.info("%d classes, 80 of them COCO's; writing to '%s'", len(classes), output)
    writing = _Writing(images, classes, frozenset(chosen), counts)
    writing.run(objects, output)
    summary = {
        "num_classes": len(classes),
        "chosen_synsets": len(chosen),
        "ties": ties_at(ranked, counts.synsets, len(chosen)),
        **writing.summary(),
        "classes": _class_table(classes, counts.synsets, writing.per_class),
    }
    write_text(output / _COCO_CLASSES, "".join(f"{c.synset}\n" for c in classes[:80]))
    write_json(output / _SUMMARY, summary)
    _log_summary(summary, time.perf_counter() - start)
    return summary


def output_files(output: PathLike) -> List[Path]:
    """All files that :func:`prepare_visual_genome` writes to a folder."""
    output = Path(output)
    files = [_annotation_file(output, split) for split in SPLITS]
    return [*files, output / _COCO_CLASSES, output / _SUMMARY]


def _annotation_file(output: Path, split: str) -> Path:
    return output / f"instances_vg3k_{split}.json"


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


class _Writing:
    """The second pass, and what it counts."""

    def __init__(
        self,
        images: List[VGImage],
        classes: List[VGClass],
        chosen: Collection[str],
        counts: ObjectCounts,
    ) -> None:
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

    def run(self, objects: PathLike, output: Path) -> None:
        categories = as_categories(self._classes)
        with contextlib.ExitStack() as stack:
            writers = {}
            for split in SPLITS:
                path = _annotation_file(output, split)
                writer = MemberWriter(stack.enter_context(written_atomically(path)))
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


def _class_table(
    classes: Sequence[VGClass], counts: Dict[str, int], per_class: Dict[str, List[int]]
) -> List[Dict[str, Any]]:
    table = as_categories(classes)
    for row, c in zip(table, classes):
        if c.how is not None:
            row["synset_found_by"] = c.how
        row["occurrences"] = counts.get(c.synset, 0)
        row.update({split: per_class[split][row["id"]] for split in SPLITS})
    return table


def _log_summary(summary: Dict[str, Any], seconds: float) -> None:
    boxes, images, annotations = summary["boxes"], summary["images"], summary["annotations"]
    logger.info(
        "Written in %.0f s: %s. Boxes: %d clipped, %d dropped (without area %d, outside %d)",
        seconds,
        "; ".join(f"{s} {images[s]} images, {annotations[s]} boxes" for s in SPLITS),
        boxes["clipped"],
        sum(boxes["dropped"].values()),
        *boxes["dropped"].values(),
    )
    unused = summary["objects"]["unused"]
    logger.info("Objects not used: %s", ", ".join(f"{k} {v}" for k, v in unused.items()))
    empty = [c["coco_name"] for c in summary["classes"][:80] if not sum(c[s] for s in SPLITS)]
    if empty:
        more = f" and {len(empty) - 10} more" if len(empty) > 10 else ""
        logger.warning("COCO classes without a box: %s%s", ", ".join(empty[:10]), more)
    logger.info("Set MODEL.ROI_HEADS.NUM_CLASSES %d", summary["num_classes"])
