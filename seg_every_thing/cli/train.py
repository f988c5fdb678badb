"""`seg-every-thing train`, and `projects_train_net.py` in a checkout: train or evaluate a model."""

import argparse

from ..engine.launch import OWN_DATA_CONFIG, launch_training, own_data_options
from .common import add_force_argument, add_partial_checkpoint_argument

HELP = "train or evaluate a model, with the arguments of detectron2's train_net.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--config-file",
        metavar="F",
        help="a YAML config: a path, or a name of the model zoo (coco/maskx_R_50_FPN_1x.yaml); "
        f"for own data by default {OWN_DATA_CONFIG}, small and without a download",
    )
    for part, what in (("train", "to train on"), ("val", "to evaluate")):
        parser.add_argument(
            f"--{part}-json",
            action="append",
            default=[],
            metavar="F.json",
            help=f"own COCO-format annotations {what}; may be given several times",
        )
        parser.add_argument(
            f"--{part}-images",
            action="append",
            default=[],
            metavar="DIR",
            help=f"the images of --{part}-json: once for each file, or once for all",
        )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS")
    add_partial_checkpoint_argument(parser)
    add_force_argument(parser)
    parser.add_argument(
        "--num-gpus", type=int, default=1, metavar="N", help="of a machine; without GPUs: processes"
    )
    parser.add_argument("--num-machines", type=int, default=1, metavar="M", help="(%(default)s)")
    parser.add_argument("--machine-rank", type=int, default=0, metavar="I", help="of this machine")
    parser.add_argument(
        "--dist-url",
        default="auto",
        metavar="URL",
        help="where processes meet (tcp://HOST:PORT); needed with several machines",
    )
    # Last, with "--opts" as in the other commands, or without as in detectron2.
    overrides = "config overrides; must come last"
    parser.add_argument(
        "--opts",
        dest="more_opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help=overrides,
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help=overrides)


def run(args: argparse.Namespace) -> None:
    """Train or evaluate.

    Raises:
        ValueError: for bad input; the message names it.
        OSError: when the output folder cannot be written.
    """
    own = own_data_options(args.train_json, args.train_images, args.val_json, args.val_images)
    if args.config_file is None:
        if not own:
            raise ValueError("give --config-file F, or own data with --train-json, --train-images")
        args.config_file = OWN_DATA_CONFIG
    args.opts = [*own, *args.more_opts, *args.opts]
    launch_training(args)
