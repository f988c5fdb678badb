"""Class splits: which classes have masks (set A) and which only boxes (set B).

A split is a name that stands for class names, so it holds on any data set that has these classes.
"""

import difflib
import functools
import json
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

import numpy as np
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from .datasets.shapes import SHAPES_CLASSES, SHAPES_SET_A
from .datasets.voc import VOC_SEM_SEG_CLASSES

COCO_CLASSES: Tuple[str, ...] = tuple(c["name"] for c in COCO_CATEGORIES if c["isthing"])

VOC_CLASSES: Tuple[str, ...] = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat"),
    *("bird", "cat", "dog", "horse", "sheep", "cow"),
    *("bottle", "chair", "couch", "potted plant", "dining table", "tv"),
)
"""The 20 classes of Pascal VOC by their COCO names (paper, section 4)."""


class SplitError(ValueError):
    """A split that there is not, or that does not fit a data set."""


class ClassSplit(NamedTuple):
    """Contiguous class indices with masks (``set_a``) and without (``set_b``), each sorted."""

    set_a: Tuple[int, ...]
    set_b: Tuple[int, ...]


@functools.lru_cache(maxsize=None)
def coco_random_splits() -> Dict[str, Tuple[str, ...]]:
    """The 25 random splits of the paper's Figure 3: name -> class names of set A, in draw order.

    One legacy numpy generator seeded with 3 draws them all, trials outside, sizes inside, so the
    order of the loops is part of the definition.
    """
    rng = np.random.RandomState(3)
    splits = {}
    for trial in range(1, 6):
        for size in (20, 30, 40, 50, 60):
            drawn = rng.choice(80, size, replace=False)
            splits[f"E{trial}_A{size}B{80 - size}"] = tuple(COCO_CLASSES[i] for i in drawn)
    return splits


@functools.lru_cache(maxsize=None)
def shapes_random_splits() -> Dict[str, Tuple[str, ...]]:
    """Five trials of 1/4, 3/8, 1/2, 5/8 and 3/4 of the classes of Shapes, as for Figure 3."""
    rng = np.random.RandomState(3)
    count = len(SHAPES_CLASSES)
    splits = {}
    for trial in range(1, 6):
        for eighths in (2, 3, 4, 5, 6):
            size = count * eighths // 8
            drawn = rng.choice(count, size, replace=False)
            splits[f"shapes_E{trial}_A{size}B{count - size}"] = tuple(
                SHAPES_CLASSES[i] for i in drawn
            )
    return splits


def named_splits() -> Dict[str, Tuple[str, ...]]:
    """All splits known by name -> class names of set A (without "all")."""
    nonvoc = tuple(c for c in COCO_CLASSES if c not in VOC_CLASSES)
    return {
        "voc": VOC_CLASSES,
        "nonvoc": nonvoc,
        # VOC by its own names: every second class, from the first and from the second on.
        "voc_even": VOC_SEM_SEG_CLASSES[1:][0::2],
        "voc_odd": VOC_SEM_SEG_CLASSES[1:][1::2],
        # Half of set A of "voc", and of "voc_even": for choosing recipes.
        "voc_half": VOC_CLASSES[0::2],
        "voc_even_half": VOC_SEM_SEG_CLASSES[1:][2::4],
        "shapes_A": SHAPES_SET_A,
        "shapes_B": tuple(c for c in SHAPES_CLASSES if c not in SHAPES_SET_A),
        **coco_random_splits(),
        **shapes_random_splits(),
    }


def resolve_class_split(mask_classes: str, class_names: Sequence[str]) -> ClassSplit:
    """Turn the value of ``DATASETS.MASK_CLASSES`` into class indices of a data set.

    Args:
        mask_classes: "all", "none", a name of :func:`named_splits`, or the path of a .txt file (one
            class name a line) or .json file (a list of class names).
        class_names: the data set's class names in contiguous order.

    Returns:
        The split; for "all", set B is empty, for "none", set A.

    Raises:
        SplitError: for an unknown split or class (the message names the nearest), a class listed
            twice, an empty set A, or an unreadable file.
    """
    if mask_classes == "all":
        return ClassSplit(tuple(range(len(class_names))), ())
    if mask_classes == "none":
        return ClassSplit((), tuple(range(len(class_names))))
    names = _set_a_names(mask_classes)
    index = {name: i for i, name in enumerate(class_names)}
    unknown = [name for name in names if name not in index]
    if unknown:
        raise SplitError(_misfit_message(mask_classes, names, unknown, class_names))
    set_a = {index[name] for name in names}
    return ClassSplit(
        tuple(sorted(set_a)), tuple(i for i in range(len(class_names)) if i not in set_a)
    )


def _set_a_names(mask_classes: str) -> List[str]:
    splits = named_splits()
    if mask_classes in splits:
        return list(splits[mask_classes])
    if not mask_classes.endswith((".txt", ".json")):
        near = _nearest(mask_classes, ["all", "none", *splits])
        raise SplitError(
            f"unknown split '{mask_classes}'{near}. Known: all, none, voc, "
            f"nonvoc, voc_even, voc_odd, voc_half, voc_even_half, E1_A20B60 ... E5_A60B20, "
            f"shapes_A, shapes_B, shapes_E1_A12B36 ... shapes_E5_A36B12, or the path of a .txt or "
            f".json list of class names"
        )
    names = _read_names(Path(mask_classes))
    if not names:
        raise SplitError(f"'{mask_classes}' names no class: set A must not be empty")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise SplitError(f"'{mask_classes}' lists a class twice: {', '.join(repeated)}")
    return names


def _read_names(path: Path) -> List[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as e:
        raise SplitError(f"cannot read the class list '{path}': {e}") from e
    if path.suffix == ".txt":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        names = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as e:
        raise SplitError(f"the class list '{path}' is not valid JSON: {e}") from e
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SplitError(f"the class list '{path}' must be a JSON list of class names")
    return names


def _misfit_message(
    mask_classes: str, names: Sequence[str], unknown: Sequence[str], class_names: Sequence[str]
) -> str:
    if len(unknown) == len(names) and len(names) > 1:
        return (
            f"split '{mask_classes}' does not fit the data set: it has none of the split's "
            f"{len(names)} classes (its first classes: {', '.join(class_names[:3])})"
        )
    described = "; ".join(f"'{name}'{_nearest(name, class_names)}" for name in unknown[:5])
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    return (
        f"split '{mask_classes}' names classes that the data set does not have: {described}{more}"
    )


def _nearest(name: str, known: Sequence[str]) -> str:
    match = [other for other in known if other.lower() == name.lower()]
    match = match or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f" (did you mean '{match[0]}'?)" if match else ""
