"""From the records of single runs to means over seeds, and to what may be said of them."""

import statistics
from typing import Any, Dict, List, Mapping, Optional, Sequence

from ..definitions.rows import Row
from ..definitions.suites import Direction, Suite
from ..definitions.table import Table
from ..running.runner import Run

Metrics = Dict[str, float]

ALL_CLASSES = Direction("", "")
"""Of runs without sets A and B."""

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
COLUMNS = (*(f"segm/{m}{s}" for s in ("_B", "_A", "") for m in METRICS), "bbox/AP")


def runs_of(suite: Suite, tables: Sequence[str], seeds: Sequence[int]) -> List[Run]:
    """The runs that tables need; those that several of them need occur once."""
    runs = [
        Run(row, direction.split, seed)
        for seed in seeds
        for name in tables
        for row in _rows(suite, name)
        for direction in _splits(suite, name, row)
    ]
    return list(dict.fromkeys(runs))


def _rows(suite: Suite, table: str) -> Sequence[Row]:
    return suite.figure_3 if table == "fig3" else suite.tables[table].rows


def _splits(suite: Suite, table: str, row: Row) -> List[Direction]:
    if not row.on_detector:
        return [ALL_CLASSES]
    if table == "fig3":
        names = [name for names in suite.random_splits.values() for name in names]
        return [Direction(name, name) for name in names]
    # A row with all masks is the same model in both directions.
    return list(suite.directions[: 1 if row.all_masks else 2])


def directions_of(suite: Suite, table: Table) -> Sequence[Direction]:
    """The directions in which a table is read; where it has no sets A and B, a single one."""
    if not table.rows[0].on_detector:
        return (ALL_CLASSES,)
    return suite.directions[:1] if table.metrics else suite.directions


def metrics_of(
    suite: Suite, records: Mapping[str, Mapping[str, Any]], row: Row, direction: int, seed: int
) -> Optional[Metrics]:
    """Metrics of a row in one of the two directions; None when the run is missing or failed."""
    if not row.on_detector:
        return records.get(Run(row, ALL_CLASSES.split, seed).name, {}).get("metrics")
    mirrored = row.all_masks and direction == 1
    split = suite.directions[0 if mirrored else direction].split
    metrics = records.get(Run(row, split, seed).name, {}).get("metrics")
    if metrics is None or not mirrored:
        return metrics
    # The directions are mirror images: what is set A in one is set B in the other.
    return {_mirrored(name): value for name, value in metrics.items()}


def _mirrored(name: str) -> str:
    if name.endswith("_A"):
        return name[:-1] + "B"
    return name[:-1] + "A" if name.endswith("_B") else name


def spread(values: Sequence[float]) -> Dict[str, Any]:
    """``{"mean", "std", "values"}``; the sample standard deviation is None for a single value."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": list(values)}


def summarize(
    suite: Suite, table: Table, records: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> Dict[str, Dict[str, Dict[str, Any]]]:
    """Row name -> split of the direction -> metric -> :func:`spread` over the seeds."""
    summary: Dict[str, Dict[str, Dict[str, Any]]] = {}
    for row in table.rows:
        for i, direction in enumerate(directions_of(suite, table)):
            found = [metrics_of(suite, records, row, i, seed) for seed in seeds]
            complete = [m for m in found if m is not None]
            if complete:
                summary.setdefault(row.name, {})[direction.split] = {
                    key: spread([m[key] for m in complete])
                    for key in dict.fromkeys((*COLUMNS, *table.metrics))
                    if all(m.get(key, -1) >= 0 for m in complete)
                }
    return summary


def orderings(
    suite: Suite, table: Table, records: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> List[Dict[str, Any]]:
    """The orderings of a table, tested on the differences of the same seeds.

    Returns:
        Dicts with "claim", "source" ("paper" or "ours"), "direction" ("" where a table has no
        sets), "metric", "difference" (:func:`spread`), and "verdict": "holds" when the mean
        difference is more than one standard deviation above 0, "reversed" when as far below, "open"
        between them, or "one seed".  For claims that set A is unharmed the verdicts are "unharmed"
        and "harmed", the latter for more than one standard deviation below 0.
    """
    names = {row.name: row for row in table.rows}
    tests = [(*claim, "paper", False) for claim in table.claims]
    tests += [(row, baseline, "A", "paper", True) for row, baseline in table.unharmed]
    tests += [(*claim, "ours", False) for claim in table.ours]
    found = []
    for better, worse, in_set, source, unharmed in tests:
        metric = f"segm/AP_{in_set}" if in_set else table.claimed
        for i, direction in enumerate(directions_of(suite, table)):
            differences = []
            for seed in seeds:
                pair = [metrics_of(suite, records, names[n], i, seed) for n in (better, worse)]
                if all(m is not None for m in pair):
                    high, low = (m[metric] for m in pair if m is not None)
                    differences.append(high - low)
            if differences:
                difference = spread(differences)
                relation = "does not harm set A, against" if unharmed else ">"
                found.append(
                    {
                        "claim": f"{names[better].title} {relation} {names[worse].title}",
                        "source": source,
                        "direction": "" if table.metrics else direction.title,
                        "metric": metric,
                        "difference": difference,
                        "verdict": _verdict(difference, unharmed),
                    }
                )
    return found


def _verdict(difference: Mapping[str, Any], unharmed: bool) -> str:
    mean, std = difference["mean"], difference["std"]
    if std is None:
        return "one seed"
    if mean + std < 0:
        return "harmed" if unharmed else "reversed"
    if unharmed:
        return "unharmed"
    return "holds" if mean - std > 0 else "open"


def figure_3(
    suite: Suite,
    records: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    masks_per_class: Mapping[str, float],
) -> List[Dict[str, Any]]:
    """One dict a random split and seed: the gain of transfer over class-agnostic on set B.

    Args:
        suite: with ``figure_3`` rows: the baseline, then transfer.
        records: by run name.
        seeds: those that were run.
        masks_per_class: split -> mean number of training masks of a class in set A.
    """
    baseline, transfer = suite.figure_3
    points = []
    for size, splits in suite.random_splits.items():
        for split in splits:
            for seed in seeds:
                low, high = (
                    records.get(Run(row, split, seed).name, {}).get("metrics", {}).get("segm/AP_B")
                    for row in (baseline, transfer)
                )
                if low is None or high is None:
                    continue
                points.append(
                    {
                        "split": split,
                        "seed": seed,
                        "num_classes": size,
                        "masks_per_class": masks_per_class[split],
                        "class_agnostic": low,
                        "transfer": high,
                        "relative_gain": 100 * (high - low) / low if low > 0 else None,
                    }
                )
    return points
