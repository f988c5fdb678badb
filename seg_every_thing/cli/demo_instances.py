"""The part of `seg-every-thing demo` for models that find objects."""

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
from ..data.vocabulary import Vocabulary, class_filter, vocabulary_of
from ..files import make_output_dir, write_json
from ..modeling.add_class import add_class, read_class_vector
from ..visualization.class_colors import kind_of
from ..visualization.drawing import draw_instances
from ..visualization.gallery import GalleryItem, write_gallery
from ..visualization.panels import save_picture
from ..visualization.pictures import PictureProgress, read_pictures, unused_name

logger = logging.getLogger(__name__)

_Given = Sequence[Tuple[GivenBox, int]]  # boxes of a picture, with their class indices


class InstanceDemo:
    """What is asked of a model that finds objects, checked before the model is built."""

    def __init__(self, args: argparse.Namespace, cfg: CfgNode) -> None:
        """
        Args:
            args: of the command.
            cfg: of the model; its threshold becomes that of the command.

        Raises:
            ValueError: for classes that the data set does not have, or vectors that do not fit.
        """
        cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = args.threshold  # else the config's could be higher
        self._args = args
        self._cfg = cfg
        self._vocabulary, self._vectors = _with_added_classes(vocabulary_of(cfg), args)
        self._wanted = None
        if args.classes is not None:
            self._wanted = torch.tensor([*class_filter(args.classes, self._vocabulary)])
        self._given: Mapping[str, _Given] = {}
        self._finds_boxes = cfg.MODEL.META_ARCHITECTURE != "BoxToMask"

    def read_boxes(self, files: Sequence[Path]) -> None:
        """Find the pictures and the classes of ``--boxes``, if there are any.

        Raises:
            ValueError: naming the box that fits no picture or class, or that all are missing.
        """
        source = self._args.boxes
        if source is None and not self._finds_boxes:
            raise ValueError(
                "the model of MODEL.META_ARCHITECTURE 'BoxToMask' finds no boxes: give them with "
                "--boxes FILE"
            )
        if source is not None:
            boxes = read_given_boxes(source)
            self._given = assign_boxes(boxes, files, self._vocabulary, source)
            _warn_of_absent_classes(self._given, self._vocabulary, source)

    def draw(self, predictor: DefaultPredictor, files: Sequence[Path], total: int) -> None:
        """Find the objects of every picture.

        Writes a picture with its objects for each, ``predictions.json`` (COCO results),
        ``images.json`` (COCO images and categories that the results refer to) and ``index.html``.

        Args:
            predictor: with its weights.
            files: images and videos.
            total: number of pictures in them.

        Raises:
            ValueError: when a class cannot be added to the model.
            OSError: when the output cannot be written.
        """
        args, vocabulary = self._args, self._vocabulary
        for name, vector in self._vectors.items():
            add_class(predictor.model, name, vector)
        output = make_output_dir(args.output)
        images: List[Dict[str, Any]] = []
        results: List[Dict[str, Any]] = []
        items: List[GalleryItem] = []
        found: List[int] = []
        used: Set[str] = set()
        progress = PictureProgress(total)
        for picture in read_pictures(files, args.frame_step):
            instances = self._predict(predictor, picture.image, self._given.get(picture.name, ()))
            drawn = draw_instances(
                *(picture.image, instances, vocabulary.display_names, vocabulary.set_a),
                args.threshold,
                max_instances=args.max_instances,
                added=vocabulary.added,
            )
            target = unused_name(picture.stem, used) + ".jpg"
            save_picture(output / target, drawn)
            height, width = picture.image.shape[:2]
            id_ = len(images) + 1
            images.append({"id": id_, "file_name": picture.name, "width": width, "height": height})
            images[-1]["picture"] = target
            for result in instances_to_coco_json(instances, id_):
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
        self._write_page(output / "index.html", items, counts)
        unused = self._given.keys() - {image["file_name"] for image in images}
        if unused:
            logger.warning("--boxes: no such frame: %s", ", ".join(sorted(unused)[:5]))
        logger.info("%s in %d pictures: %s", counts, len(images), output / "index.html")

    def _predict(self, predictor: DefaultPredictor, image: np.ndarray, given: _Given) -> Instances:
        """What the detector finds, and masks for the given boxes; of the wanted classes."""
        found = [predictor(image)["instances"].to("cpu")] if self._finds_boxes else []
        if given or not self._finds_boxes:
            boxes = np.array([box.box for box, _ in given])
            masked = predict_masks(predictor, image, boxes, [index for _, index in given])
            masked.scores = torch.tensor([box.score for box, _ in given])
            found.append(masked)
        instances = Instances.cat(found)
        instances = instances[instances.scores >= self._args.threshold]
        if self._wanted is not None:
            instances = instances[torch.isin(instances.pred_classes, self._wanted)]
        return instances

    def _write_page(self, path: Path, items: Sequence[GalleryItem], counts: str) -> None:
        args, cfg, vocabulary = self._args, self._cfg, self._vocabulary
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
