"""Visual Genome's data sets, and COCO's in Visual Genome's labels, for detectron2."""

import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ...files import PathLike, read_json
from .vg_classes import display_name

FOLDER = "visual_genome"
ANNOTATIONS = f"{FOLDER}/annotations"

VISUAL_GENOME_DATA_SETS: Dict[str, Tuple[str, str]] = {
    **{f"vg3k_{s}": (f"instances_vg3k_{s}.json", FOLDER) for s in ("train", "val", "test")},
    **{
        f"coco_2017_{s}_vg3k": (f"instances_{s}2017_vg3k.json", f"coco/{s}2017")
        for s in ("train", "val")
    },
}
"""Name -> annotation file, below :data:`ANNOTATIONS`, and image folder, below the root."""


def register_visual_genome(root: Optional[PathLike] = None) -> None:
    """Register ``vg3k_{train,val,test}`` and ``coco_2017_{train,val}_vg3k``; reads no data yet.

    ``seg-every-thing prepare-vg`` and ``align`` write their files (docs/VISUAL_GENOME.md).  Class
    names are the synsets, which are unique.  The metadata also have ``display_names`` ("traffic
    light"; several classes may share one) and ``coco_classes``: indices of COCO's 80 classes.  With
    ``summary.json`` of ``prepare-vg`` they are there at once, without it once a file is loaded.
    Calling it again refreshes all of that.

    Args:
        root: data set root; default ``$DETECTRON2_DATASETS``, else ``datasets``.

    Raises:
        ValueError: when ``summary.json`` is there and broken.
    """
    root = Path(root if root is not None else os.getenv("DETECTRON2_DATASETS", "datasets"))
    summary = root / ANNOTATIONS / "summary.json"
    categories = _categories_in(summary) if summary.is_file() else None
    for name, (json_file, image_folder) in VISUAL_GENOME_DATA_SETS.items():
        _register(name, root / ANNOTATIONS / json_file, root / image_folder, categories)


def register_used_visual_genome(cfg: CfgNode) -> None:
    """Register the data sets where a config uses one of them and nobody has registered it yet."""
    used = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} & VISUAL_GENOME_DATA_SETS.keys()
    if used - set(DatasetCatalog.list()):
        register_visual_genome()


def _categories_in(summary: Path) -> List[Dict[str, Any]]:
    content = read_json(summary)
    try:
        # Only what follows is used; a broken row shows here and not in the middle of training.
        return [
            {"id": int(c["id"]), "name": str(c["name"]), "coco_id": c.get("coco_id")}
            for c in content["classes"]
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as e:
        raise ValueError(
            f"'{summary}' is not a summary of seg-every-thing prepare-vg: run that again"
        ) from e


def _register(
    name: str, json_file: Path, image_root: Path, categories: Optional[List[Dict[str, Any]]]
) -> None:
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)

    def load() -> List[Dict[str, Any]]:
        dicts = load_coco_json(str(json_file), str(image_root), name)
        metadata = MetadataCatalog.get(name)
        names = [display_name(c) for c in metadata.thing_classes]
        metadata.set(display_names=names, coco_classes=list(range(min(80, len(names)))))
        return dicts

    DatasetCatalog.register(name, load)
    metadata = MetadataCatalog.get(name)
    metadata.set(
        json_file=str(json_file),
        image_root=str(image_root),
        evaluator_type="coco",
        made_by="seg-every-thing prepare-vg and align (docs/VISUAL_GENOME.md)",
    )
    if categories is not None:
        metadata.set(
            thing_classes=[c["name"] for c in categories],
            thing_dataset_id_to_contiguous_id={c["id"]: i for i, c in enumerate(categories)},
            display_names=[display_name(c["name"]) for c in categories],
            coco_classes=[i for i, c in enumerate(categories) if c["coco_id"] is not None],
        )
