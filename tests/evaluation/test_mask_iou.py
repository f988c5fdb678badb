"""IoU of masks and of their boundaries, by hand and against the slow way."""

from typing import Tuple

import numpy as np
import pytest
from detectron2.evaluation import SemSegEvaluator

from seg_every_thing.evaluation.mask_iou import (
    boundary_of,
    boundary_width,
    mask_and_boundary_iou,
)


def square(size: Tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def boundary_by_definition(mask: np.ndarray, width: int) -> np.ndarray:
    """Pixels of the mask with one outside of it, or of the image, at most ``width`` away."""
    height, columns = mask.shape
    found = np.zeros_like(mask)
    for y, x in zip(*mask.nonzero()):
        top, left = y - width, x - width
        around = mask[max(top, 0) : y + width + 1, max(left, 0) : x + width + 1]
        reaches_out = top < 0 or left < 0 or y + width >= height or x + width >= columns
        found[y, x] = reaches_out or not around.all()
    return found


def random_blobs(seed: int, size: Tuple[int, int] = (60, 90)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, bool)
    for _ in range(4):
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        h, w = rng.integers(5, 40, 2)
        mask[max(y - h, 0) : y + h, max(x - w, 0) : x + w] ^= rng.random() < 0.8
    return mask


@pytest.mark.parametrize(
    "size, width", [((480, 640), 16), ((100, 100), 3), ((20, 20), 1), ((4, 4), 1)]
)
def test_width_of_boundaries(size: Tuple[int, int], width: int) -> None:
    """2 % of 800, 141.4, 28.3 and 5.7."""
    assert boundary_width(*size) == width


@pytest.mark.parametrize("width", [1, 2, 7])
def test_boundary_is_that_of_its_definition(width: int) -> None:
    for seed in range(3):
        mask = random_blobs(seed)
        assert (boundary_of(mask, width) == boundary_by_definition(mask, width)).all()


def test_boundary_is_detectron2s() -> None:
    """Which has the code of the paper's authors, for semantic segmentation."""
    for seed in range(5):
        mask = random_blobs(seed, (150, 200))
        theirs = SemSegEvaluator._mask_to_boundary(None, mask.astype(np.uint8))
        assert (boundary_of(mask, boundary_width(150, 200)) == theirs).all()


def test_both_by_hand() -> None:
    """Squares of side 20 in an image of 100 x 100 (boundaries 3 deep), 10 pixels apart."""
    truth = square((100, 100), 10, 10, 30, 30)
    shifted = square((100, 100), 20, 10, 40, 30)
    iou, boundary = mask_and_boundary_iou(shifted, truth)
    assert iou == pytest.approx(200 / 600)
    # A ring has 20^2 - 14^2 = 204 pixels.  Of the shared columns, 20 to 29, both rings hold rows
    # 10-12 and 27-29.  Beside that, one holds the columns 27-29, the other one 20-22.
    both = 6 * 10
    assert boundary == pytest.approx(both / (2 * 204 - both))


def test_small_masks_are_boundary_alone() -> None:
    truth, other = square((100, 100), 0, 0, 6, 6), square((100, 100), 3, 0, 9, 6)
    assert mask_and_boundary_iou(other, truth) == (pytest.approx(1 / 3), pytest.approx(1 / 3))


def test_the_window_changes_nothing() -> None:
    for seed in range(5):
        a, b = random_blobs(seed), random_blobs(seed + 50)
        width = boundary_width(*a.shape)
        edges = boundary_by_definition(a, width), boundary_by_definition(b, width)
        expected = [(x & y).sum() / (x | y).sum() for x, y in ((a, b), edges)]
        assert mask_and_boundary_iou(a, b) == pytest.approx(expected)


def test_equal_apart_and_empty() -> None:
    mask = square((50, 50), 5, 5, 20, 30)
    nothing = np.zeros((50, 50), bool)
    assert mask_and_boundary_iou(mask, mask) == (1, 1)
    assert mask_and_boundary_iou(square((50, 50), 30, 30, 40, 40), mask) == (0, 0)
    assert mask_and_boundary_iou(nothing, mask) == (0, 0)
    assert mask_and_boundary_iou(nothing, nothing) == (0, 0)
