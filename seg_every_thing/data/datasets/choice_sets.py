"""Training images shared out anew, to choose a recipe on: no mask of set B, no validation image.

``voc_choice_{train,val}`` come from ``voc_sample_train`` with set A of ``voc_even``,
``photos_choice_{train,val}`` from ``coco_2017_train`` with set A of ``voc``.  Every fourth image is
held out, and objects of set B keep their boxes and lose their masks.  What is chosen on half of set
A (splits ``voc_even_half`` and ``voc_half``) is measured on its other half.
"""

import functools
from typing import Any, Dict, List

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..catalog import class_names_of
from ..splits import resolve_class_split
from .voc_instances import register_voc_instances

HELD_OUT = 4
"""Of so many images, one is held out."""

_PARENTS = {
    "voc_choice": ("voc_sample_train", "voc_even"),
    "photos_choice": ("coco_2017_train", "voc"),
}


def register_choice_sets() -> None:
    """Register ``voc_choice_{train,val}`` and ``photos_choice_{train,val}``.

    Nothing is read before use.  Their parents must be registered by then.
    """
    for name, (parent, split) in _PARENTS.items():
        for part in ("train", "val"):
            full = f"{name}_{part}"
            DatasetCatalog.pop(full, None)
            MetadataCatalog.pop(full, None)
            load = functools.partial(load_choice_set, parent, split, part == "val")
            DatasetCatalog.register(full, load)
            MetadataCatalog.get(full).set(
                evaluator_type="coco",
                thing_classes=list(MetadataCatalog.get(parent).thing_classes),
                data_version=f"{parent} {split} 1 of {HELD_OUT}",
            )


def register_used_choice_sets(cfg: CfgNode) -> None:
    """Register the sets where a config uses one of them and nobody has registered it yet."""
    names = {f"{name}_{part}" for name in _PARENTS for part in ("train", "val")}
    if ({*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} & names) - set(DatasetCatalog.list()):
        if "voc_sample_train" not in DatasetCatalog.list():
            register_voc_instances()
        register_choice_sets()


def load_choice_set(parent: str, split: str, held_out: bool) -> List[Dict[str, Any]]:
    """A part of a training set, without the masks of set B.

    Args:
        parent: registered data set.
        split: as ``DATASETS.MASK_CLASSES``, of the parent's classes.
        held_out: the images that are held out, else the others.

    Returns:
        Dataset dicts in detectron2's form.
    """
    set_b = resolve_class_split(split, class_names_of(parent)).set_b
    records = [
        record
        for i, record in enumerate(DatasetCatalog.get(parent))
        if (i % HELD_OUT == 0) == held_out
    ]
    for record in records:
        for annotation in record["annotations"]:
            if annotation["category_id"] in set_b:
                annotation.pop("segmentation", None)
    return records
