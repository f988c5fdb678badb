"""A user's own COCO-format files as data sets, and what a config has to say of them."""

import os
from collections import Counter
from typing import Any, Callable, List, Sequence, Tuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from ..json_stream import iter_members

OWN_DATA_KEYS = ("TRAIN_JSON", "TRAIN_IMAGES", "VAL_JSON", "VAL_IMAGES")
"""Of ``DATASETS``, as the arguments ``--train-json`` and so on are called."""

Categories = List[List[Any]]  # [id, name] of each, in the order of the ids
Pair = Tuple[str, str]  # annotation file, image folder


def register_own_data(cfg: CfgNode, said: Callable[[str], bool]) -> None:
    """Register ``DATASETS.TRAIN_JSON`` and ``VAL_JSON``, and let them decide what a config says.

    They become ``own_train`` and ``own_val`` (several of a kind: ``own_train_1`` ...), in
    ``DATASETS.TRAIN`` and ``DATASETS.TEST``; ``MODEL.ROI_HEADS.NUM_CLASSES`` is their number of
    categories.  All masks are used unless the user names a split.  What a config of the model zoo
    says of the data that it was made for gives way; what the user says does not.

    Args:
        cfg: changed in place.
        said: whether the user said something of a key.

    Raises:
        ValueError: for files that are missing, not COCO's format or do not agree, and for a value
            of the user's that the data contradict.
    """
    data = cfg.DATASETS
    pairs = {kind: _pairs(cfg, kind) for kind in ("train", "val")}
    if not data.CATEGORIES:
        data.CATEGORIES = _agreed_categories([*pairs["train"], *pairs["val"]])
    for kind, key in (("train", "TRAIN"), ("val", "TEST")):
        ours = _names(kind, len(pairs[kind]))
        others = [name for name in data[key] if not name.startswith(_names(kind, 1))]
        if ours and others and said(f"DATASETS.{key}"):
            raise ValueError(
                f"DATASETS.{key} names {', '.join(others)}, and --{kind}-json (DATASETS."
                f"{kind.upper()}_JSON) other data: leave one of them out"
            )
        for name, (json_file, images) in zip(ours, pairs[kind]):
            _register(name, json_file, images, data.CATEGORIES)
        if ours or not said(f"DATASETS.{key}"):
            data[key] = ours
    num_classes, told = len(data.CATEGORIES), cfg.MODEL.ROI_HEADS.NUM_CLASSES
    if told != num_classes and said("MODEL.ROI_HEADS.NUM_CLASSES"):
        raise ValueError(
            f"MODEL.ROI_HEADS.NUM_CLASSES is {told}, but "
            f"'{(*data.TRAIN_JSON, *data.VAL_JSON)[0]}' has {num_classes} classes: leave it out, "
            f"it is set from the data"
        )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    if not said("DATASETS.MASK_CLASSES"):
        data.MASK_CLASSES = "all"
    if not said("TEST.CLASS_SPLIT"):
        cfg.TEST.CLASS_SPLIT = ""


def _names(kind: str, count: int) -> Tuple[str, ...]:
    name = f"own_{kind}"
    return (name,) if count == 1 else tuple(f"{name}_{i}" for i in range(1, count + 1))


def _pairs(cfg: CfgNode, kind: str) -> List[Pair]:
    """Annotation files with their image folders; absolute, also in the config that is kept."""
    keys = f"{kind.upper()}_JSON", f"{kind.upper()}_IMAGES"
    files, folders = ([os.path.abspath(path) for path in cfg.DATASETS[key]] for key in keys)
    cfg.DATASETS[keys[0]], cfg.DATASETS[keys[1]] = tuple(files), tuple(folders)
    if len(folders) == 1 and files:
        folders = folders * len(files)
    if len(files) != len(folders):
        raise ValueError(
            f"{len(files)} --{kind}-json (DATASETS.{keys[0]}) with {len(folders)} --{kind}-images "
            f"(DATASETS.{keys[1]}): give a folder for each file, or one for all"
        )
    return list(zip(files, folders))


def _agreed_categories(pairs: Sequence[Pair]) -> Categories:
    """The categories that all files have."""
    for _, images in pairs:
        if not os.path.isdir(images):
            raise ValueError(f"the image folder '{images}' does not exist")
    first_file, *more = (json_file for json_file, _ in pairs)
    first = _categories(first_file)
    for file in more:
        other = _categories(file)
        if other != first:
            odd = [c for c in (*first, *other) if (c in first) != (c in other)]
            raise ValueError(
                f"'{first_file}' has {len(first)} categories and '{file}' {len(other)}, and "
                f"{odd[0]} is in one of them only: files that are used together need the same "
                f"ids and names"
            )
    return first


def _categories(file: str) -> Categories:
    if not os.path.isfile(file):
        what = "is no file" if os.path.exists(file) else "does not exist"
        raise ValueError(f"the annotation file '{file}' {what}")
    found = [value for key, value in iter_members(file) if key == "categories"]
    if not found or not all(_is_category(c) for c in found):
        raise ValueError(
            f"'{file}' has no categories with an 'id' (a whole number) and a 'name': they name the "
            f"classes in COCO's format"
        )
    for key in ("id", "name"):
        value, count = Counter(c[key] for c in found).most_common(1)[0]
        if count > 1:
            raise ValueError(f"'{file}' has {count} categories with the {key} '{value}'")
    return sorted([c["id"], c["name"]] for c in found)


def _is_category(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("id"), int)
        and isinstance(value.get("name"), str)
    )


def _register(name: str, json_file: str, images: str, categories: Categories) -> None:
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)
    known = {
        "thing_classes": [c[1] for c in categories],
        "thing_dataset_id_to_contiguous_id": {c[0]: i for i, c in enumerate(categories)},
    }
    register_coco_instances(name, known, json_file, images)
