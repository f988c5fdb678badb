"""Every augmentation of detectron2 on images in which only some objects have masks."""

import inspect
import random
import re
from typing import Any, Dict, List

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from conftest import HEIGHT, WIDTH, Annotation, Untouchable, bitmaps, mapper_of, record_of
from detectron2.data import transforms as T

GREY = {"polygon": 40, "rle": 80, "uncompressed": 120, "empty": 160, "absent": 200, "crowd": 240}
TRIANGLE = [[0.0, 0, 20, 0, 0, 20]]


GEOMETRIC = [
    T.RandomFlip(1.0),
    T.RandomFlip(1.0, horizontal=False, vertical=True),
    T.RandomApply(T.RandomFlip(1.0)),
    T.Resize((50, 120)),
    T.RandomResize([(60, 60), (120, 90)]),
    T.ResizeShortestEdge([60, 160], sample_style="range"),
    T.ResizeShortestEdge([60, 160], max_size=100, sample_style="choice"),
    T.ResizeScale(0.6, 2.0, 100, 100),
    T.RandomRotation([-30, 30]),
    T.RandomRotation([-30, 30], expand=False),
    T.RandomRotation([90, 180, 0], sample_style="choice"),
    T.RandomExtent((0.6, 1.5), (0.3, 0.3)),
    T.RandomCrop("absolute", (50, 60)),
    T.RandomCrop("absolute_range", (40, 60)),
    T.RandomCrop("relative", (0.6, 0.7)),
    T.RandomCrop("relative_range", (0.5, 0.5)),
    T.RandomCrop_CategoryAreaConstraint("relative", (0.6, 0.7)),
    T.FixedSizeCrop((50, 60)),
    T.FixedSizeCrop((128, 128)),  # pads
    T.FixedSizeCrop((60, 128), pad=False),
    T.MinIoURandomCrop(),
]
PHOTOMETRIC = [
    T.RandomBrightness(0.8, 1.2),
    T.RandomContrast(0.8, 1.2),
    T.RandomSaturation(0.8, 1.2),
    T.RandomLighting(0.7),
]


def test_no_augmentation_is_forgotten() -> None:
    bases = {"Augmentation", "AugmentationList", "TransformGen"}
    offered = {
        name
        for name, value in inspect.getmembers(T, inspect.isclass)
        if issubclass(value, T.Augmentation) and name not in bases
    }
    assert offered == {type(a).__name__ for a in GEOMETRIC + PHOTOMETRIC}


def grey_values(sample: Dict[str, Any], region: Any) -> np.ndarray:
    return sample["image"][0].numpy()[region]


@pytest.mark.parametrize("recompute_boxes", [False, True])
@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize(
    # The names say no address: parallel workers must find the same tests.
    "augmentation",
    GEOMETRIC + PHOTOMETRIC,
    ids=lambda x: re.sub(r"<.*\.(\w+) object at .*>", r"\1", repr(x)),
)
def test_augmentations(
    mixed_record: Dict[str, Any], augmentation: Any, mask_format: str, recompute_boxes: bool
) -> None:
    grey_of_class = {i: grey for i, grey in enumerate(GREY.values())}
    for i, annotation in enumerate(mixed_record["annotations"]):
        annotation["category_id"] = i  # tells which object is which afterwards
    mapper = mapper_of([augmentation], mask_format, recompute_boxes=recompute_boxes)
    seen = set()
    for seed in range(4):
        np.random.seed(seed)
        random.seed(seed)
        sample = mapper(mixed_record)
        instances = sample["instances"]
        seen |= set(instances.gt_classes.tolist())
        assert sample["image"].shape[1:] == instances.image_size
        boxes = instances.gt_boxes.tensor
        height, width = instances.image_size
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= width).all()
        assert (boxes[:, 1::2] <= height).all()
        assert instances.gt_boxes.nonempty().all()
        if not len(instances):
            continue
        assert instances.gt_has_mask.shape == (len(instances),)
        assert not instances.gt_has_mask[(instances.gt_classes > 2)].any()
        if augmentation in PHOTOMETRIC:
            assert instances.gt_has_mask.tolist() == [True, True, True, False, False]
            continue
        for i, mask in enumerate(bitmaps(instances)):
            grey = grey_of_class[int(instances.gt_classes[i])]
            assert bool(mask.any()) == bool(instances.gt_has_mask[i])
            if mask.sum() > 80:  # the picture shows the object where its mask is
                assert abs(np.median(grey_values(sample, mask.numpy())) - grey) < 12
            x0, y0, x1, y1 = boxes[i].round().int().tolist()
            if (x1 - x0) * (y1 - y0) > 150 and not isinstance(augmentation, T.RandomRotation):
                inside = grey_values(sample, (slice(y0, y1), slice(x0, x1)))
                assert np.mean(abs(inside.astype(int) - grey) < 12) > 0.6
    assert seen == {0, 1, 2, 3, 4}  # every object, box-only or not, comes through some time


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_padding_belongs_to_no_mask(mixed_record: Dict[str, Any], mask_format: str) -> None:
    # FixedSizeCrop pads semantic maps with 255, and RLE masks go through the same function.
    instances = mapper_of([T.FixedSizeCrop((128, 128))], mask_format)(mixed_record)["instances"]
    areas = bitmaps(instances).flatten(1).sum(1)
    assert areas.tolist() == [20 * 24, 22 * 24, 24 * 24, 0, 0]


# --- crops: boxes from masks, where there are any -----------------------------------------------


def triangle_rle() -> Dict[str, Any]:
    return mask_util.merge(mask_util.frPyObjects(TRIANGLE, HEIGHT, WIDTH))


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("segmentation", ["polygon", "rle"])
def test_crop_tightens_boxes_of_objects_with_masks_only(
    image_file: str, mask_format: str, segmentation: str
) -> None:
    mask = TRIANGLE if segmentation == "polygon" else triangle_rle()
    objects: List[Annotation] = [
        {"bbox": [0, 0, 20, 20], "category_id": 0},
        {"bbox": [0, 0, 20, 20], "category_id": 1, "segmentation": mask},
        {"bbox": [0, 0, 20, 20], "category_id": 2, "segmentation": Untouchable()},
    ]
    crop = T.CropTransform(10, 0, 10, 20, WIDTH, HEIGHT)
    mapper = mapper_of([crop], mask_format, mask_classes=[0, 1], recompute_boxes=True)
    instances = mapper(record_of(image_file, objects))["instances"]
    assert instances.gt_has_mask.tolist() == [False, True, False]
    clipped = torch.tensor([0.0, 0, 10, 20])
    boxes = instances.gt_boxes.tensor
    assert torch.equal(boxes[0], clipped) and torch.equal(boxes[2], clipped)
    torch.testing.assert_close(boxes[1], torch.tensor([0.0, 0, 10, 10]), atol=1.0, rtol=0)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
@pytest.mark.parametrize("segmentation", ["polygon", "rle"])
def test_crop_that_shows_the_box_but_not_the_mask(
    image_file: str, mask_format: str, segmentation: str
) -> None:
    mask = TRIANGLE if segmentation == "polygon" else triangle_rle()
    objects: List[Annotation] = [
        {"bbox": [0, 0, 20, 20], "category_id": 0},
        {"bbox": [0, 0, 20, 20], "category_id": 1, "segmentation": mask},
    ]
    crop = T.CropTransform(14, 14, 30, 30, WIDTH, HEIGHT)
    mapper = mapper_of([crop], mask_format, recompute_boxes=True)
    instances = mapper(record_of(image_file, objects))["instances"]
    assert instances.gt_classes.tolist() == [0]  # of the other, nothing is to be seen
    assert instances.gt_boxes.tensor.tolist() == [[0, 0, 6, 6]]


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_crop_keeps_boxes_whose_masks_enclose_nothing(image_file: str, mask_format: str) -> None:
    nothing = mask_util.encode(np.zeros((HEIGHT, WIDTH), np.uint8, order="F"))
    for segmentation in ([[4.0, 6, 14, 6, 24, 6]], nothing):
        record = record_of(
            image_file, [{"bbox": [4, 6, 20, 24], "category_id": 0, "segmentation": segmentation}]
        )
        crop = T.CropTransform(0, 0, 40, 40, WIDTH, HEIGHT)  # all of the object is in it
        instances = mapper_of([crop], mask_format, recompute_boxes=True)(record)["instances"]
        assert instances.gt_boxes.tensor.tolist() == [[4, 6, 24, 30]]
        assert instances.gt_has_mask.tolist() == [False]
