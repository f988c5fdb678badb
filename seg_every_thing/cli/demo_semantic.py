"""The part of `seg-every-thing demo` for models that label pixels: FCN, FC-DenseNet."""

import argparse
import logging
from typing import Sequence

import numpy as np
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from ..visualization.gallery import write_gallery
from ..visualization.label_maps import colors_of_config, enlarged, overlaid
from ..visualization.panels import side_by_side
from ..visualization.pictures import Failures, Picture
from ..visualization.result_folder import ResultFolder
from .demo_run import Done, Drawn

logger = logging.getLogger(__name__)

_OF_INSTANCES = ("classes", "boxes", "add_class")
_NAMED = 4  # classes in a caption


class SemanticDemo:
    """Labels of pixels: a picture beside its labels in colours, and the labels as a picture."""

    endings: Sequence[str] = (".jpg", "_labels.png")

    def __init__(self, args: argparse.Namespace, cfg: CfgNode) -> None:
        """
        Args:
            args: of the command.
            cfg: of the model.

        Raises:
            ValueError: for an argument that only models that find objects have, or another number
                of classes than the data set's.
        """
        for name in _OF_INSTANCES:
            if getattr(args, name):
                raise ValueError(
                    f"--{name.replace('_', '-')} needs a model that finds objects; "
                    f"'{args.config_file}' labels pixels"
                )
        self._args = args
        self._cfg = cfg
        self._colors = colors_of_config(cfg)

    def draw(self, predictor: DefaultPredictor, picture: Picture) -> Drawn:
        """Label the pixels; the results are the share of each class in percent."""
        scores = predictor(picture.image)["sem_seg"]
        label = scores.argmax(0).cpu().numpy().astype(np.uint8)
        drawn = overlaid(picture.image, label, list(self._colors.values()))
        panels = [("image", enlarged(picture.image)), ("labels", enlarged(drawn))]
        counts = np.bincount(label.ravel(), minlength=len(self._colors)).tolist()
        shares = {name: 100 * count / label.size for name, count in zip(self._colors, counts)}
        most = sorted(shares, key=lambda name: -shares[name])[:_NAMED]
        text = ", ".join(f"{name} {shares[name]:.0f} %" for name in most if shares[name] >= 0.5)
        return Drawn((side_by_side(panels), label), text, shares)

    def write(
        self, folder: ResultFolder, done: Sequence[Done], failures: Failures, remark: str
    ) -> None:
        """Write ``predictions.json`` (file names, shares of the classes) and ``index.html``."""
        results = [
            {
                **{"file_name": d.name, "picture": d.files[0], "labels": d.files[1]},
                "shares": d.results,
            }
            for d in done
        ]
        folder.write_json("predictions.json", results)
        weights = self._cfg.MODEL.WEIGHTS or "random"
        intro = f"Config: {self._args.config_file}. Weights: {weights}.\n\n{remark}"
        page = folder.path / "index.html"
        items = [d.item() for d in done]
        write_gallery(page, "Predictions", intro, items, failures.table(), colors=self._colors)
        folder.note(page.name)
        logger.info("%d pictures: %s", len(done), page)
