"""What recipes are chosen on: no mask of set B, and no image twice."""

import functools
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from conftest import unregister
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from tiramisu_helpers import real_data

from seg_every_thing.data.datasets.choice_sets import load_choice_set
from seg_every_thing.data.datasets.voc_instances import VOC_INSTANCE_CLASSES
from seg_every_thing.data.splits import (
    COCO_CLASSES,
    VOC_CLASSES,
    named_splits,
    resolve_class_split,
)
from seg_every_thing.evaluation.given_boxes import GivenBoxEvaluator
from seg_every_thing.model_zoo import get_config

AEROPLANE, BICYCLE = 0, 1  # set A and set B of voc_even


def _records() -> List[Dict[str, Any]]:
    def thing(category: int) -> Dict[str, Any]:
        square = [[1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]]
        box = {"bbox": [1, 1, 4, 4], "bbox_mode": BoxMode.XYWH_ABS}
        return {**box, "category_id": category, "segmentation": square, "iscrowd": 0}

    size = {"height": 8, "width": 8}
    return [
        {**size, "file_name": f"{i}.jpg", "image_id": i, "annotations": [thing(0), thing(1)]}
        for i in range(9)
    ]


@pytest.fixture
def parent() -> Iterator[str]:
    DatasetCatalog.register("some_train", _records)
    MetadataCatalog.get("some_train").set(thing_classes=list(VOC_INSTANCE_CLASSES))
    yield "some_train"
    unregister("some_train")


def test_every_fourth_image_is_held_out_and_set_b_has_boxes_alone(parent: str) -> None:
    train, held_out = (load_choice_set(parent, "voc_even", part) for part in (False, True))
    assert [x["image_id"] for x in held_out] == [0, 4, 8]
    assert [x["image_id"] for x in train] == [1, 2, 3, 5, 6, 7]
    for record in (*train, *held_out):
        of_a, of_b = record["annotations"]
        assert of_a["category_id"] == AEROPLANE and of_a["segmentation"]
        assert of_b["category_id"] == BICYCLE and "segmentation" not in of_b
        assert of_b["bbox"] == [1, 1, 4, 4]


def test_masks_are_compared_without_an_annotation_file(parent: str, tmp_path: Path) -> None:
    load = functools.partial(load_choice_set, parent, "voc_even", True)
    DatasetCatalog.register("some_val", load)
    MetadataCatalog.get("some_val").set(
        evaluator_type="coco", thing_classes=list(VOC_INSTANCE_CLASSES)
    )
    try:
        for name in ("given", "given_fit"):  # the second one finds the file that the first has made
            evaluator = GivenBoxEvaluator("some_val", output_dir=str(tmp_path / name), name=name)
            assert [len(x.classes) for x in evaluator.objects.values()] == [1, 1, 1]
    finally:
        unregister("some_val")


def test_halves_lie_in_set_a() -> None:
    splits = named_splits()
    assert len(splits["voc_half"]) == 10 and set(splits["voc_half"]) < set(VOC_CLASSES)
    assert splits["voc_even_half"] == ("bird", "car", "diningtable", "person", "train")
    assert set(splits["voc_even_half"]) < set(splits["voc_even"])


def test_the_real_sets_have_the_masks_of_set_a_alone() -> None:
    real_data("voc_sample", "instances_train.json")
    try:
        get_config("voc/Base-Choice.yaml")
        get_config("photos/Base-Choice.yaml")
        for name, split, names in (
            ("voc_choice", "voc_even", VOC_INSTANCE_CLASSES),
            ("photos_choice", "voc", COCO_CLASSES),
        ):
            parts = [DatasetCatalog.get(f"{name}_{part}") for part in ("train", "val")]
            assert len(parts[0]) // 3 == len(parts[1]) - bool(len(parts[0]) % 3)
            assert not {x["image_id"] for x in parts[0]} & {x["image_id"] for x in parts[1]}
            set_a = resolve_class_split(split, names).set_a
            masked = [
                a["category_id"] in set_a
                for part in parts
                for record in part
                for a in record["annotations"]
                if a.get("segmentation")
            ]
            assert masked and all(masked)
    finally:
        for name in DatasetCatalog.list():
            if name.startswith(("voc_choice", "photos_choice", "voc_sample", "voc_2012_inst")):
                unregister(name)
