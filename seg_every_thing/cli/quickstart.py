"""`seg-every-thing quickstart`: four ways to masks of set B on Shapes, on one detector; boxes in,
masks out with one of them."""

import argparse
import logging
import os
import time
from pathlib import Path
from typing import Any, Dict, List

from detectron2.data import MetadataCatalog

from ..data.splits import resolve_class_split
from ..files import make_output_dir, write_json
from ..locks import folder_in_use
from ..study.definitions.suites import DEMO
from ..study.reporting.overlap import overlap_metrics
from ..study.reporting.report import (
    percent,
    recovery,
    table_rows,
    text_table,
    write_comparison_gallery,
)
from ..study.reporting.tables import seeds_table
from ..study.running.runner import Run, StudyRunner, row_differences
from ..study.running.stages import metric_names, versions
from .common import add_shapes_study_arguments, check_study_output, shapes_registration
from .quickstart_annotation import annotate_boxes

HELP = "train and compare class-agnostic, Mask^X, box-supervised and supervised masks on Shapes"

logger = logging.getLogger(__name__)

_DATA_SET, _SPLIT = "shapes_val", DEMO.directions[0].split
_ROWS = DEMO.tables["demo"].rows
_CLOSES = ("maskx", "maskx_box_losses")  # rows of which is said what part of the gap they close
_ANNOTATES = "maskx_box_losses"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR")
    parser.add_argument(
        "--seed",
        type=int,
        nargs="+",
        default=[0],
        metavar="N",
        help="of training (the data stay the same); several give a summary, too",
    )
    add_shapes_study_arguments(parser, jobs=min(len(_ROWS), os.cpu_count() or 1))


def run(args: argparse.Namespace) -> None:
    """Train what is missing, then write results.json and the gallery, and log the table."""
    if min(args.seed) < 0 or args.jobs < 1:
        raise ValueError(f"--seed must be >= 0 and --jobs >= 1, got {args.seed} and {args.jobs}")
    files = ("results.json", "results_seeds.json", *(f"results_seed{s}.json" for s in args.seed))
    check_study_output(args, args.seed, files)
    with folder_in_use(make_output_dir(args.output, utf_8=True), args.force):
        _run_seeds(args)


def _run_seeds(args: argparse.Namespace) -> None:
    runner = StudyRunner(DEMO, args.output, shapes_registration(args), args.opts)
    for row in _ROWS:
        row_differences(DEMO, Run(row, _SPLIT, args.seed[0]), args.opts)
    results = [_run_seed(args, runner, seed) for seed in args.seed]
    if len(results) > 1:
        _report_seeds(args, results)
    _annotate(args, runner)


def _run_seed(args: argparse.Namespace, runner: StudyRunner, seed: int) -> Dict[str, Any]:
    start = time.perf_counter()
    runs = [Run(row, _SPLIT, seed) for row in _ROWS]
    by_run = runner.train(runs, args.jobs)
    records = {run.row.name: by_run[run.name] for run in [runner.detector(seed), *runs]}
    failed = {name: r["error"] for name, r in records.items() if "error" in r}
    if failed:
        raise ValueError("; ".join(f"{name} failed: {error}" for name, error in failed.items()))
    return _report(args, runner, seed, records, time.perf_counter() - start)


def _report(
    args: argparse.Namespace,
    runner: StudyRunner,
    seed: int,
    records: Dict[str, Dict[str, Any]],
    wall_seconds: float,
) -> Dict[str, Any]:
    metadata = MetadataCatalog.get(_DATA_SET)
    split = resolve_class_split(_SPLIT, metadata.thing_classes)
    sets = {"": range(len(metadata.thing_classes)), "_A": split.set_a, "_B": split.set_b}
    rows: Dict[str, Dict[str, float]] = {}
    result_files = []
    for row in _ROWS:
        folder = runner.folder(Run(row, _SPLIT, seed)) / "inference" / _DATA_SET
        result_files.append((row, folder / "coco_instances_results.json"))
        metrics = records[row.name]["metrics"]
        rows[row.name] = {name: metrics[name] for name in metric_names(metrics)}
        shared = overlap_metrics(metadata.json_file, result_files[-1][1], sets)
        rows[row.name].update({k: v for k, v in shared.items() if k.startswith("segm/")})
    shares = {name: recovery(rows, name) for name in _CLOSES}
    result = {
        "rows": rows,
        "recovery_B": shares["maskx"],
        "recovery_B_box_losses": shares["maskx_box_losses"],
        "seconds": {
            "this_run": wall_seconds,
            **{name: record["seconds"] for name, record in records.items()},
        },
        "versions": versions(),
        "seed": seed,
        "reused": sorted(name for name, r in records.items() if r.get("reused")),
        "data": {"boxes": shared["boxes"], "shared_boxes": shared["shared_boxes"]},
    }
    headers, cells = table_rows(_ROWS, rows)
    closed = [percent(share) for share in shares.values()]
    summary = (
        f"Of the gap between class-agnostic and fully supervised on set B, Mask^X closes "
        f"{closed[0]}, with box losses {closed[1]} (seed {seed}). Set A has masks in training, "
        f"set B only boxes; shared boxes ({shared['shared_boxes']} of {shared['boxes']}) hold over "
        f"20 % of other objects."
    )
    page = write_comparison_gallery(
        args.output / "gallery", _DATA_SET, _SPLIT, result_files, summary, (headers, cells)
    )
    write_json(args.output / f"results_seed{seed}.json", result)
    write_json(args.output / "results.json", result)
    logger.info("Results:\n%s\n%s", text_table(headers, cells), summary)
    logger.info("Gallery: %s", os.path.abspath(page))
    logger.info("Numbers: %s", os.path.abspath(args.output / "results.json"))
    return result


def _annotate(args: argparse.Namespace, runner: StudyRunner) -> None:
    """With the model of the last seed."""
    (run,) = (Run(row, _SPLIT, args.seed[-1]) for row in _ROWS if row.name == _ANNOTATES)
    cfg = runner.config(run)
    cfg.MODEL.WEIGHTS = str(runner.folder(run) / "model_final.pth")
    annotate_boxes(cfg, _DATA_SET, args.output / "annotate")


def _report_seeds(args: argparse.Namespace, results: List[Dict[str, Any]]) -> None:
    headers, cells = seeds_table(_ROWS, [result["rows"] for result in results])
    shares = {name: [recovery(result["rows"], name) for result in results] for name in _CLOSES}
    path = args.output / "results_seeds.json"
    write_json(path, {"seeds": args.seed, "recovery_B": shares})
    logger.info(
        "Seeds %s, mean ± standard deviation:\n%s\nShare of the gap on set B that each closes: %s",
        *(", ".join(map(str, args.seed)), text_table(headers, cells)),
        "; ".join(f"{name} {', '.join(map(percent, found))}" for name, found in shares.items()),
    )
    logger.info("Numbers: %s", os.path.abspath(path))
