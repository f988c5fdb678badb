"""`seg-every-thing export`: a trained model for programs that do not have this package."""

import argparse
import logging

from ..config import load_config
from ..export.stock import export_stock
from ..export.to_onnx import export_onnx
from ..export.to_openvino import export_openvino
from ..export.to_torchscript import export_torchscript
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
        ValueError: for a model that the format cannot hold; the message names the config key.
        OSError: when the output cannot be written.
    """
    cfg = load_config(args.config_file, args.opts)
    logger.info("Written: %s", FORMATS[args.format](cfg, args.output))
