"""`seg-every-thing demo`: a model's predictions on images, folders of images, and videos."""

import argparse
import logging
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Set, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from ..annotation.given_boxes import GivenBox, assign_boxes, predict_masks, read_given_boxes
from ..checkpoint.safe_checkpointer import SafeCheckpointer
from ..config import load_config
from ..data.vocabulary import Vocabulary, class_filter, classes_of, vocabulary_of
from ..engine.semantic_trainer import SemanticTrainer, trainer_class
from ..engine.trainer import readable_checkpoint
from ..files import make_output_dir, write_json
from ..modeling.add_class import add_class, read_class_vector
from ..visualization.class_colors import kind_of
from ..visualization.drawing import draw_instances, save_picture
from ..visualization.gallery import GalleryItem, write_gallery
from ..visualization.pictures import (
    PictureProgress,
    count_pictures,
    find_inputs,
    read_pictures,
    unused_name,
)
from .common import add_config_arguments
from .demo_semantic import check_arguments, draw_labels

__all__ = [
    "add_arguments",
    "build_predictor",
    "classes_of",
    "count_pictures",
    "read_pictures",
    "run",
]

logger = logging.getLogger(__name__)

HELP = "Draw predictions on images, folders of images or videos; write results and a gallery."

_Given = Sequence[Tuple[GivenBox, int]]  # boxes of a picture, with their class indices


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
        "label pixels the labels of each image",
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
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command.  All input is checked before the model sees any of it.

    Raises:
        ValueError: for bad input; the message names it.
        OSError: when the output cannot be written.
    """
    if not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold must be between 0 and 1, not {args.threshold}")
    if args.frame_step < 1:
        raise ValueError(f"--frame-step must be at least 1, not {args.frame_step}")
    if args.max_instances < 1:
        raise ValueError(f"--max-instances must be at least 1, not {args.max_instances}")
    output = Path(args.output)
    files = find_inputs(args.input)
    for file in files:
        if file.resolve().parent == output.resolve():
            raise ValueError(f"--output '{output}' holds the input '{file}': give another folder")
    cfg = load_config(args.config_file, args.opts)
    if trainer_class(cfg) is SemanticTrainer:
        check_arguments(args)
        total = count_pictures(files, args.frame_step)
        draw_labels(args, cfg, build_predictor(cfg), files, total)
        return
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = args.threshold  # else the config's could be higher
    vocabulary, vectors = _with_added_classes(vocabulary_of(cfg), args)
    wanted = class_filter(args.classes, vocabulary) if args.classes is not None else None
    total = count_pictures(files, args.frame_step)
    given: Mapping[str, _Given] = {}
    if args.boxes is not None:
        given = assign_boxes(read_given_boxes(args.boxes), files, vocabulary, args.boxes)
        _warn_of_absent_classes(given, vocabulary, args.boxes)
    predictor = build_predictor(cfg)
    for name, vector in vectors.items():
        add_class(predictor.model, name, vector)
    make_output_dir(output)

    images: List[Dict[str, Any]] = []
    results: List[Dict[str, Any]] = []
    items: List[GalleryItem] = []
    found: List[int] = []
    used: Set[str] = set()
    progress = PictureProgress(total)
    for picture in read_pictures(files, args.frame_step):
        instances = _predict(predictor, picture.image, given.get(picture.name, ()))
        instances = instances[instances.scores >= args.threshold]
        if wanted is not None:
            instances = instances[torch.isin(instances.pred_classes, torch.tensor([*wanted]))]
        drawn = draw_instances(
            *(picture.image, instances, vocabulary.display_names, vocabulary.set_a, args.threshold),
            max_instances=args.max_instances,
            added=vocabulary.added,
        )
        target = unused_name(picture.stem, used) + ".jpg"
        save_picture(output / target, drawn)
        height, width = picture.image.shape[:2]
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": picture.name, "width": width, "height": height})
        images[-1]["picture"] = target
        for result in instances_to_coco_json(instances, image_id):
            result["category_id"] = vocabulary.category_ids[result["category_id"]]
            results.append({**result, "file_name": picture.name})
        classes = instances.pred_classes.tolist()
        found += classes
        more = len(classes) - args.max_instances
        left_out = f"; {more} more of lower scores not drawn" if more > 0 else ""
        items.append(
            GalleryItem(target, f"{picture.name}: {_count(classes, vocabulary)}{left_out}")
        )
        progress.step()

    content = {"images": images, "annotations": [], "categories": _categories(vocabulary)}
    write_json(output / "images.json", content)
    write_json(output / "predictions.json", results)
    counts = _count(found, vocabulary)
    _write_page(output / "index.html", args, cfg, items, counts, vocabulary)
    unused = given.keys() - {image["file_name"] for image in images}
    if unused:
        logger.warning("--boxes: no such frame: %s", ", ".join(sorted(unused)[:5]))
    logger.info("%s in %d pictures: %s", counts, len(images), output / "index.html")


def build_predictor(cfg: CfgNode) -> DefaultPredictor:
    """detectron2's predictor with the weights of ``MODEL.WEIGHTS``; "" = random weights.

    Raises:
        ValueError: when the config does not fit or the checkpoint cannot be read.
    """
    without_weights = cfg.clone()
    without_weights.MODEL.WEIGHTS = ""
    # In two steps, so that a mistake in the config is not taken for a broken checkpoint.
    predictor = DefaultPredictor(without_weights)
    if not cfg.MODEL.WEIGHTS:
        logger.warning("MODEL.WEIGHTS is empty: the weights are random, the predictions noise")
        return predictor
    with readable_checkpoint(cfg.MODEL.WEIGHTS):
        SafeCheckpointer(predictor.model).load(cfg.MODEL.WEIGHTS)
    return predictor


def _with_added_classes(
    vocabulary: Vocabulary, args: argparse.Namespace
) -> Tuple[Vocabulary, Dict[str, np.ndarray]]:
    """The vocabulary with the classes of ``--add-class`` at its end, and their vectors by name."""
    vectors: Dict[str, np.ndarray] = {}
    for text in args.add_class:
        name, _, path = (part.strip() for part in text.partition("="))
        if not name or not path:
            raise ValueError(f"--add-class '{text}': expected NAME=FILE.npy")
        try:
            vocabulary = vocabulary.with_class(name)
            vectors[name] = read_class_vector(path)
        except ValueError as e:
            raise ValueError(f"--add-class: {e}") from e
    if vectors and args.boxes is None:
        raise ValueError(
            f"--add-class needs --boxes: the detector has no box weights for "
            f"'{next(iter(vectors))}' and cannot find it, so its boxes must be given"
        )
    return vocabulary, vectors


def _warn_of_absent_classes(
    given: Mapping[str, _Given], vocabulary: Vocabulary, source: str
) -> None:
    present = {index for pairs in given.values() for _, index in pairs}
    absent = [vocabulary.names[i] for i in sorted(vocabulary.added - present)]
    if absent:
        logger.warning("--boxes '%s' has no box of the added %s", source, ", ".join(absent))


def _predict(predictor: DefaultPredictor, image: np.ndarray, given: _Given) -> Instances:
    """What the detector finds, and masks for the given boxes."""
    instances = predictor(image)["instances"].to("cpu")
    if not given:
        return instances
    boxes = np.array([box.box for box, _ in given])
    masked = predict_masks(predictor, image, boxes, [index for _, index in given])
    masked.scores = torch.tensor([box.score for box, _ in given])
    return Instances.cat([instances, masked])


def _count(classes: Sequence[int], vocabulary: Vocabulary) -> str:
    text = f"{len(classes)} instance{'' if len(classes) == 1 else 's'}"
    kinds = Counter(kind_of(c, vocabulary.set_a, vocabulary.added) for c in classes)
    parts = []
    if kinds and vocabulary.set_a is not None:
        parts = [f"{kinds['A']} of set A", f"{kinds['B']} of set B"]
    if kinds["new"]:
        parts.append(f"{kinds['new']} of added classes")
    return text + (f" ({', '.join(parts)})" if parts else "")


def _categories(vocabulary: Vocabulary) -> List[Dict[str, Any]]:
    categories: List[Dict[str, Any]] = []
    for id_, name, shown in zip(
        vocabulary.category_ids, vocabulary.names, vocabulary.display_names
    ):
        categories.append({"id": id_, "name": name})
        if shown != name:
            categories[-1]["display_name"] = shown
    return categories


def _write_page(
    path: Path,
    args: argparse.Namespace,
    cfg: CfgNode,
    items: Sequence[GalleryItem],
    counts: str,
    vocabulary: Vocabulary,
) -> None:
    split = cfg.TEST.CLASS_SPLIT or cfg.DATASETS.MASK_CLASSES
    intro = (
        f"{counts} with a score of at least {args.threshold:g} in {len(items)} pictures.\n\n"
        f"Config: {args.config_file}. Weights: {cfg.MODEL.WEIGHTS or 'random'}. "
        f"Class split: {split}."
    )
    if args.classes is not None:
        intro += f" Classes: {args.classes}."
    if args.boxes is not None:
        intro += f"\n\nThe detector's own boxes, and those of {args.boxes}."
    if vocabulary.added:
        names = ", ".join(vocabulary.names[i] for i in sorted(vocabulary.added))
        intro += f" Added classes, whose boxes were all given: {names}."
    with_sets, with_added = vocabulary.set_a is not None, bool(vocabulary.added)
    write_gallery(path, "Predictions", intro, items, with_sets=with_sets, with_added=with_added)
