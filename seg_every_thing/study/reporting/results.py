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

GIVEN = ("given", "given_fit")
"""Masks at given boxes, cut at 0.5 and where they fit the box."""
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
GIVEN_METRICS = ("mIoU", "IoU50", "IoU75", "boundary_IoU")
COLUMNS = (
    *(f"segm/{m}{s}" for s in ("_B", "_A", "") for m in METRICS),
    *(f"bbox/AP{s}" for s in ("", "_B", "_A")),
    *(f"{task}/{m}{s}" for task in GIVEN for s in ("_B", "_A", "") for m in GIVEN_METRICS),
)


def runs_of(suite: Suite, tables: Sequence[str], seeds: Sequence[int]) -> List[Run]:
    """The runs that tables need; those that several of them need occur once."""
    runs = [
        Run(row, direction.split, seed)
        for seed in seeds
        for name in tables
        for row in _rows(suite, name)
        if row.learns or seed == seeds[0]
        for direction in _splits(suite, name, row)
    ]
    return list(dict.fromkeys(runs))


def _rows(suite: Suite, table: str) -> Sequence[Row]:
    return suite.figure_3 if table == "fig3" else suite.tables[table].rows


def _splits(suite: Suite, table: str, row: Row) -> List[Direction]:
    if not row.has_sets:
        return [ALL_CLASSES]
    if table == "fig3":
        names = [name for names in suite.random_splits.values() for name in names]
        return [Direction(name, name) for name in names]
    # What does not depend on the split is the same in both directions.
    both = suite.tables[table].both_directions
    once = _same_in_both(row) or (both and row.name not in both)
    return list(suite.directions[: 1 if once else 2])


def _same_in_both(row: Row) -> bool:
    return row.all_masks or row.no_masks or not row.learns


def directions_of(suite: Suite, table: Table) -> Sequence[Direction]:
    """The directions in which a table is read; where it has no sets A and B, a single one."""
    if not table.rows[0].has_sets:
        return (ALL_CLASSES,)
    return suite.directions[:1] if table.metrics else suite.directions


def metrics_of(
    suite: Suite, records: Mapping[str, Mapping[str, Any]], row: Row, direction: int, seed: int
) -> Optional[Metrics]:
    """Metrics of a row in one of the two directions; None when the run is missing or failed."""
    if not row.has_sets:
        return records.get(Run(row, ALL_CLASSES.split, seed).name, {}).get("metrics")
    mirrored = _same_in_both(row) and direction == 1
    seed = seed if row.learns else 0
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
        metric = f"{table.claimed}_{in_set}" if in_set else table.claimed
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


def gap_closed(
    table: Table, summary: Mapping[str, Mapping[str, Mapping[str, Any]]], split: str, metric: str
) -> Dict[str, float]:
    """Row -> share, in percent, of the gap between its low and its high row that it closes.

    Of the means over seeds: ratios of single seeds are wild where a gap happens to be small.
    """
    shares = {}
    for name, ends in table.gaps.items():
        found = [summary.get(n, {}).get(split, {}).get(metric) for n in (*ends, name)]
        if all(x is not None for x in found):
            low, high, value = (x["mean"] for x in found if x is not None)
            if high > low:
                shares[name] = 100 * (value - low) / (high - low)
    return shares


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
