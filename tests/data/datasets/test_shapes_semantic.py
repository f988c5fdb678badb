"""Semantic labels of Shapes: made from the masks, once, and without gaps."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import unregister
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiramisu_helpers import clean_catalog  # noqa: F401

from seg_every_thing import register_shapes
from seg_every_thing.data.datasets.semantic_sets import (
    register_semantic_datasets,
    register_used_semantic_datasets,
)
from seg_every_thing.data.datasets.shapes_semantic import (
    SHAPES_HUE_SEM_CLASSES,
    SHAPES_SEM_CLASSES,
    load_shapes_semantic,
    register_shapes_semantic,
)
from seg_every_thing.data.labels import read_label
from seg_every_thing.evaluation.label_ceilings import label_ceilings

pytestmark = pytest.mark.usefixtures("clean_catalog")


@pytest.mark.parametrize(
    "labelling, classes",
    [("shapes_sem", SHAPES_SEM_CLASSES), ("shapes_hue_sem", SHAPES_HUE_SEM_CLASSES)],
)
def test_labels_are_the_masks(tiny_shapes: Path, labelling: str, classes: tuple) -> None:
    register_shapes_semantic(tiny_shapes)
    instances = json.loads(Path(MetadataCatalog.get("shapes_val").json_file).read_text())
    names = {c["id"]: c["name"] for c in instances["categories"]}
    records = DatasetCatalog.get(f"{labelling}_val")
    assert len(records) == len(instances["images"]) == 6
    assert MetadataCatalog.get(f"{labelling}_val").stuff_classes == list(classes)
    for image, r in zip(instances["images"], records):
        assert Path(r["file_name"]).name == image["file_name"]
        label = read_label(r["sem_seg_file_name"])
        covered = np.zeros_like(label, bool)
        for a in instances["annotations"]:
            if a["image_id"] != image["id"]:
                continue
            mask = mask_util.decode(a["segmentation"]).astype(bool)
            (index,) = np.unique(label[mask])
            assert classes[index] in names[a["category_id"]].split()
            covered |= mask
        assert (label[~covered] == 0).all() and covered.any()


def test_drawn_once(tiny_shapes: Path) -> None:
    first = load_shapes_semantic("shapes_sem", "train")
    stamps = [Path(r["sem_seg_file_name"]).stat().st_mtime_ns for r in first]
    assert load_shapes_semantic("shapes_sem", "train") == first
    assert [Path(r["sem_seg_file_name"]).stat().st_mtime_ns for r in first] == stamps
    folder = Path(first[0]["sem_seg_file_name"]).parent
    assert not list(folder.parent.glob(".labels_*"))


def test_registering_draws_nothing_and_use_draws_shapes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def few(root: Path) -> None:
        drawn.append(root)
        register_shapes(root, num_train=2, num_val=1, image_size=32)

    monkeypatch.setattr("seg_every_thing.data.datasets.shapes_semantic.register_shapes", few)
    for name in ("shapes_train", "shapes_val"):
        unregister(name)
    register_semantic_datasets(tmp_path)
    assert not drawn and not list(tmp_path.iterdir())
    assert len(DatasetCatalog.get("shapes_sem_train")) == 2
    assert len(DatasetCatalog.get("shapes_sem_val")) == 1
    assert drawn == [tmp_path]
    for name in ("shapes_train", "shapes_val"):
        unregister(name)


def test_only_what_a_config_uses_is_registered(tmp_path: Path) -> None:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("camvid_train", "mine"), ("voc_2011_seg11valid",)
    DatasetCatalog.register("voc_2011_seg11valid", lambda: ["my own"])
    register_used_semantic_datasets(cfg, tmp_path)
    assert "camvid_val" in DatasetCatalog.list() and "sbd_train" not in DatasetCatalog.list()
    assert DatasetCatalog.get("voc_2011_seg11valid") == ["my own"]
    cfg.DATASETS.TEST = ("sbd_val",)
    with pytest.raises(ValueError, match="'voc_2011_seg11valid' is taken"):
        register_used_semantic_datasets(cfg, tmp_path)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="'shapes_texture_train'"):
        load_shapes_semantic("shapes_texture", "train")
    with pytest.raises(ValueError, match="'shapes_sem_test'"):
        load_shapes_semantic("shapes_sem", "test")


def test_coarse_scores_cannot_tell_the_shapes(tiny_shapes: Path) -> None:
    """What a perfect FCN could reach at best: strides 32, 16 and 8 lie far apart."""
    register_shapes_semantic()
    cfg = get_cfg()
    cfg.DATASETS.TEST = ("shapes_sem_train",)
    cfg.INPUT.MIN_SIZE_TEST = 0
    ceilings = label_ceilings(cfg, (32, 16, 8, 4))
    bounds = [ceiling["mean_IU"] for ceiling in ceilings.values()]
    assert bounds[0] + 20 < bounds[1] and bounds[1] + 8 < bounds[2] < bounds[3], bounds
