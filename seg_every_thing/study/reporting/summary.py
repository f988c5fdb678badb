"""Writes what a study found: ``results.json``, ``tables.md`` and plots."""

import logging
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from detectron2.data import DatasetCatalog

from ...data.catalog import class_names_of
from ...data.splits import resolve_class_split
from ...data.supervision import count_supervision
from ...evaluation.label_ceilings import label_ceilings
from ...files import write_json, write_text
from ..definitions.suites import Suite
from ..running.runner import Run, row_config
from ..running.scheduler import Record
from ..running.stages import metric_names, versions
from .diagnostics import class_vectors_of, diagnose
from .plots import plot_diagnostics, plot_figure_3
from .results import directions_of, figure_3, gap_closed, metrics_of, orderings, summarize
from .semantic_gallery import write_semantic_gallery
from .tables import (
    ablation_table,
    ceilings_table,
    diagnostics_table,
    figure_3_table,
    given_boxes_table,
    metrics_table,
    orderings_table,
    plain_cells,
    plain_table,
)

logger = logging.getLogger(__name__)

FILES = (_RESULTS, _TABLES, _FIGURE_3, _DIAGNOSTICS) = (
    *("results.json", "tables.md"),
    *("figure_3.png", "diagnostics.png"),
)
"""What is written beside the galleries."""

_PREDICTIONS = "sem_seg_predictions.json"
_DIAGNOSED = ("class_agnostic", "clsbox")


def write_summary(
    suite: Suite,
    tables: Sequence[str],
    seeds: Sequence[int],
    runs: Sequence[Run],
    records: Mapping[str, Record],
    differences: Callable[[Run], Dict[str, Any]],
    output: Path,
    wall_seconds: float,
) -> Dict[str, Any]:
    """Write ``results.json``, ``tables.md``, plots, and galleries of semantic tables.

    Args:
        suite: that was run.
        tables: their numbers, and "fig3".
        seeds: that were run.
        runs: all of them.
        records: by run name; those of failed runs have "error".
        differences: from a run to what sets it apart from its baseline.
        output: folder.
        wall_seconds: that this invocation took.

    Returns:
        The content of ``results.json``.
    """
    results: Dict[str, Any] = {
        "suite": suite.name,
        "seeds": list(seeds),
        "tables": {},
        "runs": {name: _short(record) for name, record in records.items()},
        "same_initial_trunk": {str(seed): _same_trunk(runs, records, seed) for seed in seeds},
        "seconds": {"this_run": wall_seconds},
        "versions": versions(),
    }
    text = [f"# Study `{suite.name}`, seeds {', '.join(map(str, seeds))}\n"]
    for key in (t for t in tables if t != "fig3"):
        table = suite.tables[key]
        summary = summarize(suite, table, records, seeds)
        claims = orderings(suite, table, records, seeds)
        rows = {}
        for row in table.rows:
            split = directions_of(suite, table)[0].split
            parameters = _parameters(records, Run(row, split, seeds[0]))
            baseline = suite.rows().get(row.baseline)
            other = _parameters(records, Run(baseline, split, seeds[0])) if baseline else None
            rows[row.name] = {
                "title": row.title,
                "baseline": row.baseline,
                "differs": differences(Run(row, split, seeds[0])),
                "trainable_parameters": parameters,
                "more_parameters": parameters - other if parameters and other else None,
                "directions": summary.get(row.name, {}),
            }
        results["tables"][key] = {"title": table.title, "rows": rows, "orderings": claims}
        render = metrics_table if key == "2" else plain_table if table.metrics else ablation_table
        if table.gaps:
            render = given_boxes_table
            results["tables"][key]["gap_closed"] = {
                direction.split: {
                    metric: gap_closed(table, summary, direction.split, f"{metric}_B")
                    for metric in ("given/mIoU", "given_fit/mIoU", "given/IoU75")
                }
                for direction in suite.directions
            }
        text += [f"## Table {table.title}\n", render(suite, key, table, summary), ""]
        if claims:
            text += [orderings_table(claims), ""]
        if table.rows[0].semantic:
            ceilings, more = _ceilings_and_gallery(suite, key, summary, seeds[0], output)
            results["tables"][key]["ceilings"] = ceilings
            text += more
    if "fig3" in tables:
        points = figure_3(suite, records, seeds, _masks_per_class(suite))
        results["fig3"] = points
        text += ["## Figure 3: random splits\n", figure_3_table(points), ""]
        if points:
            plot_figure_3(points, output / _FIGURE_3)
            text += [f"![gain against the number of classes and masks]({_FIGURE_3})", ""]
    found = _diagnostics(suite, seeds, records, output)
    if found:
        results["diagnostics"] = found
        plot_diagnostics(found, output / _DIAGNOSTICS)
        text += ["## Where transfer gains: classes of B and their neighbours in A\n"]
        for title, result in found.items():
            text += [f"### {title}\n", diagnostics_table(result), ""]
        text += [f"![gain against similarity]({_DIAGNOSTICS})", ""]
    failed = {name: r["error"] for name, r in records.items() if "error" in r}
    if failed:
        text += ["## Failed\n", *(f"- {name}: {error}" for name, error in failed.items()), ""]
    write_json(output / _RESULTS, results)
    write_text(output / _TABLES, "\n".join(text))
    return results


def _ceilings_and_gallery(
    suite: Suite, key: str, summary: Mapping[str, Any], seed: int, output: Path
) -> Tuple[Dict[int, Dict[str, float]], List[str]]:
    """Of a semantic table: the ceilings by stride, and lines for ``tables.md``."""
    table = suite.tables[key]
    cfg = row_config(suite, Run(table.rows[0], "", seed), ())
    (data_set,) = cfg.DATASETS.TEST
    ceilings = label_ceilings(cfg, table.ceilings) if table.ceilings else {}
    text = [ceilings_table(ceilings, table.metrics), ""] if ceilings else []
    predictions = [
        (row.title, output / Run(row, "", seed).name / "inference" / data_set / _PREDICTIONS)
        for row in table.rows
    ]
    page = write_semantic_gallery(
        output / f"gallery_{key}",
        table.title,
        data_set,
        [(title, path) for title, path in predictions if path.is_file()],
        plain_cells(suite, table, summary),
    )
    text += [f"Pictures of seed {seed}: `{page.relative_to(output)}`", ""]
    return ceilings, text


def _short(record: Record) -> Record:
    """Without the values of single classes."""
    metrics = record.get("metrics", {})
    return {**record, "metrics": {name: metrics[name] for name in metric_names(metrics)}}


def _parameters(records: Mapping[str, Record], run: Run) -> Any:
    return records.get(run.name, {}).get("trainable_parameters")


def _same_trunk(runs: Sequence[Run], records: Mapping[str, Record], seed: int) -> bool:
    """Whether all rows of a seed started from the same mask trunk."""
    digests = {
        records.get(run.name, {}).get("initial_trunk") for run in runs if run.seed == seed
    } - {None, ""}
    if len(digests) > 1:
        logger.error("the rows of seed %d started from different trunks: no fair comparison", seed)
    return len(digests) <= 1


def _masks_per_class(suite: Suite) -> Dict[str, float]:
    names = class_names_of(suite.train_set)
    dicts = DatasetCatalog.get(suite.train_set)
    means = {}
    for split in (s for splits in suite.random_splits.values() for s in splits):
        set_a = resolve_class_split(split, names).set_a
        means[split] = count_supervision(dicts, set_a)["mask_objects"] / len(set_a)
    return means


def _diagnostics(
    suite: Suite,
    seeds: Sequence[int],
    records: Mapping[str, Record],
    output: Path,
) -> Dict[str, Any]:
    """For each direction in which both rows are complete: title -> :func:`diagnose`."""
    rows = suite.rows()
    if not set(_DIAGNOSED) <= set(rows):
        return {}
    low_row, high_row = (rows[name] for name in _DIAGNOSED)
    found = {}
    for i, direction in enumerate(suite.directions):
        vectors, low, high = [], [], []
        for seed in seeds:
            pair = [metrics_of(suite, records, row, i, seed) for row in (low_row, high_row)]
            weights = output / Run(high_row, direction.split, seed).name / "model_final.pth"
            if pair[0] is None or pair[1] is None or not weights.is_file():
                continue
            vectors.append(class_vectors_of(weights))
            low.append(pair[0])
            high.append(pair[1])
        if vectors:
            names = class_names_of(suite.train_set)
            split = resolve_class_split(direction.split, names)
            found[direction.title] = diagnose(vectors, low, high, names, split)
    return found
