"""`seg-every-thing compare-masks`: masks that annotate made beside the true ones."""

import argparse
import logging
from pathlib import Path

from ..annotation.comparison import compare_masks, comparison_table
from ..files import check_targets, printable, write_json

HELP = "compare masks that annotate made with true ones, by class, and with the IoU it expected"

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("--masks", type=Path, required=True, metavar="F.json", help="what annotate wrote")
    add(
        "--reference",
        type=Path,
        required=True,
        metavar="F.json",
        help="COCO file with true masks, of the same annotation ids",
    )
    add(
        "--image-root",
        type=Path,
        metavar="DIR",
        help="folder of the images: compare with GrabCut, too (about a second an object)",
    )
    add("--output", type=Path, metavar="F.json", help="gets the table (default: none)")


def run(args: argparse.Namespace) -> None:
    """Compare, and log a table.

    Raises:
        ValueError: for files that cannot be read, or when there is nothing to compare.
        FileNotFoundError: when an image is missing.
        OSError: when the output cannot be written.
    """
    check_targets([args.masks, args.reference], [args.output])
    comparison = compare_masks(args.masks, args.reference, args.image_root)
    if args.output is not None:
        write_json(args.output, comparison)
    logger.info(
        "Masks of '%s' and true ones (mean IoU in percent):\n%s\nRank correlation of scores and "
        "IoUs: %.3f. Masks without a true one: %d",
        *(printable(args.masks), comparison_table(comparison)),
        *(comparison["rank_correlation"], comparison["without_reference"]),
    )
