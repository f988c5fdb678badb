"""`seg-every-thing benchmark`: time and memory, as JSON and as a table in the log."""

import argparse
import logging
import shlex
from pathlib import Path

import torch

from ..benchmarks import NUM_CLASSES, benchmark_mask_branch, benchmark_table
from ..files import make_output_dir, write_json

HELP = "measure time and memory of the mask branch, beside detectron2's"

SUITES = ("mask_branch",)


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
        default=list(NUM_CLASSES),
        metavar="K",
        help="numbers of classes (default: %(default)s)",
    )
    parser.add_argument("--rois", type=int, default=128, help="RoIs of a batch (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps a row (%(default)s)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Measure, write the JSON file, and log a table.

    Raises:
        ValueError: for an unknown suite, a number that is not positive, or an unusable device.
        OSError: when the output file cannot be written; nothing is measured then.
    """
    if args.suite not in SUITES:
        raise ValueError(f"unknown suite '{args.suite}': expected one of {', '.join(SUITES)}")
    output = Path(args.output)
    if output.is_dir():
        raise OSError(f"cannot write '{output}': it is a folder, give the name of a .json file")
    make_output_dir(output.parent)
    result = benchmark_mask_branch(
        args.num_classes, rois=args.rois, repeats=args.repeats, device=args.device
    )
    result["command"] = _command(args)
    write_json(output, result)
    logger = logging.getLogger(__name__)
    logger.info(f"{result['processor']}, {result['threads']} threads:\n{benchmark_table(result)}")
    logger.info(f"written to '{output}'")


def _command(args: argparse.Namespace) -> str:
    classes = [str(k) for k in args.num_classes]
    parts = ["seg-every-thing", "benchmark", "--suite", args.suite, "--output", args.output]
    parts += ["--num-classes", *classes, "--rois", str(args.rois)]
    parts += ["--repeats", str(args.repeats), "--device", args.device]
    return shlex.join(parts)
