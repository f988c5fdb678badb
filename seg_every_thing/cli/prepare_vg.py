"""`seg-every-thing prepare-vg`: Visual Genome as COCO-format files with COCO's classes first."""

import argparse
from pathlib import Path

from ..data.datasets.vg_classes import parse_synsets
from ..data.json_stream import read_lines
from ..data.prepare.vg_prepare import output_files, prepare_visual_genome
from ..files import check_targets

HELP = "turn Visual Genome's files into COCO-format data sets of 3001 classes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--image-data", required=True, type=Path, metavar="FILE", help="image_data.json or its .zip"
    )
    parser.add_argument(
        "--objects",
        required=True,
        type=Path,
        metavar="FILE",
        help="objects.json of version 1.4, or its .zip",
    )
    parser.add_argument("--output", required=True, metavar="DIR")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--num-classes",
        type=int,
        default=3000,
        metavar="N",
        help="use the N most frequent synsets (%(default)s), joined with COCO's classes",
    )
    chosen.add_argument(
        "--synsets", type=Path, metavar="LIST.txt", help="use these synsets instead, one a line"
    )
    parser.add_argument(
        "--coco-annotations",
        type=Path,
        metavar="FILE",
        help="instances_val2017.json, or a .txt of COCO image ids: these images are val "
        "(default: $DETECTRON2_DATASETS/coco/annotations/instances_val2017.json)",
    )
    parser.add_argument(
        "--num-test",
        type=int,
        default=5000,
        metavar="N",
        help="the last N images outside COCO are test (%(default)s)",
    )
    parser.add_argument(
        "--num-val", type=int, metavar="N", help="keep only the first N images of val"
    )


def run(args: argparse.Namespace) -> None:
    """Read, choose classes, write."""
    if not args.output:
        raise ValueError("--output is empty: name a folder, or '.' for this one")
    output = Path(args.output)
    check_targets([args.synsets], output_files(output))
    synsets = None
    if args.synsets is not None:
        synsets = parse_synsets(read_lines(args.synsets), str(args.synsets))
    prepare_visual_genome(
        args.image_data,
        args.objects,
        output,
        num_classes=args.num_classes,
        synsets=synsets,
        coco_annotations=args.coco_annotations,
        num_test=args.num_test,
        num_val=args.num_val,
    )
