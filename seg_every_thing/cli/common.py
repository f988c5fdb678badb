"""Arguments that several commands share."""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Callable, Iterable

from ..config import load_config
from ..data.datasets.shapes import register_shapes
from ..files import check_targets

__all__ = [
    "add_config_arguments",
    "add_partial_checkpoint_argument",
    "add_shapes_study_arguments",
    "load_config",  # what the arguments name; scripts that stand beside the commands take it here
    "shapes_registration",
]


def add_config_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--config-file`` and ``--opts``."""
    parser.add_argument(
        "--config-file",
        required=required,
        metavar="FILE",
        help="a YAML config: a path, or a name of the model zoo (coco/maskx_R_50_FPN_1x.yaml)",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides; must come last",
    )


def add_partial_checkpoint_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-partial-checkpoint``."""
    parser.add_argument(
        "--allow-partial-checkpoint",
        action="store_true",
        help="use a checkpoint of another model, too, with what fits: the rest of the model keeps "
        "its random weights",
    )


def add_force_argument(
    parser: argparse.ArgumentParser, help: str = "although another program uses the output folder"
) -> None:
    """Add ``--force``."""
    parser.add_argument("--force", action="store_true", help=help)


def add_shapes_study_arguments(parser: argparse.ArgumentParser, jobs: int) -> None:
    """Add what commands that train rows on Shapes share; ``jobs`` is the default of ``--jobs``."""
    add_force_argument(parser)
    parser.add_argument(
        "--jobs", type=int, default=jobs, help="rows of Shapes that train at the same time"
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder of the data; default OUTPUT/data, where Shapes is drawn, and for other data "
        "$DETECTRON2_DATASETS",
    )
    parser.add_argument("--num-train", type=int, default=1500, help="training images to draw")
    parser.add_argument("--num-val", type=int, default=300, help="validation images to draw")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides for every row; must come last",
    )


def check_study_output(
    args: argparse.Namespace, seeds: Iterable[int], files: Iterable[str]
) -> None:
    """Let nothing that ``--opts`` or ``--data-root`` names be written over.

    Args:
        args: with "output" and what :func:`add_shapes_study_arguments` adds.
        seeds: their folders below the output are cleared before rows train.
        files: names of files below the output that are written at the end.

    Raises:
        ValueError: naming the file.
    """
    named = [value for value in args.opts if os.path.exists(value)]
    check_targets(
        [args.data_root, *named],
        [args.output / name for name in files],
        [args.output / f"seed{seed}" for seed in seeds],
    )


def shapes_registration(args: argparse.Namespace) -> Callable[[], None]:
    """What draws and registers Shapes as :func:`add_shapes_study_arguments` was told; picklable."""
    return partial(
        register_shapes,
        args.data_root or args.output / "data",
        num_train=args.num_train,
        num_val=args.num_val,
    )
