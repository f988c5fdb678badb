"""`seg-every-thing benchmark`: time and memory, as JSON and as a table in the log."""

import argparse
import logging
import shlex
from pathlib import Path
from typing import Any, Dict, List

import torch
from tabulate import tabulate

from ..benchmarks.evaluation import NUM_IMAGES, NUM_RESULTS, benchmark_evaluation
from ..benchmarks.inference import benchmark_inference
from ..benchmarks.mask_branch import NUM_CLASSES, benchmark_mask_branch, benchmark_table
from ..benchmarks.training import SIZE, benchmark_training
from ..benchmarks.visual_genome import FULL_SIZE, run_prepare_vg_benchmark
from ..benchmarks.vocabulary import benchmark_vocabulary
from ..files import check_targets, make_output_dir, write_json

HELP = "measure time and memory of the mask branch, of whole models, and of evaluation"

SUITES = ("mask_branch", "vocabulary", "prepare_vg", "training", "evaluation", "inference")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--suite", required=True, help=f"what to measure: {', '.join(SUITES)}", metavar="SUITE"
    )
    parser.add_argument("--output", required=True, metavar="FILE.json", help="where results go")
    parser.add_argument(
        "--num-classes",
        type=int,
        nargs="+",
        metavar="K",
        help=f"numbers of classes (default: {NUM_CLASSES}; vocabulary: 80 and 3001)",
    )
    parser.add_argument(
        "--num-images",
        type=int,
        help=f"for prepare_vg ({FULL_SIZE}) and evaluation ({NUM_IMAGES})",
    )
    parser.add_argument(
        "--results",
        type=int,
        default=NUM_RESULTS,
        help="for evaluation: found in an image (%(default)s)",
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=SIZE,
        metavar=("HEIGHT", "WIDTH"),
        help="for training: of the images of a batch (%(default)s)",
    )
    parser.add_argument(
        "--model-folders",
        nargs="+",
        default=[],
        metavar="DIR",
        help="for inference: exports and outputs of trainings, measured on the same images",
    )
    parser.add_argument("--rois", type=int, default=128, help="RoIs of a batch (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps a row (%(default)s)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Measure, write the JSON file, and log a table.

    Raises:
        ValueError: for an unknown suite, a number that is not positive, an unusable device, or an
            output that is no file.
        OSError: when the output file cannot be written; nothing is measured then.
    """
    if args.suite not in SUITES:
        raise ValueError(f"unknown suite '{args.suite}': expected one of {', '.join(SUITES)}")
    output = Path(args.output)
    check_targets([], [output])
    make_output_dir(output.parent)
    if args.suite == "mask_branch":
        args.num_classes = args.num_classes or list(NUM_CLASSES)
        result = benchmark_mask_branch(
            args.num_classes, rois=args.rois, repeats=args.repeats, device=args.device
        )
        table = benchmark_table(result)
    elif args.suite == "vocabulary":
        args.num_classes = args.num_classes or [80, 3001]
        result = benchmark_vocabulary(args.num_classes)
        table = _plain_table(result["rows"])
    elif args.suite == "training":
        result = benchmark_training(
            args.size, rois=args.rois, repeats=args.repeats, device=args.device
        )
        table = _plain_table(result["rows"])
    elif args.suite == "evaluation":
        args.num_images = NUM_IMAGES if args.num_images is None else args.num_images
        result = benchmark_evaluation(args.num_images, results=args.results, repeats=args.repeats)
        table = _plain_table(result["rows"])
    elif args.suite == "inference":
        result = benchmark_inference(
            repeats=args.repeats, device=args.device, model_folders=args.model_folders
        )
        table = _plain_table(result["rows"])
    else:
        args.num_images = FULL_SIZE if args.num_images is None else args.num_images
        result = run_prepare_vg_benchmark(args.num_images, repeats=args.repeats)
        table = _plain_table(result["rows"])
    result["command"] = _command(args)
    write_json(output, result)
    logger = logging.getLogger(__name__)
    logger.info("%s, %d threads:\n%s", result["processor"], torch.get_num_threads(), table)
    logger.info(f"written to '{output}'")


def _plain_table(rows: List[Dict[str, Any]]) -> str:
    """Every value as it is, with sizes in MiB."""
    shown = [
        {
            k.replace("bytes", "MiB"): v / 2**20 if v and k.endswith("bytes") else v
            for k, v in row.items()
        }
        for row in rows
    ]
    return tabulate(shown, headers="keys", tablefmt="pipe", floatfmt=".4g")


def _command(args: argparse.Namespace) -> str:
    parts = ["seg-every-thing", "benchmark", "--suite", args.suite, "--output", args.output]
    if args.num_classes:
        parts += ["--num-classes", *map(str, args.num_classes)]
    if args.suite == "training":
        parts += ["--size", *map(str, args.size)]
    if args.suite in ("mask_branch", "training"):
        parts += ["--rois", str(args.rois), "--device", args.device]
    if args.suite == "inference":
        parts += ["--device", args.device]
        parts += ["--model-folders", *args.model_folders] if args.model_folders else []
    if args.suite == "evaluation":
        parts += ["--results", str(args.results)]
    if args.suite in ("prepare_vg", "evaluation"):
        parts += ["--num-images", str(args.num_images)]
    if args.suite != "vocabulary":
        parts += ["--repeats", str(args.repeats)]
    return shlex.join(parts)
