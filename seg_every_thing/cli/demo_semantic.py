"""The part of `seg-every-thing demo` for models that label pixels: FCN, FC-DenseNet."""

import argparse
import logging
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set

import numpy as np
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from ..files import make_output_dir, write_json
from ..visualization.gallery import GalleryItem, write_gallery
from ..visualization.label_maps import colors_of_config, enlarged, overlaid
from ..visualization.panels import save_picture, side_by_side
from ..visualization.pictures import PictureProgress, read_pictures, unused_name

logger = logging.getLogger(__name__)

_OF_INSTANCES = ("classes", "boxes", "add_class")
_NAMED = 4  # classes in a caption


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what only models that find objects can do.

    Raises:
        ValueError: naming the argument.
    """
    for name in _OF_INSTANCES:
        if getattr(args, name):
            raise ValueError(
                f"--{name.replace('_', '-')} needs a model that finds objects; "
                f"'{args.config_file}' labels pixels"
            )


def draw_labels(
    args: argparse.Namespace,
    cfg: CfgNode,
    predictor: DefaultPredictor,
    files: Sequence[Path],
    total: int,
) -> None:
    """Label the pixels of every picture.

    Writes a picture beside its labels in colours, ``<name>_labels.png`` (class indices, grey),
    ``predictions.json`` (file names, share of each class in percent) and ``index.html``.

    Args:
        args: of the command.
        cfg: of the model.
        predictor: with its weights.
        files: images and videos.
        total: number of pictures in them.
    """
    colors = colors_of_config(cfg)
    output = make_output_dir(args.output)
    results: List[Dict[str, Any]] = []
    items: List[GalleryItem] = []
    used: Set[str] = set()
    progress = PictureProgress(total)
    for picture in read_pictures(files, args.frame_step):
        scores = predictor(picture.image)["sem_seg"]
        label = scores.argmax(0).cpu().numpy().astype(np.uint8)
        stem = unused_name(picture.stem, used)
        labels_file = f"{stem}_labels.png"
        save_picture(output / labels_file, label)
        drawn = overlaid(picture.image, label, list(colors.values()))
        panels = [("image", enlarged(picture.image)), ("labels", enlarged(drawn))]
        save_picture(output / f"{stem}.jpg", side_by_side(panels))
        counts = np.bincount(label.ravel(), minlength=len(colors))
        shares = {name: 100 * count / label.size for name, count in zip(colors, counts.tolist())}
        results.append(
            {
                **{"file_name": picture.name, "picture": f"{stem}.jpg", "labels": labels_file},
                "shares": shares,
            }
        )
        most = sorted(shares, key=lambda name: -shares[name])[:_NAMED]
        text = ", ".join(f"{name} {shares[name]:.0f} %" for name in most if shares[name] >= 0.5)
        items.append(GalleryItem(f"{stem}.jpg", f"{picture.name}: {text}"))
        progress.step()
    write_json(output / "predictions.json", results)
    intro = f"Config: {args.config_file}. Weights: {cfg.MODEL.WEIGHTS or 'random'}."
    write_gallery(output / "index.html", "Predictions", intro, items, colors=colors)
    logger.info("%d pictures: %s", len(items), output / "index.html")
