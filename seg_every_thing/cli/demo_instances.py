"""The part of `seg-every-thing demo` for models that find objects."""

import argparse
import logging
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from ..annotation.given_boxes import GivenBox, assign_boxes, read_given_boxes
from ..data.vocabulary import Vocabulary, class_filter, vocabulary_of
from ..engine.box_prompts import predict_masks
from ..modeling.add_class import add_class, read_class_vector
from ..visualization.class_colors import kind_of
from ..visualization.drawing import draw_instances
from ..visualization.gallery import write_gallery
from ..visualization.pictures import Failures, Picture
from ..visualization.result_folder import ResultFolder
from .demo_run import Done, Drawn

logger = logging.getLogger(__name__)

_Given = Sequence[Tuple[GivenBox, int]]  # boxes of a picture, with their class indices


class InstanceDemo:
    """Objects: a picture of each image with its objects, and COCO results."""

    endings: Sequence[str] = (".jpg",)

    def __init__(
        self, args: argparse.Namespace, cfg: CfgNode, vocabulary: Optional[Vocabulary] = None
    ) -> None:
        """
        Args:
            args: of the command.
            cfg: of the model; its threshold becomes that of the command.
            vocabulary: of the model; None = that of the config's data set.

        Raises:
            ValueError: for classes that the data set does not have, or vectors that do not fit.
        """
        for head in (cfg.MODEL.ROI_HEADS, cfg.MODEL.RETINANET):
            head.SCORE_THRESH_TEST = args.threshold  # else the config's could be higher
        self._args = args
        self._cfg = cfg
        self._vocabulary, self._vectors = _with_added_classes(
            vocabulary or vocabulary_of(cfg), args
        )
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

    def add_classes(self, predictor: DefaultPredictor) -> None:
        """Give its model the classes of ``--add-class``.

        Raises:
            ValueError: for a vector that does not fit the model.
        """
        for name, vector in self._vectors.items():
            add_class(predictor.model, name, vector)

    def draw(self, predictor: DefaultPredictor, picture: Picture) -> Drawn:
        """Find the objects; the results are those of COCO, without the id of their image."""
        vocabulary, most = self._vocabulary, self._args.max_instances
        instances = self._predict(predictor, picture)
        drawn = draw_instances(
            *(picture.image, instances, vocabulary.display_names, vocabulary.set_a),
            self._args.threshold,
            max_instances=most,
            added=vocabulary.added,
        )
        results = instances_to_coco_json(instances, 0)
        classes = [result["category_id"] for result in results]
        more = len(classes) - most
        left_out = f"; {more} more of lower scores not drawn" if more > 0 else ""
        return Drawn([drawn], _count(classes, vocabulary) + left_out, results)

    def _predict(self, predictor: DefaultPredictor, picture: Picture) -> Instances:
        """What the detector finds, and masks for the given boxes; of the wanted classes."""
        given = self._given.get(picture.name, ())
        found = [predictor(picture.image)["instances"].to("cpu")] if self._finds_boxes else []
        if given or not self._finds_boxes:
            boxes = np.array([box.box for box, _ in given])
            masked = predict_masks(predictor, picture.image, boxes, [index for _, index in given])
            masked.scores = torch.tensor([box.score for box, _ in given])
            found.append(masked)
        instances = Instances.cat(found)
        instances = instances[instances.scores >= self._args.threshold]
        if self._wanted is not None:
            instances = instances[torch.isin(instances.pred_classes, self._wanted)]
        return instances

    def write(
        self, folder: ResultFolder, done: Sequence[Done], failures: Failures, remark: str
    ) -> None:
        """Write ``predictions.json`` (COCO results), ``images.json`` (the COCO images and
        categories that they refer to) and ``index.html``.
        """
        vocabulary = self._vocabulary
        images: List[Dict[str, Any]] = []
        results: List[Dict[str, Any]] = []
        classes: List[int] = []
        for id_, d in enumerate(done, 1):
            height, width = d.size
            images.append({"id": id_, "file_name": d.name, "width": width, "height": height})
            images[-1]["picture"] = d.files[0]
            for result in d.results:
                classes.append(result["category_id"])
                category_id = vocabulary.category_ids[result["category_id"]]
                identity = {"image_id": id_, "category_id": category_id, "file_name": d.name}
                results.append({**result, **identity})
        content = {"images": images, "annotations": [], "categories": _categories(vocabulary)}
        folder.write_json("images.json", content)
        folder.write_json("predictions.json", results)
        counts = _count(classes, vocabulary)
        page = folder.path / "index.html"
        write_gallery(
            *(page, "Predictions", self._intro(counts, len(done), remark)),
            *([d.item() for d in done], failures.table()),
            with_sets=vocabulary.set_a is not None,
            with_added=bool(vocabulary.added),
        )
        folder.note(page.name)
        unused = self._given.keys() - {d.name for d in done} - {f.name for f in failures}
        if unused:
            logger.warning("--boxes: no such frame: %s", ", ".join(sorted(unused)[:5]))
        logger.info("%s in %d pictures: %s", counts, len(done), page)

    def _intro(self, counts: str, num_pictures: int, remark: str) -> str:
        args, cfg, vocabulary = self._args, self._cfg, self._vocabulary
        text = (
            f"{counts} with a score of at least {args.threshold:g} in {num_pictures} pictures. "
            f"{remark}\n\nConfig: {args.config_file}. Weights: {cfg.MODEL.WEIGHTS or 'random'}. "
            f"Class split: {cfg.TEST.CLASS_SPLIT or cfg.DATASETS.MASK_CLASSES}."
        )
        if args.classes is not None:
            text += f" Classes: {args.classes}."
        if args.boxes is not None:
            text += f"\n\nThe detector's own boxes, and those of {args.boxes}."
        if vocabulary.added:
            names = ", ".join(vocabulary.names[i] for i in sorted(vocabulary.added))
            text += f" Added classes, whose boxes were all given: {names}."
        return text


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
