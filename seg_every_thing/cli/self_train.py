"""`seg-every-thing self-train`: a teacher predicts missing masks, a student learns from them."""

import argparse
from pathlib import Path

from ..engine.self_training import self_train
from .common import add_config_arguments, add_force_argument

HELP = "train on masks that a model predicts for objects that have none, in rounds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--rounds",
        type=int,
        default=1,
        metavar="N",
        help="students after the teacher (%(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="gets round_0 (the teacher), round_1 ...; what is complete there is used again",
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="of a training; without GPUs: processes",
    )
    add_force_argument(parser)
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Train what is missing, then write results.json and results.md.

    Raises:
        ValueError: for bad input; the message names it.
        OSError: when the output folder cannot be written.
    """
    self_train(args.config_file, args.rounds, args.output, args.opts, args.num_gpus, args.force)
