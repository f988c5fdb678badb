"""What the tests of annotate share: a small data set, and a stub that makes masks of its boxes."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import cv2
import numpy as np

from seg_every_thing.annotation.annotator import annotate_file
from seg_every_thing.annotation.encoding import CutMask, window_of
from seg_every_thing.annotation.features import features_of
from seg_every_thing.annotation.index import Index
from seg_every_thing.annotation.making import Masker, Work
from seg_every_thing.annotation.masker import MadeMask
from seg_every_thing.annotation.options import Options

HEIGHT, WIDTH = 48, 64
CATEGORIES = [{"id": 3, "name": "cup", "supercategory": "ü"}, {"id": 7, "name": "dog"}]


def ellipse(box: Sequence[float], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(height, width) bool: the ellipse that a box x, y, width, height touches."""
    x, y, w, h = box
    rows, columns = np.mgrid[:height, :width] + 0.5
    return ((columns - x - w / 2) * 2 / w) ** 2 + ((rows - y - h / 2) * 2 / h) ** 2 <= 1


def ellipse_mask(image: np.ndarray, box: Sequence[float]) -> MadeMask:
    """The ellipse in a box as if a model had made it."""
    height, width = image.shape[:2]
    left, top, right, bottom = window_of(box, height, width)
    pixels = ellipse(box, height, width)[top:bottom, left:right]
    grid = np.mgrid[:28, :28] + 0.5
    p = 1 / (1 + np.exp(8 * (np.hypot(*(grid / 14 - 1)) - 1)))
    return MadeMask(CutMask(pixels, left, top), features_of(p, box[2], box[3]))


def masks_are_ellipses(work: Work, index: Index) -> Masker:
    """Stands in for a model; picklable."""
    return lambda image, boxes, categories: [ellipse_mask(image, box) for box in boxes]


def nothing_is_found(work: Work, index: Index) -> Masker:
    """A model that leaves every box empty."""

    def make(image: np.ndarray, boxes: np.ndarray, categories: Sequence[Any]) -> List[MadeMask]:
        made = [ellipse_mask(image, box) for box in boxes]
        nothing = features_of(np.zeros((4, 4)), 8, 8)
        return [
            MadeMask(m.mask._replace(pixels=np.zeros_like(m.mask.pixels)), nothing) for m in made
        ]

    return make


def rle_of(mask: np.ndarray, compressed: bool = True) -> Dict[str, Any]:
    """A mask (H, W) as RLE."""
    from seg_every_thing.annotation.encoding import runs_of, to_rle

    whole = CutMask(mask, 0, 0)
    if compressed:
        return to_rle(whole, *mask.shape)
    return {"size": list(mask.shape), "counts": runs_of(whole, *mask.shape)}


def write_data(
    folder: Path,
    objects: Sequence[Sequence[Dict[str, Any]]],
    extra: Optional[Dict[str, Any]] = None,
    size: Sequence[int] = (HEIGHT, WIDTH),
) -> Path:
    """A COCO file, and beside it ``images/`` with pictures of noise; returns its path.

    Args:
        folder: is made.
        objects: annotations of each image; they get an id (10, 20, ...) unless they have one.
        extra: further members of the file.
        size: height and width of the images.
    """
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    content: Dict[str, Any] = {**(extra or {}), "images": [], "annotations": []}
    for i, annotations in enumerate(objects, 1):
        name = f"{i}.png"
        cv2.imwrite(str(folder / "images" / name), rng.integers(0, 256, (*size, 3), np.uint8))
        image = {"id": 100 - i, "file_name": name, "height": size[0], "width": size[1]}
        content["images"].append({**image, "license": i})
        for annotation in annotations:
            own_id = 10 * (len(content["annotations"]) + 1)
            default = {"id": own_id, "image_id": 100 - i, "category_id": 3}
            content["annotations"].append({**default, **annotation})
    content["categories"] = CATEGORIES
    path = folder / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def options_for(annotations: Path, **options: Any) -> Options:
    """Options of a run with a stub: ``out.json`` beside the input, weights that nobody reads."""
    weights = annotations.parent / "weights.pth"
    weights.write_bytes(b"weights")
    return Options(
        **{
            "annotations": annotations,
            "image_root": annotations.parent / "images",
            "output": annotations.parent / "out.json",
            "config_file": "photos/box_to_mask.yaml",
            "opts": ("MODEL.WEIGHTS", str(weights)),
            **options,
        }
    )


def annotated(annotations: Path, make_masker: Any = masks_are_ellipses, **options: Any) -> Any:
    """What a run writes."""
    run = options_for(annotations, **options)
    annotate_file(run, make_masker)
    return json.loads(run.output.read_text())


def report_of(annotations: Path) -> Any:
    """The report of a run with the default output."""
    return json.loads((annotations.parent / "out_report.json").read_text())
