"""`seg-every-thing align`: one data set's annotations in the classes of another."""

import argparse
from pathlib import Path

from ..data.prepare.align import align, default_report
from ..data.prepare.class_matching import read_extra_map
from ..files import check_targets

HELP = "rewrite COCO-format annotations into the classes of another data set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument(
        "--source", required=True, type=Path, metavar="A.json", help="annotations to rewrite"
    )
    parser.add_argument(
        "--target", required=True, type=Path, metavar="B.json", help="has the classes to use"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="OUT.json")
    parser.add_argument(
        "--by", required=True, choices=("name", "synset"), help="what tells that classes are equal"
    )
    parser.add_argument(
        "--map",
        type=Path,
        metavar="EXTRA.json",
        help="JSON object: source class -> target class, or null to leave it out; goes first",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE.json", help="default: OUT_report.json beside OUT.json"
    )


def run(args: argparse.Namespace) -> None:
    """Match the classes, write the file and the report."""
    check_targets([args.map], [args.output, args.report or default_report(args.output)])
    align(
        args.source,
        args.target,
        args.output,
        by=args.by,
        extra=None if args.map is None else read_extra_map(args.map),
        report=args.report,
    )
