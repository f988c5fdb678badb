"""Masks inside windows: what review pages get."""

import numpy as np
import pytest

from seg_every_thing.annotation.review_items import CropMask


def test_runs_go_down_the_columns_and_begin_outside():
    mask = np.array([[1, 0, 1], [1, 0, 0]], bool)
    assert CropMask.of(mask, 5, 7) == CropMask(5, 7, 3, 2, (0, 2, 2, 1, 1))


@pytest.mark.parametrize("mask", [np.zeros((3, 2)), np.ones((1, 1)), np.eye(4), 1 - np.eye(5)])
def test_a_mask_comes_back(mask):
    np.testing.assert_array_equal(CropMask.of(mask, 0, 0).decode(), mask.astype(bool))
