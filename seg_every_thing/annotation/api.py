"""``annotate`` in Python."""

import dataclasses
from pathlib import Path
from typing import Any, Dict, Iterator

import numpy as np
import pycocotools.mask as mask_util

from ..files import PathLike
from .annotator import annotate_file
from .formats import coco
from .options import Options
from .origin import is_ours, score_of


@dataclasses.dataclass(frozen=True)
class AnnotatedObject:
    """An object whose mask was made."""

    annotation: Dict[str, Any]  # as it is written
    file_name: str  # of its image
    height: int  # of its image
    width: int
    class_name: str

    @property
    def score(self) -> float:
        """From 0 to 1; the expected IoU where the report says that scores are calibrated."""
        return score_of(self.annotation)

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool, as large as the image."""
        segmentation = self.annotation["segmentation"]
        if isinstance(segmentation, list):
            rles = mask_util.frPyObjects(segmentation, self.height, self.width)
            segmentation = mask_util.merge(rles)
        elif isinstance(segmentation["counts"], list):
            segmentation = mask_util.frPyObjects(segmentation, self.height, self.width)
        return mask_util.decode(segmentation).astype(bool)


class Annotated(Iterator[AnnotatedObject]):
    """The objects whose masks were made, in the order of the file."""

    def __init__(self, objects: Iterator[AnnotatedObject], report: Dict[str, Any]) -> None:
        """
        Args:
            objects: as above.
            report: what is in ``OUTPUT_report.json``.
        """
        self._objects = objects
        self.report = report

    def __next__(self) -> AnnotatedObject:
        return next(self._objects)


def annotate(
    annotations: PathLike, image_root: PathLike, output: PathLike, **options: Any
) -> Annotated:
    """Give every object of a data set that has a box and no mask its mask.

    The same as the command ``seg-every-thing annotate``.  All masks are made, and written, before
    it returns; what it returns reads them one by one.

    Args:
        annotations: COCO file with the boxes.
        image_root: folder of its images.
        output: file of the annotated data set.
        options: the other attributes of :class:`~seg_every_thing.annotation.options.Options`, such
            as ``config_file``, ``opts``, ``minutes``, ``format``.

    Returns:
        An iterator of the objects whose masks were made, with their ``report``.

    Raises:
        ValueError: for bad input, or when no image can be used.
        OSError: when something cannot be written.
    """
    if options.get("report") is not None:
        options["report"] = Path(options["report"])
    if options.get("model") is not None:
        options["model"] = Path(options["model"])
    options["opts"] = tuple(options.get("opts", ()))
    run = Options(Path(annotations), Path(image_root), Path(output), **options)
    report = annotate_file(run)
    return Annotated(_objects(run.output), report)


def _objects(path: Path) -> Iterator[AnnotatedObject]:
    images: Dict[Any, Dict[str, Any]] = {}
    names: Dict[Any, str] = {}
    for key, value in coco.read_boxes(path):
        if key == "images":
            images[value["id"]] = {k: value[k] for k in ("file_name", "height", "width")}
        elif key == "categories":
            names[value["id"]] = value["name"]
    for key, value in coco.read_boxes(path):
        if key == "annotations" and is_ours(value):
            image, name = images[value["image_id"]], names[value["category_id"]]
            yield AnnotatedObject(value, class_name=name, **image)
