"""`seg-every-thing demo`: a model's predictions on images, folders of images, and videos."""

import argparse
import logging
import os
from pathlib import Path
from typing import Optional, Sequence, Tuple, Union

from detectron2.config import CfgNode

from ..config import load_config
from ..engine.predictor import build_predictor
from ..engine.semantic_trainer import SemanticTrainer, trainer_class
from ..export.predictor import Predictor, config_in, is_export, load_predictor
from ..files import check_targets
from ..visualization.pictures import check_pictures, find_inputs
from ..visualization.result_folder import ResultFolder
from .common import add_config_arguments, add_partial_checkpoint_argument
from .demo_instances import InstanceDemo
from .demo_run import FILES, draw_pictures
from .demo_semantic import SemanticDemo

logger = logging.getLogger(__name__)

HELP = "Draw predictions on images, folders of images or videos; write results and a gallery."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        *("--input", "-i"),
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, folders of images, videos",
    )
    parser.add_argument(
        *("--output", "-o"),
        required=True,
        metavar="DIR",
        help="gets a picture for each image, index.html, predictions.json (COCO results) and "
        "images.json (COCO images and categories that the results refer to); from models that "
        "label pixels the labels of each image; failed.json where something failed. What a former "
        "run wrote there is replaced, other files stay",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="T",
        help="drop instances of a lower score (default %(default)s)",
    )
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help="keep these classes alone: names with commas between them, or a file with one a line; "
        "a name may be the data set's (truck.n.01) or the one that is drawn (truck)",
    )
    parser.add_argument(
        "--max-instances",
        type=int,
        default=40,
        metavar="N",
        help="draw the N instances of the highest scores; the results hold all "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--boxes",
        metavar="FILE",
        help="JSON: predict masks for these boxes, too; COCO annotations, or a list of results "
        "with file_name, category_name and bbox",
    )
    parser.add_argument(
        "--add-class",
        action="append",
        default=[],
        metavar="NAME=FILE.npy",
        help="give the model another class by its vector; for models whose T takes embeddings. "
        "Masks come from T, boxes of the class from --boxes. May be given several times",
    )
    parser.add_argument(
        "--frame-step",
        type=int,
        default=10,
        metavar="N",
        help="use each N-th frame of a video (default %(default)s)",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="in the place of --config-file: a model with its config, the OUTPUT_DIR of a training "
        "or the folder of an export",
    )
    add_partial_checkpoint_argument(parser)
    add_config_arguments(parser, required=False)


def run(args: argparse.Namespace) -> int:
    """Run the command.  All input is checked before the model sees any of it.

    Returns:
        The exit code: 0, or 2 when inputs failed and others did not.

    Raises:
        ValueError: for bad arguments, or when no input can be used; the message names it.
        OSError: when the output cannot be written.
    """
    if not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold must be between 0 and 1, not {args.threshold}")
    if args.frame_step < 1:
        raise ValueError(f"--frame-step must be at least 1, not {args.frame_step}")
    if args.max_instances < 1:
        raise ValueError(f"--max-instances must be at least 1, not {args.max_instances}")
    files = find_inputs(args.input)
    cfg, exported = _model(args)
    _check_output(args, cfg, files)
    folder = ResultFolder(args.output)
    folder.check(FILES)
    demo: Union[SemanticDemo, InstanceDemo]
    if trainer_class(cfg) is SemanticTrainer:
        demo = SemanticDemo(args, cfg)
        files, total, failures = check_pictures(files, args.frame_step)
        predictor = build_predictor(cfg, args.allow_partial_checkpoint)
    else:
        demo = InstanceDemo(args, cfg, None if exported is None else exported.vocabulary)
        files, total, failures = check_pictures(files, args.frame_step)
        demo.read_boxes(files)
        predictor = exported or build_predictor(cfg, args.allow_partial_checkpoint)
        demo.add_classes(predictor)
    return draw_pictures(demo, predictor, files, total, args.frame_step, folder, failures)


def _model(args: argparse.Namespace) -> Tuple[CfgNode, Optional[Predictor]]:
    """The config of the model, and its predictor where that is an export."""
    if args.model is None and args.config_file is None:
        raise ValueError("which model? Give --config-file FILE (with --opts), or --model DIR")
    if args.model is None:
        return load_config(args.config_file, args.opts), None
    if args.config_file is not None or args.opts:
        raise ValueError(
            "--model is a folder with its own config: leave out --config-file and --opts"
        )
    args.config_file = str(args.model / "config.yaml")  # which the page names
    cfg = config_in(args.model)
    if not is_export(args.model):
        return cfg, None
    if args.add_class:
        raise ValueError(
            "--add-class needs a checkpoint: in an export T has been evaluated, and is gone"
        )
    if args.threshold < cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST:
        logger.warning(
            "The export finds no objects of a score below %g: MODEL.ROI_HEADS.SCORE_THRESH_TEST",
            cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
        )
    return cfg, load_predictor(args.model)


def _check_output(args: argparse.Namespace, cfg: CfgNode, files: Sequence[Path]) -> None:
    """Let no file that is read be written over."""
    output = Path(args.output)
    for file in files:  # the names of pictures are those of the inputs
        folders = [os.path.realpath(file.parent), os.path.dirname(os.path.realpath(file))]
        if os.path.realpath(output) in folders:
            raise ValueError(f"--output '{output}' holds the input '{file}': give another folder")
    vectors = [text.partition("=")[2].strip() for text in args.add_class]
    check_targets(
        [args.config_file, cfg.MODEL.WEIGHTS, args.boxes, args.classes, *vectors],
        [output / name for name in FILES],
    )
