"""Filled boxes and GrabCut: what they find, where GrabCut gives up, and their figures."""

import json
from pathlib import Path
from typing import Any, Dict, Sequence

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import HEIGHT, WIDTH, MakeDataset
from detectron2.data import DatasetCatalog, MetadataCatalog
from evaluating import annotate

from seg_every_thing.annotation.baselines import (
    MAX_SIDE,
    ReferenceSegmenter,
    evaluate_reference,
    filled_box,
    grabcut,
)
from seg_every_thing.evaluation.given_boxes import objects_with_masks
from seg_every_thing.evaluation.mask_iou import mask_and_boundary_iou


def disk(size: Sequence[int], centre: Sequence[int], radius: int) -> np.ndarray:
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return (rows - centre[1]) ** 2 + (columns - centre[0]) ** 2 <= radius**2


def picture(mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """Bright things on dark ground, with noise."""
    noise = np.random.default_rng(seed).normal(0, 12, (*mask.shape, 3))
    return (
        (np.where(mask[..., None], (40, 180, 220), (90, 60, 30)) + noise)
        .clip(0, 255)
        .astype(np.uint8)
    )


@pytest.mark.parametrize(
    "box, expected",
    [
        ((2, 1, 5, 4), (2, 1, 5, 4)),
        ((2.4, 1.6, 5.4, 3.6), (2, 2, 5, 4)),
        ((-3, -3, 99, 99), (0, 0, 8, 6)),
        ((3.1, 2.1, 3.2, 2.2), (3, 2, 4, 3)),  # thinner than a pixel
        ((7.9, 5.9, 8.0, 6.0), (7, 5, 8, 6)),
    ],
)
def test_filled_box(box: Any, expected: Any) -> None:
    x0, y0, x1, y1 = expected
    mask = np.zeros((6, 8), bool)
    mask[y0:y1, x0:x1] = True
    found = filled_box((6, 8), box)
    assert found.dtype == bool and (found == mask).all()


@pytest.mark.parametrize("scale", [1, 6], ids=["small", "shrunk"])
def test_grabcut_finds_what_stands_out(scale: int) -> None:
    truth = disk((100 * scale, 120 * scale), (60 * scale, 50 * scale), 30 * scale)
    assert (1.5 * 60 * scale > MAX_SIDE) == (scale == 6)
    box = [30 * scale, 20 * scale, 90 * scale, 80 * scale]
    image = picture(truth)
    before = image.copy()
    found = grabcut(image, box)
    assert found is not None and found.dtype == bool and found.shape == truth.shape
    assert mask_and_boundary_iou(found, truth)[0] > 0.95
    assert (image == before).all()
    assert (grabcut(image, box) == found).all()  # chance has no part in it


def test_nothing_outside_of_the_box_is_found() -> None:
    """The disk goes on to the left of the box."""
    truth = disk((100, 120), (60, 50), 30)
    found = grabcut(picture(truth), (38, 20, 90, 80))
    assert found is not None and not found[:, :38].any() and found[50, 40:85].all()


def test_at_the_border_of_the_image() -> None:
    truth = disk((100, 120), (100, 50), 30)
    found = grabcut(picture(truth), (70, 20, 120, 80))
    assert found is not None and mask_and_boundary_iou(found, truth)[0] > 0.9


@pytest.mark.parametrize(
    "box", [(0, 0, 120, 100), (-5, -5, 130, 110), (10, 10, 11, 11), (60.2, 50.2, 60.4, 50.4)]
)
def test_grabcut_gives_up_on_boxes_that_say_nothing(box: Any) -> None:
    """Nothing surrounds the whole image, and a pixel has no context."""
    assert grabcut(picture(disk((100, 120), (60, 50), 30)), box) is None


def test_grabcut_gives_up_where_it_finds_something_else() -> None:
    """A small thing in a large box, and nothing at all."""
    assert grabcut(picture(disk((100, 120), (40, 50), 8)), (30, 10, 110, 90)) is None
    assert grabcut(np.full((100, 120, 3), 77, np.uint8), (30, 10, 110, 90)) is None


def rle_of(mask: np.ndarray) -> Dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def paint(dataset: str) -> np.ndarray:
    """Put a disk into the first image of a data set of ``make_dataset``."""
    mask = disk((HEIGHT, WIDTH), (40, 40), 20)
    cv2.imwrite(str(Path(MetadataCatalog.get(dataset).image_root) / "1.png"), picture(mask))
    return mask


@pytest.fixture
def two_objects(make_dataset: MakeDataset) -> str:
    """A disk of class cup in an image of its own, a kite that fills its box, which is the image."""
    mask = disk((HEIGHT, WIDTH), (40, 40), 20)
    cup = {**annotate((20, 20, 40, 40)), "segmentation": rle_of(mask)}
    dataset = make_dataset([[cup], [annotate((0, 0, WIDTH, HEIGHT), category_id=7)], []])
    paint(dataset)
    return dataset


def test_outputs_are_those_of_each_box(two_objects: str) -> None:
    objects = objects_with_masks(two_objects)
    segmenter = ReferenceSegmenter("grabcut", objects)
    records = DatasetCatalog.get(two_objects)
    first, second, third = (x["instances"] for x in segmenter(records))
    image = picture(disk((HEIGHT, WIDTH), (40, 40), 20))
    assert (first.pred_masks[0].numpy() == grabcut(image, (20, 20, 60, 60))).all()
    assert first.pred_boxes.tensor.tolist() == [[20, 20, 60, 60]]
    assert second.pred_masks.all() and second.pred_classes.tolist() == [2]
    assert third.pred_masks.shape == (0, HEIGHT, WIDTH)
    assert (segmenter.num_boxes, segmenter.num_filled) == (2, 1)


def test_figures(two_objects: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("cup")
    split = str(tmp_path / "a.txt")
    box = evaluate_reference("filled_box", two_objects, class_split=split)["given"]
    out = str(tmp_path / "out")
    cut = evaluate_reference("grabcut", two_objects, class_split=split, output_dir=out)["given"]
    assert box["mIoU_A"] == pytest.approx(100 * np.pi / 4, abs=3) and box["mIoU_B"] == 100
    assert cut["mIoU_A"] > 90 and cut["mIoU_B"] == 100
    assert cut["boundary_IoU_A"] > box["boundary_IoU_A"] + 20
    assert (box["filled"], cut["filled"]) == (100, 50)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written == {f"given/{k}": v for k, v in cut.items()}


def test_unknown_method(two_objects: str) -> None:
    with pytest.raises(ValueError, match="unknown method 'magic': expected filled_box or grabcut"):
        evaluate_reference("magic", two_objects)


def test_missing_image(two_objects: str) -> None:
    (Path(MetadataCatalog.get(two_objects).image_root) / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match="2.png"):
        evaluate_reference("grabcut", two_objects)
