"""Which mean IoU to expect of the masks that were made, from masks that were held out."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from tabulate import tabulate

from ..files import PathLike, written_atomically
from .index import Index
from .quality import (
    FEWEST,
    ScoreModel,
    error_of_unseen_classes,
    fit_score,
    ranking_of,
    reliability,
    scores_across_folds,
    weights_of_classes,
)

SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": float("inf")}
"""Limits of the area of a box in pixels."""

Scored = Dict[str, Tuple[int, float]]
"""How many masks of a class or size were made, and the sum of their scores."""


def size_name(width: float, height: float) -> str:
    """Of a box: small, medium or large, as COCO has it for masks."""
    return next(name for name, limit in SIZES.items() if width * height < limit)


class Expectation:
    """Held-out masks compared with what the model made of their boxes."""

    def __init__(self, index: Index, compared: Sequence[Any]) -> None:
        """
        Args:
            index: of the input.
            compared: (object, features, IoU) of the masks that were held out.
        """
        objects = [index.object(number) for number, _, _ in compared]
        names = index.categories
        self._classes = np.array([names[x.category] for x, _ in objects], dtype=object)
        self._sizes = np.array([size_name(*x.box[2:]) for x, _ in objects], dtype=object)
        self._images = np.array([image.number for _, image in objects])
        self._features = np.array([features for _, features, _ in compared], float)
        self.ious = np.array([iou for _, _, iou in compared], float)

    def fit_score(self, of_other_classes: bool = False) -> ScoreModel:
        """The score for the masks that were made, of these classes or of others."""
        weights = weights_of_classes(self._classes) if of_other_classes else None
        return fit_score(self._features, self.ious, self._images, weights)

    def error_of_classes(self, model: ScoreModel) -> Optional[float]:
        """How far the expected IoU of a class is off, in percent; see
        :func:`error_of_unseen_classes`."""
        return _percent(
            error_of_unseen_classes(model.kind, self._features, self.ious, self._classes)
        )

    def by_class(self) -> Dict[str, Dict[str, Any]]:
        """ "masks" and their mean "IoU" in percent."""
        found = ((name, self.ious[self._classes == name]) for name in sorted({*self._classes}))
        return {name: {"masks": len(x), "IoU": _percent(x.mean())} for name, x in found}

    def as_json(self, model: ScoreModel, by_class: Scored, by_size: Scored) -> Dict[str, Any]:
        """What the report says of quality.

        Args:
            model: the score.
            by_class, by_size: of the masks that were made.
        """
        held_out = len(self.ious)
        if not held_out:
            return {"measured": False, "reason": "no mask of the data was held out"}
        content: Dict[str, Any] = {
            "measured": True,
            "held_out_masks": held_out,
            "held_out_mean_IoU": _percent(self.ious.mean()),
            "calibrated": model.is_calibrated,
            "score": model.kind,
            "expected_mean_IoU": None,
            "by_class": self._rows(self._classes, by_class, model),
            "by_size": self._rows(self._sizes, by_size, model),
        }
        if not model.is_calibrated:
            content["reason"] = f"a score is calibrated on {FEWEST} masks or more"
            return content
        made, total = (sum(x) for x in zip((0, 0.0), *by_class.values()))
        content["expected_mean_IoU"] = _percent(total / made) if made else None
        content["error_of_unseen_classes"] = self.error_of_classes(model)
        ranked = ranking_of(self._features, self.ious, self._images)
        content["rank_correlation"] = {name: round(value, 3) for name, value in ranked.items()}
        scores = scores_across_folds(model.kind, self._features, self.ious, self._images)
        bins = reliability(scores, self.ious)
        gaps = [b["masks"] * abs(b["score"] - b["IoU"]) for b in bins]
        content["reliability"] = [{k: round(v, 4) for k, v in b.items()} for b in bins]
        content["calibration_error"] = round(sum(gaps) / held_out, 4)
        return content

    def _rows(self, names: np.ndarray, scored: Scored, model: ScoreModel) -> Dict[str, Any]:
        rows = {}
        for name in sorted({*names, *scored}):
            made, total = scored.get(name, (0, 0.0))
            ious = self.ious[names == name]
            rows[name] = {
                "made": made,
                "expected_IoU": _percent(total / made) if made and model.is_calibrated else None,
                "held_out": len(ious),
                "held_out_IoU": _percent(ious.mean()) if len(ious) else None,
            }
        return rows


def expectation_table(quality: Dict[str, Any]) -> str:
    """What :meth:`Expectation.as_json` gave, for a log."""
    columns = ["made", "expected_IoU", "held_out", "held_out_IoU"]
    rows: List[Any] = [
        [name, *(row[column] for column in columns)]
        for table in ("by_class", "by_size")
        for name, row in quality.get(table, {}).items()
    ]
    headers = ["", *(column.replace("_", " ") for column in columns)]
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".1f", missingval="-")


def plot_reliability(path: PathLike, bins: Sequence[Dict[str, float]]) -> None:
    """Write a picture of score against IoU.

    Raises:
        OSError: when it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5, 4.5), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="score = IoU")
    axes.plot([b["score"] for b in bins], [b["IoU"] for b in bins], marker="o", label="held out")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score of the masks (mean of a bin)")
    axes.set(ylabel="IoU with the true masks (mean)", title="What a score is worth")
    axes.legend(loc="upper left")
    figure.tight_layout()
    with written_atomically(path, "wb") as f:
        figure.savefig(f, format="png", metadata={"Software": None})


def _percent(value: Optional[float]) -> Optional[float]:
    return None if value is None else round(100 * float(value), 1)
