"""What is measured of a mask: by hand."""

import numpy as np
import pytest

from seg_every_thing.annotation.features import (
    CERTAINTY,
    FEATURES,
    appearance,
    features_of,
    overlaps,
)


def test_features_by_hand() -> None:
    p = np.array([[0.9, 0.8], [0.4, 0.0]])
    values = dict(zip(FEATURES, features_of(p, 16, 4)))
    assert values["certainty"] == pytest.approx((0.9 + 0.8) / (2 + 0.4))
    assert values["sharpness"] == pytest.approx((0.8 + 0.6 + 0.2 + 1) / 4)
    assert values["fill"] == 0.5
    assert (values["extent_x"], values["extent_y"]) == (1.0, 0.5)
    assert values["log_area"] == 6
    assert values["log_aspect"] == 2
    assert values["uncertain_area"] == pytest.approx(0.25 / 0.5)


def test_features_of_an_empty_mask_are_finite() -> None:
    assert np.isfinite(features_of(np.zeros((4, 4)), 0.1, 0.1)).all()
    assert features_of(np.zeros((4, 4)), 1, 1)[CERTAINTY] == 0


def test_a_mask_that_ends_where_the_object_ends_has_contrast_and_edges() -> None:
    window = np.full((40, 60, 3), 30, np.uint8)
    window[10:30, 20:40] = 220
    right, shifted = np.zeros((2, 40, 60), bool)
    right[10:30, 20:40] = True
    shifted[15:35, 30:50] = True
    contrast, edges = appearance(window, right)
    worse = appearance(window, shifted)
    assert contrast > 100  # two colours that do not vary
    assert contrast > 5 * worse[0]
    assert edges > 2 * worse[1] > 0


def test_appearance_of_large_windows_and_odd_masks() -> None:
    rng = np.random.default_rng(0)
    window = rng.integers(0, 256, (300, 3, 3), np.uint8)
    for mask in (np.zeros((300, 3), bool), np.ones((300, 3), bool)):
        assert np.isfinite(appearance(window, mask)).all()
        assert appearance(window, mask)[0] == 0
    one = np.ones((1, 1), bool)
    assert np.isfinite(appearance(window[:1, :1], one)).all()


def test_overlaps() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [90, 90, 4, 4]], float)
    inner = np.array([[0.0, 0, 10, 10], [2, 2, 5, 4]])
    np.testing.assert_allclose(overlaps(boxes, boxes), [0.5, 0.5, 0])
    np.testing.assert_allclose(overlaps(inner, inner), [0.2, 1])
    np.testing.assert_allclose(overlaps(inner[:1], np.repeat(inner[:1], 2, axis=0)), [1])
    np.testing.assert_allclose(overlaps(inner[:1], inner[:1]), [0])
