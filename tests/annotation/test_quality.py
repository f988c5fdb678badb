"""Scores: rank correlation, calibration, and which of two ways ranks better."""

import numpy as np
import pytest

from seg_every_thing.annotation.features import CERTAINTY, FEATURES
from seg_every_thing.annotation.quality import (
    FEWEST,
    ScoreModel,
    error_of_unseen_classes,
    fit_score,
    ranking_of,
    reliability,
    scores_across_folds,
    spearman,
    weights_of_classes,
)


def test_rank_correlation() -> None:
    assert spearman(np.array([1, 2, 3]), np.array([10, 100, 1000])) == pytest.approx(1)
    assert spearman(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    # With ties by hand: ranks 1.5, 1.5, 3, 4 and 1, 2, 3, 4.
    assert spearman(np.array([5, 5, 6, 7]), np.array([1, 2, 3, 4])) == pytest.approx(
        4.5 / np.sqrt(4.5 * 5)
    )
    assert spearman(np.ones(4), np.arange(4)) == 0


def made_up(n: int, informative: int, seed: int = 0) -> tuple:
    """Features of which one alone says what the IoU is."""
    rng = np.random.default_rng(seed)
    features = rng.random((n, len(FEATURES)))
    features[:, FEATURES.index("fill")] = 0.5
    ious = (0.2 + 0.6 * features[:, informative] + rng.normal(0, 0.03, n)).clip(0, 1)
    return features, ious, np.arange(n) // 2


@pytest.mark.parametrize(
    ("informative", "kind"), [(CERTAINTY, None), (FEATURES.index("log_area"), "learned")]
)
def test_what_ranks_better_is_kept_and_calibrated(informative: int, kind: str) -> None:
    features, ious, groups = made_up(300, informative)
    model = fit_score(features, ious, groups)
    ranked = ranking_of(features, ious, groups)
    assert model.kind == max(ranked, key=lambda name: ranked[name])
    assert kind in (None, model.kind)
    assert ranked[model.kind] > 0.9
    scores = scores_across_folds(model.kind, features, ious, groups)
    assert np.abs(scores - ious).mean() < 0.06
    assert abs(model(features).mean() - ious.mean()) < 0.02
    for row in reliability(scores, ious):
        assert row["score"] == pytest.approx(row["IoU"], abs=0.06)


def test_masks_of_one_image_are_measured_one_by_one() -> None:
    features, ious, _ = made_up(100, FEATURES.index("log_area"))
    one, many = np.zeros(100), np.arange(100)
    assert ranking_of(features, ious, one) == ranking_of(features, ious, many)
    assert fit_score(features, ious, one).kind == "learned"
    scores = scores_across_folds("learned", features, ious, one)
    np.testing.assert_array_equal(scores, scores_across_folds("learned", features, ious, many))
    assert np.abs(scores - ious).mean() < 0.06


def test_a_class_of_many_masks_does_not_decide() -> None:
    classes = np.array(["ant"] * 36 + ["bee"] * 4)
    weights = weights_of_classes(classes)
    assert weights[0] / weights[-1] == pytest.approx((4 + 4) / (36 + 4))
    assert weights.mean() == pytest.approx(1)
    features = np.full((40, len(FEATURES)), 0.5)  # all masks look the same
    ious = np.where(classes == "ant", 0.9, 0.4)
    expected = (36 / 40 * 0.9 + 4 / 8 * 0.4) / (36 / 40 + 4 / 8)
    model = fit_score(features, ious, np.arange(40), weights)
    assert model(features) == pytest.approx(np.full(40, expected))
    assert fit_score(features, ious, np.arange(40))(features)[0] == pytest.approx(0.85)


def test_few_masks_calibrate_nothing() -> None:
    features, ious, groups = made_up(FEWEST - 1, CERTAINTY)
    model = fit_score(features, ious, groups)
    assert not model.is_calibrated
    np.testing.assert_allclose(model(features), features[:, CERTAINTY])


def test_calibration_never_falls_and_stays_between_0_and_1() -> None:
    features, ious, groups = made_up(120, CERTAINTY)
    model = fit_score(features, 1 - ious, groups)  # the more certain, the worse
    x, y = np.array(model.knots).T
    assert (np.diff(x) > 0).all()
    assert (np.diff(y) > 0).all()
    extreme = np.concatenate([features * 1e3, -features * 1e3])
    assert (model(extreme) >= 0).all()
    assert (model(extreme) <= 1).all()


def test_constant_ious_are_no_trouble() -> None:
    features, _, groups = made_up(60, CERTAINTY)
    model = fit_score(features, np.full(60, 0.7), groups)
    np.testing.assert_allclose(model(features), 0.7, atol=1e-6)


def test_an_empty_mask_scores_0() -> None:
    features, ious, groups = made_up(60, CERTAINTY)
    features[0, FEATURES.index("fill")] = 0
    assert fit_score(features, ious, groups)(features)[0] == 0
    assert ScoreModel()(features)[0] == 0


def test_bins_hold_every_mask_once() -> None:
    scores = np.linspace(0, 1, 103)
    rows = reliability(scores, scores)
    assert sum(row["masks"] for row in rows) == 103
    assert len(rows) == 10


def test_what_is_expected_of_classes_that_were_left_out() -> None:
    features, ious, _ = made_up(240, FEATURES.index("log_area"))
    classes = np.arange(240) % 4
    fair = error_of_unseen_classes("learned", features, ious, classes)
    assert fair is not None and fair < 0.02
    # Class 0 is worse than it looks: expected of it is what the others are, and a third of the
    # masks that tell of another class are those of class 0.
    odd = np.where(classes == 0, ious - 0.2, ious)
    expected = np.sqrt((0.2**2 + 3 * (0.2 / 3) ** 2) / 4)
    found = error_of_unseen_classes("learned", features, odd, classes)
    assert found == pytest.approx(expected, abs=0.015)
    assert error_of_unseen_classes("learned", features, ious, classes % 2) is None
    few = np.where(np.arange(240) < 8, classes, 4)  # two masks of each class but one
    assert error_of_unseen_classes("learned", features, ious, few) is None
