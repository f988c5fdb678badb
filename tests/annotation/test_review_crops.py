"""Crops of a review page, on numbers that can be counted."""

from dataclasses import replace
from pathlib import Path
from typing import Tuple

import numpy as np
import pytest

from seg_every_thing.annotation.review_crops import CROP_SIDE, crop_of
from seg_every_thing.annotation.review_items import CropMask, ReviewItem

Box = Tuple[float, float, float, float]


def item_of(box: Box, mask: CropMask) -> ReviewItem:
    return ReviewItem(1, 1, "a.png", Path("a.png"), "cup", box, 0.5, 0.5, (), mask)


def test_a_small_object_is_shown_pixel_by_pixel() -> None:
    image = np.arange(60 * 80 * 3).reshape(60, 80, 3).astype(np.uint8)
    mask = np.zeros((5, 10), bool)
    mask[1:3, 4:6] = True
    crop = crop_of(item_of((30, 20, 10, 5), CropMask.of(mask, 30, 20)), image)
    assert crop.window == (22, 12, 48, 33)  # 8 pixels about the box
    assert crop.size == (26, 21)
    np.testing.assert_array_equal(crop.picture, image[12:33, 22:48])
    # Column 12 of the crop begins with 9 pixels outside: 8 of the margin, 1 of the box.
    assert crop.runs == (12 * 21 + 9, 2, 19, 2, 26 * 21 - 13 * 21 - 11)


def test_a_window_ends_with_the_image_and_a_box_outside_shows_its_nearest_pixels() -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    nothing = CropMask.of(np.zeros((1, 1), bool), 0, 0)
    assert crop_of(item_of((70.5, -3, 20, 20), nothing), image).window == (62, 0, 80, 25)
    assert crop_of(item_of((200, 200, 5, 5), nothing), image).window == (79, 59, 80, 60)
    assert crop_of(item_of((-50, 10, 5, 0), nothing), image).window == (0, 2, 1, 18)


def test_a_large_object_is_scaled_with_its_mask() -> None:
    image = np.zeros((2000, 1000, 3), np.uint8)
    half = np.zeros((2000, 1000), bool)
    half[1000:] = True
    crop = crop_of(item_of((0, 0, 1000, 2000), CropMask.of(half, 0, 0)), image)
    assert crop.window == (0, 0, 1000, 2000)
    assert crop.size == (CROP_SIDE // 2, CROP_SIDE) and crop.picture.shape == (256, 128, 3)
    mask = CropMask(0, 0, *crop.size, crop.runs).decode()
    np.testing.assert_array_equal(mask, np.arange(256)[:, None].repeat(128, 1) >= 128)


def test_a_mask_too_thin_for_the_crop_is_still_seen() -> None:
    line = np.zeros((2000, 1000), bool)
    line[:, 500] = True
    item = item_of((0, 0, 1000, 2000), CropMask.of(line, 0, 0))
    crop = crop_of(item, np.zeros((2000, 1000, 3), np.uint8))
    mask = CropMask(0, 0, *crop.size, crop.runs).decode()
    assert mask.any(0).sum() == 1 and mask.any(1).all()
    empty = replace(item, mask=CropMask.of(line & False, 0, 0))
    assert crop_of(empty, np.zeros((2000, 1000, 3), np.uint8)).runs == (128 * 256,)


@pytest.mark.parametrize("box", [(3.5, 4.25, 20, 10), (0, 0, 0, 0)])
def test_an_object_without_a_picture_has_box_and_mask(box: Box) -> None:
    crop = crop_of(item_of(box, CropMask.of(np.ones((2, 2), bool), 4, 5)), None)
    assert crop.picture is None
    left, top, right, bottom = crop.window
    assert left <= box[0] and top <= box[1]
    assert right >= box[0] + box[2] and bottom >= box[1] + box[3]
    assert sum(crop.runs[1::2]) == 4 and sum(crop.runs) == crop.size[0] * crop.size[1]
