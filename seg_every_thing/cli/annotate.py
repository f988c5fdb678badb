"""`seg-every-thing annotate`: boxes of a data set in, masks out."""

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any, Dict

from ..annotation.annotator import annotate_file, dry_run
from ..annotation.applying import apply_review
from ..annotation.formats.conversion import (
    READERS,
    WRITERS,
    boxes_as_coco,
    check_places,
    write_as,
)
from ..annotation.options import DEFAULT_CONFIG, FORMATS, ON_EMPTY, PARTS, Options, read_shard
from .common import add_force_argument, add_partial_checkpoint_argument

HELP = "give every object of a COCO file that has a box and no mask its mask"

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add, default = parser.add_argument, "(default %(default)s)"
    add("--annotations", type=Path, required=True, metavar="IN.json", help="boxes, COCO format")
    add(
        "--from",
        dest="source_format",
        choices=list(READERS),
        help="the format of --annotations, if not COCO; OUT_boxes.json gets them as COCO",
    )
    add("--classes", type=Path, metavar="F", help="names of YOLO's classes, where none are found")
    add(
        "--to",
        dest="formats",
        choices=list(WRITERS),
        action="append",
        default=[],
        help="write another format, too, beside OUT.json; may be given several times",
    )
    add("--image-root", type=Path, required=True, metavar="DIR", help="folder of the images")
    add(
        "--output",
        type=Path,
        required=True,
        metavar="OUT.json",
        help="the same with masks; beside it OUT_report.json, and OUT_model/ where one is trained",
    )
    add(
        "--config-file",
        metavar="F",
        help=f"with --opts MODEL.WEIGHTS W a trained model; without, one is trained on the data "
        f"({DEFAULT_CONFIG} by default)",
    )
    add(
        "--model",
        type=Path,
        metavar="DIR",
        help="a model with its config: the OUTPUT_DIR of a training, or the folder of an export",
    )
    add(
        "--minutes",
        type=float,
        metavar="M",
        help="for all of it; training takes what making the masks leaves, and ends in time; the "
        "masks themselves take as long as they take",
    )
    add("--rounds", type=int, default=0, metavar="N", help=f"of self-training {default}")
    add(
        "--holdout",
        type=float,
        default=0.1,
        metavar="S",
        help=f"share of the masks of each class that measure quality {default}",
    )
    add("--format", choices=FORMATS, default="rle", help=f"of masks {default}")
    add("--parts", choices=PARTS, default="all", help=f"of a mask that are kept {default}")
    add("--overwrite", action="store_true", help="replace masks that are there, too")
    add("--min-score", type=float, default=0.0, metavar="S", help="below, an object stays a box")
    add(
        "--on-empty",
        choices=ON_EMPTY,
        default="box",
        help=f"where nothing is found: the whole box, no mask, or no object {default}",
    )
    add("--tighten-boxes", action="store_true", help="boxes become those of the masks made")
    add(
        "--crowd-rle-is-mask",
        action="store_true",
        help="iscrowd 1 with an RLE is a mask, as in exports of CVAT, and becomes 0",
    )
    add("--reindex-categories", action="store_true", help="category ids become 1, 2, ...")
    add("--report", type=Path, metavar="DIR", help="gets index.html, a page to review the masks")
    add("--num-gpus", type=int, default=1, metavar="N", help="without GPUs: processes")
    add(
        "--shard",
        metavar="I/N",
        help="make the masks of every N-th image only; a run without it joins all",
    )
    add(
        "--apply-review",
        type=Path,
        metavar="F.json",
        help="decisions of the review page on --annotations, which annotate wrote: rejected masks "
        "become boxes again",
    )
    add(
        "--learn",
        action="store_true",
        help="with --apply-review: accepted masks train a model that makes all others anew",
    )
    add("--dry-run", action="store_true", help="check all input, say what would be done")
    add_partial_checkpoint_argument(parser)
    moved = "although another program uses the output, or the images have moved since it began"
    add_force_argument(parser, moved)
    add(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides; must come last",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        The exit code: 0, or 2 when images failed and others did not.

    Raises:
        ValueError: for bad input; the message names it.
        OSError: when something cannot be written.
    """
    check_places(args.formats, args.output)
    with tempfile.TemporaryDirectory() as folder:
        annotations = args.annotations
        if args.source_format is not None:
            beside = args.output.with_name(f"{args.output.stem}_boxes.json")
            # A dry run leaves nothing.
            annotations = Path(folder) / beside.name if args.dry_run else beside
            boxes_as_coco(
                *(args.annotations, args.source_format, args.image_root, annotations),
                classes=args.classes,
            )
        report = _annotate(args, annotations)
    if not args.dry_run and args.shard is None:
        for format in args.formats:
            write_as(format, args.output, args.image_root)
    return 2 if report["failed_images"] else 0


def _annotate(args: argparse.Namespace, annotations: Path) -> Dict[str, Any]:
    """Run it on a COCO file; returns the report."""
    options = Options(
        annotations=annotations,
        image_root=args.image_root,
        output=args.output,
        config_file=args.config_file,
        opts=tuple(args.opts),
        model=args.model,
        allow_partial=args.allow_partial_checkpoint,
        minutes=args.minutes,
        rounds=args.rounds,
        holdout=args.holdout,
        format=args.format,
        parts=args.parts,
        overwrite=args.overwrite,
        min_score=args.min_score,
        on_empty=args.on_empty,
        tighten_boxes=args.tighten_boxes,
        crowd_rle_is_mask=args.crowd_rle_is_mask,
        reindex_categories=args.reindex_categories,
        report=args.report,
        num_gpus=args.num_gpus,
        shard=read_shard(args.shard) if args.shard else None,
        force=args.force,
    )
    if args.learn and args.apply_review is None:
        raise ValueError("--learn needs --apply-review F.json: what was accepted")
    if args.apply_review is not None:
        return apply_review(options, args.apply_review, args.learn)
    if args.dry_run:
        report = dry_run(options)
        logger.info("A run would do this:\n%s", json.dumps(report, indent=1))
        return report
    return annotate_file(options)
