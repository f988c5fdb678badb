"""`seg-every-thing quickstart`: class-agnostic, Mask^X and oracle on Shapes, on one detector."""

import argparse
import logging
import os
import time
from pathlib import Path
from typing import Any, Dict

from detectron2.data import MetadataCatalog

from ..data.splits import resolve_class_split
from ..files import write_json
from ..study.definitions.suites import QUICKSTART_ROWS, SHAPES
from ..study.reporting.overlap import overlap_metrics
from ..study.reporting.report import recovery, table_rows, text_table, write_comparison_gallery
from ..study.running.runner import Run, StudyRunner
from ..study.running.stages import metric_names, versions
from .common import add_shapes_study_arguments, check_study_output, shapes_registration

HELP = "train and compare class-agnostic, Mask^X and fully supervised masks on Shapes"

logger = logging.getLogger(__name__)

_DATA_SET, _SPLIT = "shapes_val", SHAPES.directions[0].split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="of training (the data stay the same)")
    add_shapes_study_arguments(parser, jobs=len(QUICKSTART_ROWS))


def run(args: argparse.Namespace) -> None:
    """Train what is missing, then write results.json and the gallery, and log the table."""
    if args.seed < 0 or args.jobs < 1:
        raise ValueError(f"--seed must be >= 0 and --jobs >= 1, got {args.seed} and {args.jobs}")
    results = ("results.json", f"results_seed{args.seed}.json")
    check_study_output(args, [args.seed], results)
    start = time.perf_counter()
    runner = StudyRunner(SHAPES, args.output, shapes_registration(args), args.opts)
    detector = runner.train_detector_here(args.seed)
    runs = [Run(row, _SPLIT, args.seed) for row in QUICKSTART_ROWS]
    by_run = runner.train(runs, args.jobs)
    records = {run.row.name: by_run[run.name] for run in runs}
    failed = {name: r["error"] for name, r in records.items() if "error" in r}
    if failed:
        raise ValueError("; ".join(f"row {name} failed: {error}" for name, error in failed.items()))
    _report(args, runner, detector, records, time.perf_counter() - start)


def _report(
    args: argparse.Namespace,
    runner: StudyRunner,
    detector: Dict[str, Any],
    records: Dict[str, Dict[str, Any]],
    wall_seconds: float,
) -> None:
    metadata = MetadataCatalog.get(_DATA_SET)
    split = resolve_class_split(_SPLIT, metadata.thing_classes)
    sets = {"": range(len(metadata.thing_classes)), "_A": split.set_a, "_B": split.set_b}
    rows: Dict[str, Dict[str, float]] = {}
    result_files = []
    for row in QUICKSTART_ROWS:
        folder = runner.folder(Run(row, _SPLIT, args.seed)) / "inference" / _DATA_SET
        result_files.append((row, folder / "coco_instances_results.json"))
        metrics = records[row.name]["metrics"]
        rows[row.name] = {name: metrics[name] for name in metric_names(metrics)}
        shared = overlap_metrics(metadata.json_file, result_files[-1][1], sets)
        rows[row.name].update({k: v for k, v in shared.items() if k.startswith("segm/")})
    share = recovery(rows)
    result = {
        "rows": rows,
        "recovery_B": share,
        "seconds": {
            "this_run": wall_seconds,
            "detector": detector["seconds"],
            **{name: record["seconds"] for name, record in records.items()},
        },
        "versions": versions(),
        "seed": args.seed,
        "reused": sorted(
            name for name, r in {"detector": detector, **records}.items() if r.get("reused")
        ),
        "data": {"boxes": shared["boxes"], "shared_boxes": shared["shared_boxes"]},
    }
    headers, cells = table_rows(QUICKSTART_ROWS, rows)
    closed = "there is no gap" if share is None else f"{100 * share:.0f} %"
    summary = (
        f"Share of the gap between class-agnostic and fully supervised on set B that Mask^X "
        f"closes: {closed} (seed {args.seed}). Set A has masks in training, set B "
        f"only boxes; shared boxes ({shared['shared_boxes']} of {shared['boxes']}) hold over 20 % "
        f"of other objects."
    )
    page = write_comparison_gallery(
        args.output / "gallery", _DATA_SET, _SPLIT, result_files, summary, (headers, cells)
    )
    write_json(args.output / f"results_seed{args.seed}.json", result)
    write_json(args.output / "results.json", result)
    logger.info("Results:\n%s\n%s", text_table(headers, cells), summary)
    logger.info("Gallery: %s", os.path.abspath(page))
    logger.info("Numbers: %s", os.path.abspath(args.output / "results.json"))
