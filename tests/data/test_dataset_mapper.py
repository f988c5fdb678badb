"""PartialSupervisionMapper: every box stays, only allowed masks are read, whatever the mix."""

import copy
import itertools
from pathlib import Path
from typing import Any, Dict, Sequence

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from conftest import (
    HEIGHT,
    WIDTH,
    Annotation,
    MakeDataset,
    Untouchable,
    bitmaps,
    box_mask,
    box_polygon,
    box_rle,
    mapper_of,
    record_of,
)
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, PolygonMasks

from seg_every_thing import PartialSupervisionMapper, add_seg_every_thing_config
from seg_every_thing.data.splits import VOC_CLASSES


def config_of(dataset: str, **kwargs: Any) -> CfgNode:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.MODEL.MASK_ON = True
    cfg.DATASETS.TRAIN = (dataset,)
    for key, value in kwargs.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


# --- any mix, any order -------------------------------------------------------------------------


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_any_order_of_mask_kinds(
    image_file: str, mixed_objects: Dict[str, Annotation], mask_format: str
) -> None:
    mapper = mapper_of(mask_format=mask_format)
    kinds = [kind for kind in mixed_objects if kind != "crowd"]
    for order in itertools.permutations(kinds):
        record = record_of(image_file, [mixed_objects[k] for k in ("crowd", *order)])
        instances = mapper(record)["instances"]
        boxes = np.array([mixed_objects[k]["bbox"] for k in order], float)
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_array_equal(instances.gt_boxes.tensor.numpy(), boxes)
        assert instances.gt_classes.tolist() == [mixed_objects[k]["category_id"] for k in order]
        assert instances.gt_has_mask.dtype == torch.bool
        assert instances.gt_has_mask.tolist() == [k not in ("empty", "absent") for k in order]
        for kind, bitmap in zip(order, bitmaps(instances)):
            box = mixed_objects[kind]["bbox"]
            expected = 0 * box_mask(box) if kind in ("empty", "absent") else box_mask(box)
            np.testing.assert_array_equal(bitmap.numpy(), expected)


@pytest.mark.parametrize("size", [1, 2])
def test_small_mixes(image_file: str, mixed_objects: Dict[str, Annotation], size: int) -> None:
    for kinds in itertools.product(mixed_objects, repeat=size):
        record = record_of(image_file, [mixed_objects[k] for k in kinds])
        instances = mapper_of()(record)["instances"]
        kept = [k for k in kinds if k != "crowd"]
        assert len(instances) == len(kept)
        if kept:
            has_mask = [k not in ("empty", "absent") for k in kept]
            assert instances.gt_has_mask.tolist() == has_mask
            assert bitmaps(instances).flatten(1).any(1).tolist() == has_mask


def test_format_of_the_masks(image_file: str, mixed_objects: Dict[str, Annotation]) -> None:
    def masks_of(kinds: Sequence[str], mask_format: str) -> Any:
        record = record_of(image_file, [mixed_objects[k] for k in kinds])
        return mapper_of(mask_format=mask_format)(record)["instances"].gt_masks

    assert isinstance(masks_of(["polygon", "absent"], "polygon"), PolygonMasks)
    assert isinstance(masks_of(["absent"], "polygon"), PolygonMasks)
    assert isinstance(masks_of(["polygon", "rle"], "polygon"), BitMasks)
    assert isinstance(masks_of(["polygon", "absent"], "bitmask"), BitMasks)


def test_null_and_empty_rle_are_no_masks(image_file: str) -> None:
    empty = mask_util.encode(np.zeros((HEIGHT, WIDTH), np.uint8, order="F"))
    objects = [
        {"bbox": [4, 6, 20, 24], "category_id": 0, "segmentation": s} for s in (None, {}, empty)
    ]
    instances = mapper_of()(record_of(image_file, objects))["instances"]
    assert instances.gt_has_mask.tolist() == [False, False, False]


def test_polygons_that_enclose_nothing_are_no_masks(image_file: str) -> None:
    line = [[4.0, 6, 14, 6, 24, 6]]
    short = [[4.0, 6, 14, 6]]
    mixed = [[4.0, 6, 14, 6], *box_polygon([4, 6, 20, 24])]
    objects = [
        {"bbox": [4, 6, 20, 24], "category_id": 0, "segmentation": s} for s in (line, short, mixed)
    ]
    for mask_format in ("polygon", "bitmask"):
        instances = mapper_of(mask_format=mask_format)(record_of(image_file, objects))["instances"]
        assert instances.gt_has_mask.tolist() == [False, False, True]


def test_the_input_is_left_alone(mixed_record: Dict[str, Any]) -> None:
    before = copy.deepcopy(mixed_record)
    mapper_of([T.RandomFlip(1.0)])(mixed_record)
    assert mixed_record == before


def test_without_masks_boxes_only(mixed_record: Dict[str, Any]) -> None:
    for annotation in mixed_record["annotations"]:
        annotation["segmentation"] = Untouchable()
    instances = mapper_of(use_instance_mask=False)(mixed_record)["instances"]
    assert len(instances) == 5
    assert set(instances.get_fields()) == {"gt_boxes", "gt_classes"}


def test_images_without_objects(image_file: str, mixed_objects: Dict[str, Annotation]) -> None:
    for annotations in ([], [mixed_objects["crowd"]]):
        for recompute_boxes in (False, True):
            mapper = mapper_of(recompute_boxes=recompute_boxes)
            instances = mapper(record_of(image_file, annotations))["instances"]
            assert instances.gt_boxes.tensor.shape == (0, 4)
            assert not instances.has("gt_has_mask") and not instances.has("gt_masks")
    sample = mapper_of()({"file_name": image_file, "image_id": 1})
    assert "instances" not in sample and sample["image"].shape == (3, HEIGHT, WIDTH)


def test_inference_reads_no_annotations(mixed_record: Dict[str, Any]) -> None:
    for annotation in mixed_record["annotations"]:
        annotation["segmentation"] = Untouchable()
    mapper = PartialSupervisionMapper(is_train=False, augmentations=[], image_format="BGR")
    assert set(mapper(mixed_record)) == {"file_name", "image_id", "image", "height", "width"}


# --- set A --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("recompute_boxes", [False, True])
def test_masks_outside_set_a_are_never_read(
    mixed_record: Dict[str, Any], mask_format: str, recompute_boxes: bool
) -> None:
    annotations = mixed_record["annotations"]
    for annotation in annotations:
        if annotation["category_id"] != 1:
            annotation["segmentation"] = Untouchable()
    mapper = mapper_of(
        [T.RandomFlip(1.0), T.Resize((60, 70))],
        mask_format,
        mask_classes=[1],
        recompute_boxes=recompute_boxes,
    )
    instances = mapper(mixed_record)["instances"]
    assert instances.gt_classes.tolist() == [1, 3, 7, 1, 3]
    assert instances.gt_has_mask.tolist() == [True, False, False, False, False]


def test_an_empty_set_a_reads_no_mask(mixed_record: Dict[str, Any]) -> None:
    for annotation in mixed_record["annotations"]:
        annotation["segmentation"] = Untouchable()
    instances = mapper_of(mask_classes=())(mixed_record)["instances"]
    assert len(instances) == 5 and not instances.gt_has_mask.any()


def test_from_config(mixed_dataset: str, tmp_path: Path) -> None:
    split = tmp_path / "a.txt"
    split.write_text("kite\ncup")
    cfg = config_of(mixed_dataset, DATASETS__MASK_CLASSES=str(split), INPUT__MASK_FORMAT="bitmask")
    mapper = PartialSupervisionMapper(cfg, is_train=True)
    assert mapper.mask_classes == {0, 2}
    assert mapper.use_instance_mask and not mapper.recompute_boxes
    instances = mapper(DatasetCatalog.get(mixed_dataset)[0])["instances"]
    assert instances.gt_classes.tolist() == [0, 1, 2, 0, 1]
    assert instances.gt_has_mask.tolist() == [True, False, True, False, False]
    assert isinstance(instances.gt_masks, BitMasks)
    assert PartialSupervisionMapper(cfg, is_train=False).mask_classes is None


def test_from_config_with_all_masks_or_none(mixed_dataset: str) -> None:
    cfg = config_of(mixed_dataset)
    record = DatasetCatalog.get(mixed_dataset)[0]
    mapper = PartialSupervisionMapper(cfg, is_train=True)
    assert mapper.mask_classes is None
    assert mapper(record)["instances"].gt_has_mask.sum() == 3
    cfg.MODEL.MASK_ON = False
    cfg.DATASETS.MASK_CLASSES = "voc"  # would not fit, but nobody asks for masks
    assert not PartialSupervisionMapper(cfg, is_train=True)(record)["instances"].has("gt_masks")


def test_from_config_with_a_split_that_does_not_fit(mixed_dataset: str) -> None:
    cfg = config_of(mixed_dataset, DATASETS__MASK_CLASSES="voc")
    with pytest.raises(ValueError, match="'voc'"):
        PartialSupervisionMapper(cfg, is_train=True)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_crop_by_config(mixed_dataset: str, mask_format: str) -> None:
    cfg = config_of(
        mixed_dataset,
        INPUT__CROP__ENABLED=True,
        INPUT__CROP__TYPE="absolute",
        INPUT__CROP__SIZE=[50, 60],
        INPUT__MIN_SIZE_TRAIN=(100,),
        INPUT__MASK_FORMAT=mask_format,
    )
    mapper = PartialSupervisionMapper(cfg, is_train=True)
    assert mapper.recompute_boxes
    record = DatasetCatalog.get(mixed_dataset)[0]
    with_mask = box_only = 0
    for seed in range(10):
        np.random.seed(seed)
        instances = mapper(record)["instances"]
        if not len(instances):
            continue
        tight = BitMasks(bitmaps(instances)).get_bounding_boxes().tensor
        boxes, has_mask = instances.gt_boxes.tensor, instances.gt_has_mask
        torch.testing.assert_close(boxes[has_mask], tight[has_mask], atol=1.0, rtol=0)
        assert instances.gt_boxes.nonempty().all()
        with_mask += int(has_mask.sum())
        box_only += int((~has_mask).sum())
    assert with_mask > 5 and box_only > 5


# --- bad input ----------------------------------------------------------------------------------


def wrong_size_rle() -> Dict[str, Any]:
    return mask_util.encode(np.ones((HEIGHT + 1, WIDTH), np.uint8, order="F"))


BAD = {
    "a string": "abc",
    "a number": 5,
    "a flat polygon": [1.0, 2, 3, 4, 5, 6],
    "words": [["a", "b", "c", "d", "e", "f"]],
    "no counts": {"size": [HEIGHT, WIDTH]},
    "no size": {"counts": "abc"},
    "size is a number": {"size": 4, "counts": [4]},
    "counts is null": {"size": [HEIGHT, WIDTH], "counts": None},
    "broken string": {"size": [HEIGHT, WIDTH], "counts": "`"},
    "another broken string": {"size": [HEIGHT, WIDTH], "counts": "oooooo"},
    "too few counts": {"size": [HEIGHT, WIDTH], "counts": [3, 2]},
    "too many counts": {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH + 1]},
    "wrong size": wrong_size_rle(),
    "wrong size, turned": {"size": [WIDTH, HEIGHT], "counts": [0, HEIGHT * WIDTH]},
}


@pytest.mark.parametrize("augmentation", [T.NoOpTransform(), T.Resize((50, 50))], ids=repr)
@pytest.mark.parametrize("kind", BAD)
def test_bad_segmentation_names_file_and_object(
    image_file: str, kind: str, augmentation: Any
) -> None:
    objects = [
        {"bbox": [4, 6, 20, 24], "category_id": 0},
        {"bbox": [5, 7, 20, 24], "category_id": 1, "segmentation": BAD[kind]},
    ]
    with pytest.raises(ValueError) as e:
        mapper_of([augmentation])(record_of(image_file, objects))
    assert image_file in str(e.value) and "[5, 7, 20, 24]" in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "bbox, words",
    [
        (None, "no bbox"),
        ([5, 7, 20], "not 4 numbers"),
        ("box", "not 4 numbers"),
        ([5, float("nan"), 20, 24], "no place or size"),
        ([5, 7, -20, 24], "negative width"),
    ],
)
def test_bad_box_names_file_and_object(image_file: str, bbox: Any, words: str) -> None:
    """Of data that were not loaded by load_training_dicts, which counts such objects."""
    record = record_of(image_file, [{"bbox": bbox, "category_id": 1}])
    with pytest.raises(ValueError, match=words) as e:
        mapper_of()(record)
    assert image_file in str(e.value) and "\n" not in str(e.value)
    del record["annotations"][0]["bbox"]
    with pytest.raises(ValueError, match="no bbox"):
        mapper_of()(record)


def test_bad_segmentation_outside_set_a_is_no_concern(image_file: str) -> None:
    for segmentation in BAD.values():
        objects = [{"bbox": [5, 7, 20, 24], "category_id": 1, "segmentation": segmentation}]
        instances = mapper_of(mask_classes=[0])(record_of(image_file, objects))["instances"]
        assert instances.gt_has_mask.tolist() == [False]


# --- the stock mapper cannot do this ------------------------------------------------------------


def test_stock_mapper_fails_where_ours_works(
    make_dataset: MakeDataset, mixed_objects: Dict[str, Annotation]
) -> None:
    with_mask, box_only = mixed_objects["polygon"], mixed_objects["absent"]
    dataset = make_dataset([[box_only, with_mask], [with_mask, box_only]])
    box_first, mask_first = DatasetCatalog.get(dataset)
    cfg = config_of(dataset, INPUT__MIN_SIZE_TRAIN=(100,))
    np.random.seed(0)

    stock = DatasetMapper(cfg, is_train=True)
    assert not stock(box_first)["instances"].has("gt_masks")  # all masks of the image are lost
    with pytest.raises(KeyError, match="segmentation"):
        stock(mask_first)

    ours = PartialSupervisionMapper(cfg, is_train=True)
    assert ours(box_first)["instances"].gt_has_mask.tolist() == [False, True]
    assert ours(mask_first)["instances"].gt_has_mask.tolist() == [True, False]


def test_equals_the_stock_mapper_where_all_have_masks(
    make_dataset: MakeDataset, mixed_objects: Dict[str, Annotation]
) -> None:
    second = {**mixed_objects["absent"], "segmentation": [[34.0, 44, 56, 44, 40, 70]]}
    dataset = make_dataset([[mixed_objects["polygon"], second]])
    cfg = config_of(dataset, INPUT__CROP__ENABLED=True, INPUT__MIN_SIZE_TRAIN=(100,))
    (record,) = DatasetCatalog.get(dataset)
    compared = 0
    for seed in range(8):
        samples = []
        for mapper_class in (DatasetMapper, PartialSupervisionMapper):
            np.random.seed(seed)
            samples.append(mapper_class(cfg, is_train=True)(record))
        theirs, ours = samples
        assert torch.equal(theirs["image"], ours["image"])
        assert torch.equal(theirs["instances"].gt_boxes.tensor, ours["instances"].gt_boxes.tensor)
        assert torch.equal(bitmaps(theirs["instances"]), bitmaps(ours["instances"]))
        compared += len(ours["instances"])
    assert compared > 8


# --- real images --------------------------------------------------------------------------------


def test_real_coco_with_voc_masks(coco_root: Path) -> None:
    cfg = config_of("coco_2017_val", DATASETS__MASK_CLASSES="voc")
    mapper = mapper_of(mask_classes=PartialSupervisionMapper(cfg, is_train=True).mask_classes)
    names = MetadataCatalog.get("coco_2017_val").thing_classes
    objects = 0
    for record in DatasetCatalog.get("coco_2017_val")[:40]:
        annotations = [a for a in record["annotations"] if not a["iscrowd"]]
        for annotation in annotations:
            if names[annotation["category_id"]] not in VOC_CLASSES:
                annotation["segmentation"] = Untouchable()
        instances = mapper(record)["instances"]
        assert len(instances) == len(annotations)
        if annotations:
            in_voc = [names[i] in VOC_CLASSES for i in instances.gt_classes]
            assert instances.gt_has_mask.tolist() == in_voc
        objects += len(instances)
    assert objects > 100


def test_box_rle_and_polygon_are_the_same_mask() -> None:
    """What the helpers of these tests promise."""
    box = [4, 6, 20, 24]
    polygon = mask_util.merge(mask_util.frPyObjects(box_polygon(box), HEIGHT, WIDTH))
    np.testing.assert_array_equal(mask_util.decode(polygon), mask_util.decode(box_rle(box)))
