"""Masks on boxes: means over the cells of other boxes by hand, and after augmentation."""

from typing import Any, List

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from seg_every_thing.data.box_grid import moved_with_box, resampled


def one(mask: List[List[float]], box: List[float], roi: List[float], size: Any) -> Any:
    tensors = (torch.tensor([x], dtype=torch.float64) for x in (mask, box, roi))
    return resampled(*tensors, size)[0].tolist()


def test_cells_are_means_by_hand() -> None:
    mask = [[0.0, 1], [0.5, 0]]
    box = [10.0, 20, 14, 24]  # cells of 2 x 2 pixels
    assert one(mask, box, box, (2, 2)) == mask
    assert one(mask, box, box, (1, 1)) == [[0.375]]
    assert one(mask, box, box, (4, 4))[0] == [0, 0, 1, 1]
    # Half a cell to the left and up: three quarters of the first cell are outside the box.
    shifted = one(mask, box, [9, 19, 13, 23], (2, 2))
    assert shifted == [[0, 0.25], [0.125, (0 + 1 + 0.5 + 0) / 4]]
    # Twice the box, in cells as large as the mask's: nothing but background around it.
    around = one(mask, box, [8, 18, 16, 26], (4, 4))
    assert around == [[0] * 4, [0, 0, 1, 0], [0, 0.5, 0, 0], [0] * 4]
    assert one(mask, box, [30, 30, 40, 40], (2, 2)) == [[0, 0], [0, 0]]


def test_sizes_differ_by_axis_and_there_may_be_none() -> None:
    assert one([[1.0]], [0, 0, 2, 4], [0, 0, 4, 4], (1, 2)) == [[1, 0]]
    empty = torch.zeros(0, 4)
    assert resampled(torch.zeros(0, 5, 5), empty, empty, (3, 4)).shape == (0, 3, 4)


def test_a_box_without_area_gives_finite_values() -> None:
    assert np.isfinite(one([[1.0]], [3, 3, 3, 5], [3, 3, 3, 3], (2, 2))).all()


MASK = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
BOX = np.array([8.0, 4, 16, 12])  # cells of 2 x 2 pixels in an image of 32 x 24


def moved(*transforms: T.Transform) -> np.ndarray:
    both = T.TransformList(list(transforms))
    image = np.zeros((24, 32, 3), np.uint8)
    height, width = both.apply_image(image).shape[:2]
    box = both.apply_box(BOX[None])[0].clip(min=0, max=[width, height, width, height])
    return moved_with_box(MASK, BOX, both, box)


def test_flips_mirror_and_resizing_changes_nothing() -> None:
    assert np.array_equal(moved(T.HFlipTransform(32)), MASK[:, ::-1])
    assert np.array_equal(moved(T.VFlipTransform(24)), MASK[::-1])
    assert np.array_equal(moved(T.ResizeTransform(24, 32, 60, 50)), MASK)
    assert np.array_equal(moved(T.NoOpTransform()), MASK)
    assert np.array_equal(moved(T.PadTransform(3, 4, 5, 6)), MASK)
    both = moved(T.ResizeTransform(24, 32, 60, 50), T.HFlipTransform(50))
    assert np.array_equal(both, MASK[:, ::-1])


def test_a_crop_keeps_what_lies_in_the_clipped_box() -> None:
    # The left half of the box is cut off: each column of the rest becomes two.
    cropped = moved(T.CropTransform(12, 0, 20, 24))
    assert np.array_equal(cropped, MASK[:, 2:].repeat(2, axis=1))
    flipped = moved(T.CropTransform(12, 0, 20, 24), T.HFlipTransform(20))
    assert np.array_equal(flipped, MASK[:, 2:].repeat(2, axis=1)[:, ::-1])


@pytest.mark.parametrize("angle", [90, 30])
def test_what_turns_a_box_is_refused(angle: int) -> None:
    with pytest.raises(ValueError, match="flips, resizes, crops or pads, .* was turned or bent"):
        moved(T.RotationTransform(24, 32, angle))
