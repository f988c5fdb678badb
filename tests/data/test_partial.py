"""Loading data sets in which some objects have masks: no box goes missing, and the log tells."""

import copy
import json
import logging
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
from conftest import Annotation, MakeDataset, box_polygon, unregister
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from seg_every_thing import PartialSupervisionMapper, add_seg_every_thing_config
from seg_every_thing.data.catalog import class_names_of
from seg_every_thing.data.partial import (
    load_training_dicts,
    set_a_of,
)
from seg_every_thing.data.segmentations import usable_segmentation

INVALID = [[[1.0, 2]], [[1.0, 2, 3, 4]], [[1.0, 2, 3, 4, 5, 6, 7]], [[]]]  # too short or odd


def config_of(*datasets: str) -> CfgNode:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.MODEL.MASK_ON = True
    cfg.DATASETS.TRAIN = datasets
    return cfg


def objects_of(record: Dict[str, Any]) -> List[Any]:
    return [(a["category_id"], tuple(a["bbox"])) for a in record["annotations"]]


def json_of(dataset: str) -> Path:
    return Path(MetadataCatalog.get(dataset).json_file)


# --- usable_segmentation ------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_nothing_is_no_mask(nothing: Any) -> None:
    assert usable_segmentation(nothing) == []


def test_polygons_too_short_are_left_out() -> None:
    good = [0.0, 0, 4, 0, 4, 4]
    assert usable_segmentation([[1.0, 2], good, [1.0] * 7, [1.0] * 4]) == [good]
    assert usable_segmentation([np.array(good)])[0].tolist() == good


def test_uncompressed_rle_is_compressed() -> None:
    rle = usable_segmentation({"size": [2, 3], "counts": [1, 2, 3]})
    assert list(rle["size"]) == [2, 3] and isinstance(rle["counts"], bytes)
    assert usable_segmentation(rle) == rle


@pytest.mark.parametrize(
    "bad", ["abc", 5, [1.0, 2, 3, 4, 5, 6], {"size": [2, 3]}, {"counts": [6]}, {"polygon": []}]
)
def test_anything_else_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="segmentation"):
        usable_segmentation(bad)


# --- load_training_dicts ------------------------------------------------------------------------


def test_every_box_of_the_file_is_loaded(mixed_dataset: str) -> None:
    dicts = load_training_dicts(config_of(mixed_dataset))
    assert [d["image_id"] for d in dicts] == [1, 4]  # 2 has crowd only, 3 has nothing
    assert [len(d["annotations"]) for d in dicts] == [6, 2]


def test_images_without_objects_may_stay(mixed_dataset: str) -> None:
    cfg = config_of(mixed_dataset)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert [d["image_id"] for d in load_training_dicts(cfg)] == [1, 2, 3, 4]


def test_objects_with_invalid_polygons_come_back_in_order(make_dataset: MakeDataset) -> None:
    annotations: List[Annotation] = []
    for i, category in enumerate((1, 3, 7, 3, 1, 7)):
        box = [4 + 12 * i, 5, 10, 20]
        annotations.append({"bbox": box, "category_id": category, "iscrowd": 0})
    for i, polygons in zip((0, 2, 3, 5), INVALID):  # first, two in a row, last
        annotations[i]["segmentation"] = polygons
    annotations[1]["segmentation"] = box_polygon(annotations[1]["bbox"])
    dataset = make_dataset([annotations])
    assert len(DatasetCatalog.get(dataset)[0]["annotations"]) == 2  # why this is needed

    (record,) = load_training_dicts(config_of(dataset))
    expected = [({1: 0, 3: 1, 7: 2}[a["category_id"]], tuple(a["bbox"])) for a in annotations]
    assert objects_of(record) == expected
    assert ["segmentation" in a for a in record["annotations"]] == [i == 1 for i in range(6)]


def test_an_image_whose_only_object_is_invalid_is_kept(make_dataset: MakeDataset) -> None:
    bad = {"bbox": [4, 5, 10, 20], "category_id": 3, "segmentation": INVALID[0]}
    (record,) = load_training_dicts(config_of(make_dataset([[], [bad]])))
    assert record["image_id"] == 2 and objects_of(record) == [(1, (4, 5, 10, 20))]


def test_invalid_crowd_stays_crowd(make_dataset: MakeDataset) -> None:
    crowd = {"bbox": [4, 5, 9, 9], "category_id": 3, "segmentation": INVALID[1], "iscrowd": 1}
    box = {"bbox": [4, 5, 10, 20], "category_id": 1, "iscrowd": 0}
    (record,) = load_training_dicts(config_of(make_dataset([[crowd], [crowd, box]])))
    assert record["image_id"] == 2
    assert [a["iscrowd"] for a in record["annotations"]] == [1, 0]


def test_restoring_is_logged(make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture) -> None:
    bad = {"bbox": [4, 5, 10, 20], "category_id": 3, "segmentation": INVALID[0]}
    dataset = make_dataset([[bad], [bad, bad]])
    with caplog.at_level(logging.WARNING, "seg_every_thing"):
        load_training_dicts(config_of(dataset))
    assert f"{dataset}: 3 objects with invalid polygons train boxes only" in caplog.text


@pytest.mark.parametrize("garbage", ["too short", "wrong place"])
def test_masks_of_set_b_do_not_matter(
    make_dataset: MakeDataset, tmp_path: Path, garbage: str
) -> None:
    """Set B masks replaced by garbage and set B masks taken out train the same."""
    random = np.random.RandomState(0)
    images: List[List[Annotation]] = []
    for _ in range(6):
        boxes = random.randint(2, 40, (5, 4)).tolist()
        categories = random.choice([1, 3, 7], 5).tolist()
        images.append(
            [
                {"bbox": b, "category_id": c, "iscrowd": 0, "segmentation": box_polygon(b)}
                for b, c in zip(boxes, categories)
            ]
        )
    spoilt, removed = copy.deepcopy(images), copy.deepcopy(images)
    for i, annotations in enumerate(spoilt):
        for j, annotation in enumerate(annotations):
            if annotation["category_id"] != 1:
                short = INVALID[(i + j) % len(INVALID)]
                annotation["segmentation"] = short if garbage == "too short" else [[1e6] * 6]
                del removed[i][j]["segmentation"]
    split = tmp_path / "a.txt"
    split.write_text("cup")
    samples = []
    for content in (spoilt, removed):
        cfg = config_of(make_dataset(content))
        cfg.DATASETS.MASK_CLASSES = str(split)
        dicts = load_training_dicts(cfg)
        if garbage == "too short":
            samples.append([d["annotations"] for d in dicts])
        mapper = PartialSupervisionMapper(cfg, is_train=True)
        np.random.seed(3)
        samples.append([str(vars(mapper(d)["instances"])) for d in dicts])
    half = len(samples) // 2
    assert samples[:half] == samples[half:]


def test_two_data_sets_each_get_their_own_back(make_dataset: MakeDataset) -> None:
    bad = {"bbox": [4, 5, 10, 20], "category_id": 3, "segmentation": INVALID[0]}
    good = {"bbox": [8, 9, 10, 20], "category_id": 1}
    cfg = config_of(make_dataset([[good, bad]]), make_dataset([[bad, good, bad]]))
    first, second = load_training_dicts(cfg)
    assert objects_of(first) == [(0, (8, 9, 10, 20)), (1, (4, 5, 10, 20))]
    assert [c for c, _ in objects_of(second)] == [1, 0, 1]


def test_two_annotation_files_of_the_same_images(make_dataset: MakeDataset) -> None:
    """As when a user adds an annotation file of his own for the images of COCO."""
    bad = {"bbox": [4, 5, 10, 20], "category_id": 3, "segmentation": INVALID[0]}
    good = {"bbox": [8, 9, 10, 20], "category_id": 1}
    first = make_dataset([[good, bad]])
    second = f"{first}_more"
    content = json.loads(json_of(first).read_text())
    content["annotations"] = [{**good, "id": 1, "image_id": 1}]
    path = json_of(first).with_name("more.json")
    path.write_text(json.dumps(content))
    register_coco_instances(second, {}, str(path), MetadataCatalog.get(first).image_root)
    try:
        dicts = load_training_dicts(config_of(first, second))
    finally:
        unregister(second)
    assert [[c for c, _ in objects_of(d)] for d in dicts] == [[0, 1], [0]]


def test_a_data_set_given_twice_is_loaded_twice(make_dataset: MakeDataset) -> None:
    bad = {"bbox": [4, 5, 10, 20], "category_id": 3, "segmentation": INVALID[0]}
    good = {"bbox": [8, 9, 10, 20], "category_id": 1}
    name = make_dataset([[good, bad]])
    dicts = load_training_dicts(config_of(name, name))
    assert [[c for c, _ in objects_of(d)] for d in dicts] == [[0, 1], [0, 1]]


def test_a_data_set_made_by_a_function(mixed_dataset: str) -> None:
    """No JSON file behind it, as in detectron2's tutorial on data sets."""
    name = f"{mixed_dataset}_in_memory"
    DatasetCatalog.register(name, lambda: DatasetCatalog.get(mixed_dataset))
    try:
        MetadataCatalog.get(name).thing_classes = ["cup", "dog", "kite"]
        dicts = load_training_dicts(config_of(name))
    finally:
        unregister(name)
    assert [len(d["annotations"]) for d in dicts] == [6, 2]


# --- what can go wrong --------------------------------------------------------------------------


def test_missing_annotation_file(mixed_dataset: str) -> None:
    path = json_of(mixed_dataset)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="set DETECTRON2_DATASETS") as e:
        load_training_dicts(config_of(mixed_dataset))
    assert str(path) in str(e.value) and mixed_dataset in str(e.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"images": []}'])
def test_broken_annotation_file(mixed_dataset: str, content: str) -> None:
    path = json_of(mixed_dataset)
    path.write_text(content)
    with pytest.raises(ValueError, match="annotation file") as e:
        load_training_dicts(config_of(mixed_dataset))
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_unregistered_data_set() -> None:
    with pytest.raises(ValueError, match="'no_such_data' is not registered"):
        load_training_dicts(config_of("no_such_data"))
    with pytest.raises(ValueError, match="'no_such_data' is not registered"):
        class_names_of("no_such_data")


def test_no_training_set() -> None:
    with pytest.raises(ValueError, match="DATASETS.TRAIN"):
        load_training_dicts(config_of())


def test_data_set_without_objects(make_dataset: MakeDataset) -> None:
    with pytest.raises(ValueError, match="no image with an object"):
        load_training_dicts(config_of(make_dataset([[], []])))


def test_class_names(mixed_dataset: str, tiny_shapes: Path) -> None:
    assert class_names_of(mixed_dataset) == ["cup", "dog", "kite"]
    assert class_names_of("shapes_train")[0] == "red disk"


def test_data_set_without_class_names(mixed_dataset: str) -> None:
    name = f"{mixed_dataset}_nameless"
    DatasetCatalog.register(name, lambda: [])
    try:
        with pytest.raises(ValueError, match=f"'{name}' have no thing_classes"):
            class_names_of(name)
    finally:
        unregister(name)


def test_set_a(mixed_dataset: str, tmp_path: Path, tiny_shapes: Path) -> None:
    cfg = config_of(mixed_dataset)
    assert set_a_of(cfg) is None
    cfg.DATASETS.MASK_CLASSES = str(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("kite\ncup\n")
    assert set_a_of(cfg) == (0, 2)
    cfg = config_of("shapes_train")
    cfg.DATASETS.MASK_CLASSES = "shapes_A"
    assert len(set_a_of(cfg) or ()) == 24


def test_real_coco_loses_no_box(coco_root: Path) -> None:
    content = json.loads((coco_root / "coco/annotations/instances_val2017.json").read_text())
    cfg = config_of("coco_2017_val")
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    dicts = load_training_dicts(cfg)
    assert sum(len(d["annotations"]) for d in dicts) == len(content["annotations"]) > 0
