"""One check of an object for training and evaluation, whatever form its data set has."""

from typing import Any, Collection, Dict, List, Optional, Sequence

import numpy as np
from detectron2.structures import BoxMode

from .boxes import CUT_BOX, CornerVotes, overlap, read_box
from .data_report import BOX_ONLY, CLIPPED, CROWD, DROPPED, SUSPICIOUS, USED, DataReport
from .segmentations import (
    ABSENT,
    CUT,
    INCOMPLETE,
    MAX_COORDINATE,
    Mask,
    Size,
    are_numbers,
    read_segmentation,
    shortened,
)
from .splits import resolve_class_split

Annotation = Dict[str, Any]
Record = Dict[str, Any]

UNUSABLE = "that are unusable"
BAD_CATEGORY = "of an unknown category"
BAD_MASK = "with an unusable mask"
WITHHELD = "with a mask that may not be used"
ASTRAY = "with a mask that is not where the box is"

_ROWS = {CUT: CLIPPED, CUT_BOX: CLIPPED, INCOMPLETE: SUSPICIOUS, ASTRAY: SUSPICIOUS}
_NO_FAULT = (ABSENT, WITHHELD)
_MIN_AGREEMENT = 0.5
"""IoU of a box and the extent of its mask below which one of them is likely to be wrong."""


class ObjectChecker:
    """Checks the objects of a data set one by one, and counts each in one row of a report."""

    def __init__(self, report: DataReport) -> None:
        """
        Args:
            report: gets the counts.
        """
        self.report = report
        self.votes = CornerVotes()

    def check(
        self, annotation: Annotation, name: str, image_size: Optional[Size], may_use_mask: bool
    ) -> Optional[Annotation]:
        """Check an object.

        Args:
            annotation: with ``bbox`` x, y, width, height; it is not changed.
            name: of the object in messages.
            image_size: (height, width), if known.
            may_use_mask: whether its mask is used; if not, it is not read.

        Returns:
            What may be used of it: the annotation itself, or a changed copy; None = nothing.
        """
        try:
            box = read_box(annotation.get("bbox"), image_size)
            _check_rest(annotation)
        except ValueError as e:
            self.refuse(UNUSABLE, name, str(e))
            return None
        if box.flaw not in ("", CUT_BOX):
            self.report.count(DROPPED, box.flaw, name)
            return None
        segmentation: Any = annotation.get("segmentation")
        none = segmentation is None or (type(segmentation) is list and not segmentation)
        mask, why = Mask(segmentation, ABSENT if none else WITHHELD), ""
        if may_use_mask:
            try:
                mask = read_segmentation(segmentation, image_size)
            except ValueError as e:
                mask, why = Mask([], BAD_MASK), str(e)
                self.report.refuse(f"{name}: {why}")
        if image_size is not None:
            self.votes.add(annotation["bbox"], image_size, mask.extent)

        changes: Dict[str, Any] = {"bbox": box.xywh} if box.flaw else {}
        if not _is_as_it_was(mask, segmentation):
            changes["segmentation"] = mask.segmentation
        checked = self._tidied(annotation)
        checked = {**checked, **changes} if changes else checked

        x, y, w, h = box.xywh
        astray = mask.extent and overlap((x, y, x + w, y + h), mask.extent) < _MIN_AGREEMENT
        flaws = [flaw for flaw in (mask.flaw, box.flaw, ASTRAY if astray else "") if flaw]
        if checked.get("iscrowd"):
            row = CROWD
        elif not (may_use_mask and mask.segmentation):
            row = BOX_ONLY
        else:
            row = _ROWS[flaws[0]] if flaws else USED
        faulty = any(flaw not in _NO_FAULT for flaw in flaws)
        self.report.count(row, ", ".join(flaws), name if faulty else "", why)
        return checked

    def refuse(self, reason: str, name: str, why: str) -> None:
        """Leave out an object that is unusable: an error, unless it is to be set aside."""
        self.report.refuse(f"{name}: {why}")
        self.report.count(DROPPED, reason, name, why)

    def _tidied(self, annotation: Annotation) -> Annotation:
        """Without fields whose value is none, so that they are filled in like absent ones."""
        nothing = [f for f, ok in _FIELDS.items() if f in annotation and not ok(annotation[f])]
        if not nothing:
            return annotation
        self.report.filled_in.update(nothing)
        tidied = {k: v for k, v in annotation.items() if k not in nothing}
        if annotation.get("iscrowd") == "1":
            tidied["iscrowd"] = 1
        return tidied


def _is_as_it_was(mask: Mask, segmentation: Any) -> bool:
    """Whether an annotation may keep its segmentation as it is written."""
    if mask.segmentation is segmentation or not (mask.segmentation or segmentation):
        return True
    if not mask.segmentation or not isinstance(segmentation, dict):
        return False
    # Lists of counts, as COCO's crowds have them: everybody encodes them where they are needed.
    whole = set(map(type, segmentation["size"])) == {int}
    return whole and isinstance(segmentation["counts"], list)


def _is_number(value: Any) -> bool:
    return are_numbers([value]) and 0 <= value <= MAX_COORDINATE**2


_FIELDS = {
    "iscrowd": lambda value: isinstance(value, bool) or _is_number(value),
    "area": _is_number,
    "keypoints": lambda value: value is not None,
    "ignore": lambda value: value is not None,
}


def _check_rest(annotation: Annotation) -> None:
    """Make sure that detectron2's loader can take the rest of an annotation."""
    keypoints = annotation.get("keypoints")
    if annotation.get("ignore"):
        raise ValueError("it has 'ignore', which detectron2 does not know: use iscrowd")
    if keypoints is not None and not (
        isinstance(keypoints, (list, tuple, np.ndarray))
        and are_numbers(keypoints)
        and len(keypoints) % 3 == 0
        and all(abs(v) <= MAX_COORDINATE for v in keypoints)
    ):
        raise ValueError(f"its keypoints {shortened(keypoints)} are not numbers x, y, v, ...")


def checked_dicts(
    dicts: Sequence[Record], report: DataReport, split: str, class_names: Optional[List[str]]
) -> List[Record]:
    """Dataset dicts that were no COCO file, without what cannot be used of their annotations.

    Args:
        dicts: in detectron2's format; they are not changed.
        report: counts their objects.
        split: whose set A may use its masks, as ``DATASETS.MASK_CLASSES``; "" = no class.
        class_names: in contiguous order; None = unknown.

    Raises:
        ValueError: when boxes say that they are x, y, width, height and are x0, y0, x1, y1, or when
            the split does not fit.
    """
    checker = ObjectChecker(report)
    set_a: Optional[Collection[int]] = None if split == "all" else ()
    if split not in ("", "all") and class_names is not None:
        set_a = resolve_class_split(split, class_names).set_a
    checked = []
    for record in dicts:
        if record.get("annotations"):
            size: Any = record.get("height"), record.get("width")
            size = size if are_numbers(size) and min(size) > 0 else None
            kept = []
            for i, annotation in enumerate(record["annotations"]):
                name = f"object {i} of image {record.get('file_name')!r}"
                kept.append(_checked(checker, annotation, name, size, set_a, class_names))
            record = {**record, "annotations": [a for a in kept if a is not None]}
        checked.append(record)
    checker.votes.check()
    return checked


def box_as_sizes(annotation: Annotation) -> Any:
    """The box of an object in a dataset dict as x, y, width, height; anything else as it is.

    Raises:
        ValueError: when ``bbox_mode`` is neither ``XYWH_ABS`` nor ``XYXY_ABS``.
    """
    mode = annotation.get("bbox_mode")
    bbox: Any = annotation.get("bbox")
    if mode not in (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS):
        raise ValueError(f"its bbox_mode {mode} is neither XYXY_ABS nor XYWH_ABS")
    is_box = isinstance(bbox, (list, tuple, np.ndarray)) and len(bbox) == 4 and are_numbers(bbox)
    if mode == BoxMode.XYWH_ABS or not is_box:
        return bbox
    return [bbox[0], bbox[1], bbox[2] - bbox[0], bbox[3] - bbox[1]]


def _checked(
    checker: ObjectChecker,
    annotation: Any,
    name: str,
    size: Optional[Size],
    set_a: Optional[Collection[int]],
    class_names: Optional[List[str]],
) -> Optional[Annotation]:
    """An object of a dataset dict, in either of the box modes."""
    try:
        if not isinstance(annotation, dict):
            raise ValueError(f"it is no dict but {shortened(annotation)}")
        bbox = box_as_sizes(annotation)
    except ValueError as e:
        checker.refuse(UNUSABLE, name, str(e))
        return None
    category = annotation.get("category_id")
    if not _is_class(category, class_names):
        checker.refuse(BAD_CATEGORY, name, f"its category_id is {shortened(category)}")
        return None
    may_use_mask = set_a is None or category in set_a
    if bbox is annotation.get("bbox"):
        return checker.check(annotation, name, size, may_use_mask)
    as_sizes = {**annotation, "bbox": bbox, "bbox_mode": BoxMode.XYWH_ABS}
    checked = checker.check(as_sizes, name, size, may_use_mask)
    return annotation if checked is as_sizes else checked


def _is_class(category: Any, class_names: Optional[List[str]]) -> bool:
    if not isinstance(category, (int, np.integer)) or isinstance(category, bool):
        return False
    return bool(category >= 0 and (class_names is None or category < len(class_names)))
