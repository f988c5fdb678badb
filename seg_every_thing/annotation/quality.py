"""How good a mask is, as far as one can tell without its true mask.

Two ways to rank masks are tried on those whose true mask was held out: the mask's own certainty,
and a linear predictor of the IoU from a few features.  The one that ranks better is kept, and
calibrated: a score then says which IoU to expect.
"""

import dataclasses
from typing import Any, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

import numpy as np

from .features import CERTAINTY, FEATURES, FILL
from .tables_on_disk import id_key

UNCALIBRATED = "uncalibrated"
FEWEST = 30
"""Held-out masks below which nothing is calibrated."""
FEWEST_OF_CLASS = 5
"""Held-out masks of a class below which their mean says little."""
_FOLDS = 5
_RIDGE = 3.0  # in objects: what a weight costs
_BIN = 12  # objects in a bin of the calibration, at least
_SPREADS = 4.0  # (s / t)^2: IoUs vary within a class about twice as much as between classes


class Scores(NamedTuple):
    """How masks of a data set are scored."""

    seen: "ScoreModel"  # of classes that have masks
    unseen: Optional["ScoreModel"] = None  # of the others, where something is known of these
    without_masks: FrozenSet[str] = frozenset()  # the others, by id_key of the category

    def of(self, category: Any) -> "ScoreModel":
        """The score for the masks of a category, by its id."""
        if self.unseen is None or id_key(category) not in self.without_masks:
            return self.seen
        return self.unseen


@dataclasses.dataclass(frozen=True)
class ScoreModel:
    """From features to a score."""

    kind: str = UNCALIBRATED  # UNCALIBRATED, "certainty" or "learned"
    weights: Tuple[float, ...] = ()  # of "learned": of each feature, and the last one alone
    mean: Tuple[float, ...] = ()
    scale: Tuple[float, ...] = ()
    knots: Tuple[Tuple[float, float], ...] = ()
    """Raw value and IoU: the calibration is linear between them."""

    @property
    def is_calibrated(self) -> bool:
        """Whether a score is the IoU to expect."""
        return self.kind != UNCALIBRATED

    def raw(self, features: np.ndarray) -> np.ndarray:
        """(n, features) -> (n,): what ranks the masks."""
        if self.kind != "learned":
            return features[:, CERTAINTY]
        z = (features - np.array(self.mean)) / np.array(self.scale)
        return z @ np.array(self.weights[:-1]) + self.weights[-1]

    def __call__(self, features: Any) -> np.ndarray:
        """(n, features) -> (n,) scores from 0 to 1; 0 where the mask is empty."""
        features = np.asarray(features, float).reshape(-1, len(FEATURES))
        raw = self.raw(features)
        if self.knots:
            x, y = np.array(self.knots).T
            raw = np.interp(raw, x, y)
        return np.where(features[:, FILL] > 0, raw.clip(0, 1), 0.0)


def fit_score(
    features: np.ndarray,
    ious: np.ndarray,
    groups: np.ndarray,
    weights: Optional[np.ndarray] = None,
) -> ScoreModel:
    """The score that ranks held-out masks best, calibrated on them.

    Args:
        features: (n, features).
        ious: (n,) IoU with the true masks.
        groups: (n,) such as images: objects of a group are never on both sides when the two ways
            are compared, unless there is one group alone.
        weights: (n,) of each mask, as of :func:`weights_of_classes`; None = the same.

    Returns:
        An uncalibrated one (certainty) for fewer than :data:`FEWEST` masks.
    """
    if len(ious) < FEWEST:
        return ScoreModel()
    ranked = ranking_of(features, ious, groups)
    kind = "learned" if ranked["learned"] > ranked["certainty"] else "certainty"
    return _fit(kind, features, ious, weights)


def weights_of_classes(classes: np.ndarray) -> np.ndarray:
    """How much each mask counts where classes are what differs: (n,), of mean 1.

    An unknown class is like one of these classes, not like one of their masks, so a class of many
    masks must not decide.  In a random-effects model the mean of a class of m masks varies by
    t^2 + s^2 / m.  The class counts as its inverse, and each of its masks as 1 / (m + s^2 / t^2).

    Args:
        classes: (n,) of each mask.
    """
    _, place, counts = np.unique(classes, return_inverse=True, return_counts=True)
    weights = 1 / (counts[place] + _SPREADS)
    return weights / weights.mean()


def ranking_of(features: np.ndarray, ious: np.ndarray, groups: np.ndarray) -> Dict[str, float]:
    """Rank correlation (Spearman) with the IoU of both ways, on masks that they were not fitted to.

    Arguments as for :func:`fit_score`.
    """
    learned = np.zeros(len(ious))
    for fold in _folds(groups):
        learned[fold] = _fit("learned", features[~fold], ious[~fold]).raw(features[fold])
    return {
        "certainty": spearman(features[:, CERTAINTY], ious),
        "learned": spearman(learned, ious),
    }


def scores_across_folds(
    kind: str, features: np.ndarray, ious: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Calibrated scores of held-out masks, each from the masks of other groups alone: (n,).

    Of one group alone, from other masks of it.
    """
    scores = np.zeros(len(ious))
    for fold in _folds(groups):
        scores[fold] = _fit(kind, features[~fold], ious[~fold])(features[fold])
    return scores


def error_of_unseen_classes(
    kind: str, features: np.ndarray, ious: np.ndarray, classes: np.ndarray
) -> Optional[float]:
    """How far the expected mean IoU of a class is off that has no mask.

    Each class in turn is left out of what the score is fitted to.  What a class without masks loses
    as the model has not seen any is not in it.

    Args:
        kind, features, ious: as for :func:`scores_across_folds`.
        classes: (n,) of each mask.

    Returns:
        Root mean square of expected less true mean IoU; None for fewer than three classes with
        :data:`FEWEST_OF_CLASS` masks.
    """
    errors = []
    for name in np.unique(classes):
        left_out = classes == name
        if left_out.sum() >= FEWEST_OF_CLASS and not left_out.all():
            scores = _fit(kind, features[~left_out], ious[~left_out])(features[left_out])
            errors.append(scores.mean() - ious[left_out].mean())
    return float(np.sqrt(np.mean(np.square(errors)))) if len(errors) >= 3 else None


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; ties share their mean rank; 0 where either is constant."""
    x, y = (_ranks(np.asarray(v, float)) for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm else 0.0


def reliability(scores: np.ndarray, ious: np.ndarray, bins: int = 10) -> List[Dict[str, float]]:
    """Mean score and mean IoU of masks by their score, in bins of as many masks each."""
    order = np.argsort(scores, kind="stable")
    return [
        {"masks": len(i), "score": float(scores[i].mean()), "IoU": float(ious[i].mean())}
        for i in np.array_split(order, min(bins, max(len(order) // 5, 1)))
        if len(i)
    ]


def _fit(
    kind: str, features: np.ndarray, ious: np.ndarray, counts: Optional[np.ndarray] = None
) -> ScoreModel:
    counts = np.ones(len(ious)) if counts is None else counts
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    z = (features - mean) / scale
    cost = _RIDGE * np.eye(z.shape[1])
    middle = np.average(ious, weights=counts)
    weights = np.linalg.solve(z.T @ (counts[:, None] * z) + cost, z.T @ (counts * (ious - middle)))
    model = ScoreModel(
        kind, (*weights.tolist(), float(middle)), tuple(mean.tolist()), tuple(scale.tolist())
    )
    return dataclasses.replace(model, knots=_calibration(model.raw(features), ious, counts))


def _calibration(
    raw: np.ndarray, ious: np.ndarray, counts: np.ndarray
) -> Tuple[Tuple[float, float], ...]:
    """Isotonic regression of bins: pools neighbours until the IoU grows with the raw value."""
    order = np.argsort(raw, kind="stable")
    blocks = [
        [np.average(v[i], weights=counts[i]) for v in (raw, ious)] + [counts[i].sum()]
        for i in np.array_split(order, max(len(order) // _BIN, 1))
    ]
    pooled: List[List[float]] = []
    for block in blocks:
        pooled.append(list(block))
        while len(pooled) > 1 and pooled[-2][1] >= pooled[-1][1]:
            (x, y, n), (u, v, m) = pooled[-2:]
            pooled[-2:] = [[(n * x + m * u) / (n + m), (n * y + m * v) / (n + m), n + m]]
    return tuple((float(x), float(y)) for x, y, _ in pooled)


def _folds(groups: Any) -> List[np.ndarray]:
    """Which objects are left out in turn; whole groups, unless there is one alone."""
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    fold = (place if len(names) > 1 else np.arange(len(place))) % _FOLDS
    return [fold == i for i in range(_FOLDS) if (fold == i).any() and (fold != i).any()]


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]
