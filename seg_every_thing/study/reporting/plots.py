"""Pictures of a study: Figure 3 of the paper, and gains against class similarity."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from matplotlib.figure import Figure

from ...files import written_atomically
from .results import spread


def plot_figure_3(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Relative gain over class-agnostic on set B, against classes in A and masks a class.

    Args:
        points: of :func:`seg_every_thing.study.reporting.results.figure_3`.
        path: PNG to write.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    points = [p for p in points if p["relative_gain"] is not None]
    by_size: Dict[int, List[float]] = {}
    for point in points:
        by_size.setdefault(point["num_classes"], []).append(point["relative_gain"])
    sizes = sorted(by_size)
    spreads = [spread(by_size[size]) for size in sizes]
    left.scatter(
        [p["num_classes"] for p in points],
        [p["relative_gain"] for p in points],
        *(14,),
        color="tab:gray",
        label="one split and seed",
    )
    left.errorbar(
        sizes,
        [s["mean"] for s in spreads],
        yerr=[s["std"] or 0 for s in spreads],
        marker="o",
        capsize=4,
        label="mean ± standard deviation",
    )
    left.set_xlabel("classes with masks (set A)")
    left.set_ylabel("gain of transfer over class-agnostic\nin mask AP on set B, %")
    left.legend()
    dots = right.scatter(
        [p["masks_per_class"] for p in points],
        [p["relative_gain"] for p in points],
        c=[p["num_classes"] for p in points],
        s=18,
    )
    figure.colorbar(dots, ax=right, label="classes in A")
    right.set_xlabel("training masks a class of set A")
    for axes in (left, right):
        axes.axhline(0, color="black", linewidth=0.8)
    save_figure(figure, path)


def plot_diagnostics(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """AP gained by each set B class against its similarity to the nearest set A class.

    Args:
        found: title of a direction -> result of
            :func:`seg_every_thing.study.reporting.diagnostics.diagnose`.
        path: PNG to write.
    """
    figure = Figure(figsize=(5 * len(found), 4), layout="constrained")
    panels = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for axes, (title, result) in zip(panels, found.items()):
        x = [row["neighbours"][0][1] for row in result["classes"]]
        y = [row["gain"] for row in result["classes"]]
        axes.scatter(x, y, s=18)
        for row, a, b in zip(result["classes"], x, y):
            axes.annotate(
                row["class"], (a, b), fontsize=6, xytext=(3, 2), textcoords="offset points"
            )
        axes.axhline(0, color="black", linewidth=0.8)
        correlation = result["rank_correlation"]
        known = "" if correlation is None else f" (rank correlation {correlation:+.2f})"
        axes.set_title(f"{title}{known}")
        axes.set_xlabel("cosine similarity to the nearest class of A")
    figure.supylabel("mask AP gained over class-agnostic")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG; the file is complete or not there."""
    with written_atomically(path, "wb") as f:
        figure.savefig(f, format="png", dpi=110)
