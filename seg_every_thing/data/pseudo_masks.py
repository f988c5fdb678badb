"""Masks that a teacher predicted for boxes (``DATASETS.PSEUDO_MASKS``): files, and augmentation.

A pseudo-mask depends on nothing but the image, the box and the class; by these it is found again.
So it needs no ids, and annotation files stay as they are.
"""

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any, Collection, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import BoxMode

from ..files import PathLike, file_digest, read_json, write_array, write_json
from .box_grid import moved_with_box
from .catalog import class_names_of
from .segmentations import usable_segmentation

logger = logging.getLogger(__name__)

Record = Dict[str, Any]

INDEX = "index.json"
MASKS = "masks.npy"
_NEAR = 0.01  # of a pixel: annotation files round


class BoxOnlyObjects(NamedTuple):
    """The objects of an image that have a box and no mask to learn from."""

    boxes: np.ndarray  # (n, 4) x0, y0, x1, y1 in pixels of the image file, clipped to it
    classes: np.ndarray  # (n,) contiguous ids


def box_only_objects(record: Record, mask_classes: Optional[Collection[int]]) -> BoxOnlyObjects:
    """What a teacher can help in an image: no crowds, no usable mask, a box with an area.

    Args:
        record: a dataset dict in detectron2's format.
        mask_classes: contiguous ids of set A; None = all.  The masks of other classes are not read.

    Raises:
        ValueError: for a malformed mask of set A; the message names the image.
    """
    boxes, classes = [], []
    for annotation in record.get("annotations", ()):
        if annotation.get("iscrowd", 0) or _has_mask(annotation, record, mask_classes):
            continue
        box = _clipped_box(annotation, record)
        if box[2] > box[0] and box[3] > box[1]:
            boxes.append(box)
            classes.append(annotation["category_id"])
    return BoxOnlyObjects(
        np.asarray(boxes, dtype=float).reshape(-1, 4), np.asarray(classes, dtype=np.int64)
    )


def _has_mask(annotation: Record, record: Record, mask_classes: Optional[Collection[int]]) -> bool:
    if mask_classes is not None and annotation["category_id"] not in mask_classes:
        return False
    try:
        size = record["height"], record["width"]
        return len(usable_segmentation(annotation.get("segmentation"), size)) > 0
    except ValueError as e:
        box = annotation["bbox"]
        raise ValueError(f"{record['file_name']}, object with box {box}: {e}") from e


def _clipped_box(annotation: Record, record: Record) -> np.ndarray:
    box = BoxMode.convert(list(annotation["bbox"]), annotation["bbox_mode"], BoxMode.XYXY_ABS)
    size = record["width"], record["height"]
    return np.asarray(box, dtype=float).clip(min=0, max=[*size, *size])


class PseudoMasks:
    """The pseudo-masks of a folder that :func:`write_pseudo_masks` has filled."""

    def __init__(self, folder: PathLike, class_names: Optional[Sequence[str]] = None) -> None:
        """
        Args:
            folder: of a complete set.
            class_names: the classes that it must be of, in contiguous order; None = any.

        Raises:
            ValueError: when it is not complete, or of other classes.
        """
        self.folder = Path(folder)
        self.index = read_json(self.folder / INDEX)
        try:
            self._masks = np.load(self.folder / MASKS, mmap_mode="r")
            names, images = self.index["classes"], self.index["images"]
            count = sum(len(image["classes"]) for image in images)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise ValueError(f"pseudo-masks '{folder}' are damaged: {e!r}") from e
        if count != len(self._masks):
            raise ValueError(
                f"pseudo-masks '{folder}' are damaged: '{INDEX}' lists {count} objects, "
                f"'{MASKS}' has {len(self._masks)} masks"
            )
        if class_names is not None and list(class_names) != names:
            raise ValueError(
                f"pseudo-masks '{folder}' are of other classes ({', '.join(names[:5])} ...) than "
                f"DATASETS.TRAIN ({', '.join(list(class_names)[:5])} ...)"
            )
        self.side: int = self._masks.shape[-1]
        self._places: Dict[Tuple[str, str], List[Tuple[int, np.ndarray, np.ndarray]]] = defaultdict(
            list
        )
        start = 0
        for image in images:
            boxes = np.asarray(image["boxes"], dtype=np.float32).reshape(-1, 4)
            classes = np.asarray(image["classes"], dtype=np.int64)
            self._places[image["file_name"], str(image["image_id"])].append((start, boxes, classes))
            start += len(classes)

    @classmethod
    def of_config(cls, cfg: CfgNode) -> Optional["PseudoMasks"]:
        """Those of ``DATASETS.PSEUDO_MASKS``, or None.

        Raises:
            ValueError: when they are damaged or of other classes, or the model has no masks.
        """
        folder = cfg.DATASETS.PSEUDO_MASKS
        if folder and not cfg.MODEL.MASK_ON:
            raise ValueError("DATASETS.PSEUDO_MASKS needs masks: set MODEL.MASK_ON True")
        return cls(folder, class_names_of(cfg.DATASETS.TRAIN[0])) if folder else None

    def __len__(self) -> int:
        return len(self._masks)

    def is_intact(self) -> bool:
        """Whether the masks are those that were written, by their digest."""
        return file_digest(self.folder / MASKS) == self.index.get("sha256")

    def of(self, record: Record, annotation: Record) -> Optional[np.ndarray]:
        """The (M, M) uint8 mask, 255 = surely inside, on the box of an object clipped to the image.

        None for an object that has none, such as one with a mask of its own.
        """
        box = _clipped_box(annotation, record)
        for start, boxes, classes in self._places.get(_image_key(record), ()):
            near = np.abs(boxes - box).max(axis=1) < _NEAR
            (found,) = np.nonzero(near & (classes == annotation["category_id"]))
            if len(found):
                return np.array(self._masks[start + found[0]])
        return None

    def moved(
        self, record: Record, annotation: Record, transforms: Any, box: np.ndarray
    ) -> Optional[np.ndarray]:
        """The mask of an object after augmentation, on its box after augmentation; or None.

        Args:
            record: the dataset dict.
            annotation: of the object, as in the file.
            transforms: what the augmentation did to the image.
            box: (4,) of the object after it, clipped to the new image.

        Raises:
            ValueError: when the augmentation did more than to flip, resize, crop or pad.
        """
        mask = self.of(record, annotation)
        if mask is None:
            return None
        return moved_with_box(mask, _clipped_box(annotation, record), transforms, box)

    def log_cover(self, dicts: List[Record], mask_classes: Optional[Collection[int]]) -> None:
        """Log how many of the objects that lack a mask have a pseudo-mask.

        Raises:
            ValueError: when none of them has.
        """
        lacking = [
            (record, a)
            for record in dicts
            for a in record.get("annotations", ())
            if not a.get("iscrowd", 0) and not _has_mask(a, record, mask_classes)
        ]
        have = sum(self.of(record, a) is not None for record, a in lacking)
        logger.info(
            "Pseudo-masks '%s' (%d): %d of %d objects without a mask have one",
            *(self.folder, len(self), have, len(lacking)),
        )
        if not have:
            raise ValueError(
                f"pseudo-masks '{self.folder}': none is of an object of DATASETS.TRAIN that lacks "
                f"a mask; they were made for other annotations"
            )


def _image_key(record: Record) -> Tuple[str, str]:
    """What names an image wherever its data set lies."""
    return "/".join(Path(record["file_name"]).parts[-2:]), str(record.get("image_id"))


def write_pseudo_masks(
    folder: PathLike,
    records: Sequence[Record],
    objects: Sequence[BoxOnlyObjects],
    masks: np.ndarray,
    class_names: Sequence[str],
    provenance: Dict[str, Any],
) -> PseudoMasks:
    """Write pseudo-masks; the index comes last, so its presence means that they are complete.

    Args:
        folder: gets ``masks.npy`` and ``index.json``.
        records: dataset dicts, n of them.
        objects: those of each image, N in all.
        masks: (N, M, M) uint8, on the boxes, in the same order.
        class_names: of all classes.
        provenance: what the index says beside that, plain values.

    Raises:
        OSError: when the folder cannot be written.
    """
    folder = Path(folder)
    (folder / INDEX).unlink(missing_ok=True)
    write_array(folder / MASKS, masks)
    images = [
        {
            "file_name": _image_key(record)[0],
            "image_id": record.get("image_id"),
            "boxes": x.boxes.round(3).tolist(),
            "classes": x.classes.tolist(),
        }
        for record, x in zip(records, objects)
    ]
    index = {
        **provenance,
        "sha256": file_digest(folder / MASKS),
        "classes": list(class_names),
        "images": images,
    }
    write_json(folder / INDEX, index)
    return PseudoMasks(folder)
