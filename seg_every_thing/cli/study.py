"""`seg-every-thing study`: tables of papers on COCO or in small, and of masks from boxes."""

import argparse
import logging
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence

from ..data.datasets.choice_sets import register_choice_sets
from ..data.datasets.semantic_sets import register_semantic_datasets
from ..data.datasets.voc_instances import register_voc_instances
from ..files import make_output_dir
from ..locks import folder_in_use
from ..study.definitions.suites import SUITES, Suite
from ..study.reporting.results import runs_of
from ..study.reporting.summary import FILES, write_summary
from ..study.running.commands import command_of, run_commands
from ..study.running.runner import Run, StudyRunner, row_differences
from .common import add_shapes_study_arguments, check_study_output, shapes_registration

HELP = "run tables and figures of the papers, with seeds and spreads"

logger = logging.getLogger(__name__)

_MASK_RCNN = "mask_rcnn_"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("--suite", choices=sorted(SUITES), default="shapes")
    parser.add_argument(
        "--tables",
        metavar="T,...",
        help="shapes and coco: of 1a, 1b, 1c, 1d, 2 and fig3, default all of these; shapes also: "
        "mask_rcnn_2b, 2c, 2d, 2e, agnostic (of Mask R-CNN), fcn, tiramisu; camvid: fcn, tiramisu; "
        "photos and voc: given, found; with _choice: given",
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0 on")
    parser.add_argument("--only", action="append", metavar="ROW", help="this row; may be repeated")
    parser.add_argument(
        "--one-direction",
        action="store_true",
        help="the first of the two directions of sets A and B alone",
    )
    parser.add_argument("--output", type=Path, default=Path("output/study"), metavar="DIR")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run nothing")
    parser.add_argument("--num-gpus", type=int, default=8, help="for the suite coco")
    add_shapes_study_arguments(parser, jobs=os.cpu_count() or 1)


def run(args: argparse.Namespace) -> None:
    """Run what is missing, then write tables.md, results.json and the plots."""
    suite = SUITES[args.suite]
    if args.seeds < 1 or args.jobs < 1 or args.num_gpus < 0:
        raise ValueError("--seeds and --jobs must be at least 1, --num-gpus at least 0")
    tables = _chosen_tables(suite, args.tables)
    seeds = range(args.seeds)
    runs = _chosen_rows(suite, runs_of(suite, tables, seeds), args.only)
    if args.one_direction:
        other = {direction.split for direction in suite.directions[1:]}
        runs = [one for one in runs if one.split not in other]
    if args.dry_run:
        _print_commands(suite, runs, args)
        return
    check_study_output(args, seeds, FILES)
    output = make_output_dir(args.output).resolve()
    with folder_in_use(output, args.force):
        _run_all(suite, tables, seeds, runs, output, args)


def _run_all(
    suite: Suite,
    tables: Sequence[str],
    seeds: range,
    runs: Sequence[Run],
    output: Path,
    args: argparse.Namespace,
) -> None:
    start = time.perf_counter()
    runner = None
    if not suite.on_gpus:
        runner = StudyRunner(suite, output, _registration(suite, args), args.opts)
    differences = partial(row_differences, suite, overrides=args.opts)
    for one in runs:
        differences(one)  # a comparison that is not fair must not cost hours first
    if runner is not None:
        records = runner.train(runs, args.jobs)
    else:
        records = run_commands(suite, runs, output, args.num_gpus, args.opts)
    write_summary(
        *(suite, tables, seeds, runs, records, differences, output),
        wall_seconds=time.perf_counter() - start,
    )
    logger.info("Tables: %s", output / "tables.md")
    failed = {name: r["error"] for name, r in records.items() if "error" in r}
    if failed:
        name, error = next(iter(failed.items()))
        raise ValueError(f"{len(failed)} of {len(records)} runs failed; {name}: {error}")


def _registration(suite: Suite, args: argparse.Namespace) -> Callable[[], None]:
    """What registers the data sets of a suite in each process; picklable."""
    shapes = shapes_registration(args) if suite.name == "shapes" else None
    return partial(_register, shapes, args.data_root)


def _register(shapes: Optional[Callable[[], None]], root: Optional[Path]) -> None:
    if shapes is not None:
        shapes()
    register_semantic_datasets(root)
    register_voc_instances(root)
    register_choice_sets()


def _chosen_tables(suite: Suite, names: Any) -> List[str]:
    known = [*suite.tables, *(["fig3"] if suite.figure_3 else [])]
    # Tables without sets A and B are not of the paper on Mask^X.
    of_the_paper = [name for name in known if name == "fig3" or not suite.tables[name].metrics]
    if names is None:
        return of_the_paper or known
    chosen = [name.strip() for name in names.split(",")]
    # "mask_rcnn_2b,2c" is short for "mask_rcnn_2b,mask_rcnn_2c".
    long = {name[len(_MASK_RCNN) :]: name for name in known if name.startswith(_MASK_RCNN)}
    chosen = [long.get(name, name) for name in chosen]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"--tables: no table '{unknown[0]}'; known: {', '.join(known)}")
    return list(dict.fromkeys(chosen))


def _chosen_rows(suite: Suite, runs: List[Run], only: Any) -> List[Run]:
    if not only:
        return runs
    known = list(dict.fromkeys(run.row.name for run in runs))
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ValueError(
            f"--only: no row '{unknown[0]}' in these tables; known: {', '.join(known)}"
        )
    return [run for run in runs if run.row.name in only]


def _print_commands(suite: Suite, runs: Sequence[Run], args: argparse.Namespace) -> None:
    """One command a run on standard output, for copying and for scripts."""
    num_gpus = args.num_gpus if suite.on_gpus else 0
    if suite.detector is not None and any(one.row.on_detector for one in runs):
        detectors = [Run(suite.detector, "", seed) for seed in range(args.seeds)]
        runs = [*detectors, *runs]
    for one in runs:
        command = command_of(suite, one, args.output, num_gpus, args.opts)
        sys.stdout.write(f"# {one.name}: {one.row.title}\n{command}\n")
