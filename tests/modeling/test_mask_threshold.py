"""Thresholds of masks: hand-computed fits, and probabilities that keep their meaning."""

import math
from typing import Any

import pytest
import torch

from seg_every_thing.modeling.mask_threshold import (
    checked_threshold,
    fitted_thresholds,
    moved_to_half,
)


def test_fit_is_the_largest_threshold_that_spans_the_box() -> None:
    masks = torch.zeros(6, 1, 20, 20)
    masks[0] = 0.6  # spans the box at 0.5
    masks[1, :, 1:] = 0.35  # 19 of 20 rows are 95 %, at 0.3
    masks[2, :, 2:] = 0.35  # 18 are not: at 0.1 they still are not
    masks[3, :, :, :10], masks[3, :, :, 10:] = 0.9, 0.25  # the right half comes at 0.2
    masks[4, 0].fill_diagonal_(0.45)  # a diagonal spans both axes
    expected = [0.5, 0.3, 0.1, 0.2, 0.4, 0.1]
    torch.testing.assert_close(fitted_thresholds(masks), torch.tensor(expected))
    assert fitted_thresholds(masks[:0]).shape == (0,)


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.8])
def test_the_threshold_becomes_half_and_the_order_stays(threshold: float) -> None:
    p = torch.linspace(0, 1, 101, dtype=torch.float64).view(1, 1, 101, 1)
    moved = moved_to_half(p, threshold)
    assert moved[0, 0, 0] == 0 and moved[0, 0, -1] == 1
    assert (moved.diff(dim=2) > 0).all()
    away = (p - threshold).abs() > 1e-9
    assert torch.equal((moved >= 0.5)[away], (p >= threshold)[away])
    by_logits = (p.logit() - math.log(threshold / (1 - threshold))).sigmoid()
    torch.testing.assert_close(moved, by_logits)


def test_each_mask_has_its_own_threshold() -> None:
    p = torch.full((3, 1, 2, 2), 0.2)
    moved = moved_to_half(p, torch.tensor([0.2, 0.1, 0.5]))
    expected = [0.5, 0.18 / 0.26, 0.2]
    torch.testing.assert_close(moved, torch.tensor(expected).view(3, 1, 1, 1).expand(3, 1, 2, 2))


def test_half_needs_no_move() -> None:
    assert checked_threshold(None) is None and checked_threshold(0.5) is None
    assert checked_threshold(0.3) == 0.3 and checked_threshold("fit") == "fit"


@pytest.mark.parametrize("value", [0, 1, 1.5, -0.1, float("nan"), True, "fitted", "0.3", [0.5]])
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="TEST.MASK_THRESHOLD .* 'fit'"):
        checked_threshold(value)
