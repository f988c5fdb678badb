"""`seg-every-thing export`: a trained model for programs that do not have this package."""

import argparse
import logging
from pathlib import Path

from ..config import load_config
from ..export.layout import CONFIG
from ..export.stock import export_stock
from ..export.to_onnx import export_onnx
from ..export.to_openvino import export_openvino
from ..export.to_torchscript import export_torchscript
from ..files import check_targets
from ..model_zoo import find_config_file
from .common import add_config_arguments

HELP = "write a trained model for programs that do not have this package"

FORMATS = {
    "stock": export_stock,
    "torchscript": export_torchscript,
    "onnx": export_onnx,
    "openvino": export_openvino,
}

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for its files")
    parser.add_argument(
        "--format",
        required=True,
        choices=sorted(FORMATS),
        help="stock: model.pth and config.yaml for detectron2, T folded into its mask predictor; "
        "torchscript: for PyTorch and torchvision alone; onnx: for ONNX Runtime; "
        "openvino: fastest on a CPU, with this package",
    )
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Export the model.

    Raises:
        ValueError: for a model that the format cannot hold; the message names the config key; and
            for files that would be written over.
        OSError: when the output cannot be written.
    """
    cfg = load_config(args.config_file, args.opts)
    check_targets([find_config_file(args.config_file)], [Path(args.output) / CONFIG])
    logger.info("Written: %s", FORMATS[args.format](cfg, args.output))
