"""A function for ``cvat-cli task auto-annotate``: the objects of a COCO file, with their masks.

CVAT gives a function an image and its name, and no shapes.  So the boxes are those of a file, found
by the name of the frame: ``--function-module seg_every_thing.annotation.cvat_function -p
annotations=str:OUT.json``.  What has no mask there gets one from a model, if one is given.
"""

from collections import defaultdict
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import Image, ImageOps

from ..config import load_config
from ..engine.predictor import build_predictor
from ..files import PathLike, printable
from .encoding import to_rle
from .formats import coco
from .formats.tasks import Task, task_of
from .making import Masker
from .masker import BoxMasker, model_classes


def create(annotations: str, config_file: str = "", weights: str = "") -> "MasksOfFile":
    """The function; cvat-cli calls this with what its option ``-p NAME=str:VALUE`` gives.

    Args:
        annotations: COCO file with boxes, or with masks as ``annotate`` writes it.
        config_file, weights: of a model that makes the masks that are missing; without, such
            objects are sent as boxes.

    Raises:
        ValueError: when cvat-sdk is not installed, the file is no COCO file, or the model lacks one
            of its classes.
    """
    if bool(config_file) != bool(weights):
        raise ValueError("config_file and weights belong together: give both, or none")
    found = MasksOfFile(annotations)
    if config_file:
        cfg = load_config(config_file, ["MODEL.WEIGHTS", weights])
        classes = model_classes(cfg, found.categories, f"'{annotations}'")
        found.masker = BoxMasker(build_predictor(cfg), classes)
    return found


class MasksOfFile:
    """An auto-annotation function of CVAT (``cvat_sdk.auto_annotation.DetectionFunction``)."""

    def __init__(self, path: PathLike) -> None:
        """
        Args:
            path: of a COCO file.

        Raises:
            ValueError: as :func:`create`.
        """
        try:
            import cvat_sdk.auto_annotation as cvataa
            from cvat_sdk.masks import encode_mask
        except ImportError as e:
            raise ValueError("this function needs cvat-sdk: pip install cvat-cli") from e
        self._cvataa, self._encode_mask, self._path = cvataa, encode_mask, path
        self.masker: Optional[Masker] = None
        self.categories: Dict[Any, str] = {}
        files: Dict[Any, str] = {}
        objects: Dict[Any, List[Dict[str, Any]]] = defaultdict(list)
        for key, value in coco.read_boxes(path):
            try:
                if key == "images":
                    files[value["id"]] = value["file_name"].replace("\\", "/")
                elif key == "categories":
                    self.categories[value["id"]] = str(value["name"])
                elif key == "annotations":
                    objects[value["image_id"]].append(value)
            except (AttributeError, KeyError, TypeError) as e:
                raise ValueError(f"'{printable(path)}': one of its {key} lacks {e}") from e
        self._objects = {name: objects[own_id] for own_id, name in files.items()}
        self._label_ids = {category: i for i, category in enumerate(self.categories, 1)}
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[
                cvataa.label_spec(name, self._label_ids[category])
                for category, name in self.categories.items()
            ]
        )

    def detect(self, context: Any, image: Image.Image) -> List[Any]:
        """The shapes of a frame; crowds are left out.

        Args:
            context: ``DetectionFunctionContext``: name of the frame, least score, and whether
                masks are wanted as polygons.
            image: of the frame.

        Raises:
            ValueError: for an object that cannot be used, or a frame whose name fits several
                images; the message names file and object.
        """
        upright = ImageOps.exif_transpose(image)
        height, width = upright.height, upright.width
        tasks = []
        for annotation in self._objects.get(self._image_of(context.frame_name), []):
            try:
                tasks.append(task_of(annotation, self.categories, height, width))
            except (KeyError, TypeError, ValueError) as e:
                raise ValueError(
                    f"'{printable(self._path)}', annotation {annotation.get('id')}, frame "
                    f"'{printable(context.frame_name)}': {e}"
                ) from e
        tasks = [task for task in tasks if not task.is_crowd]
        if self.masker is not None:
            tasks = self._with_masks(self.masker, tasks, upright)
        least = context.conf_threshold or 0
        shapes: List[Any] = []
        for group, task in enumerate(tasks, 1):
            if task.score is None or task.score >= least:
                shapes += self._shapes(task, group, height, width, context.conv_mask_to_poly)
        return shapes

    def _image_of(self, frame: str) -> str:
        """The image of the file that a frame is: that of its name, or whose name ends so."""
        frame = frame.replace("\\", "/")
        if frame in self._objects:
            return frame
        fit = [n for n in self._objects if f"/{n}".endswith(f"/{frame}")]
        fit = fit or [n for n in self._objects if f"/{frame}".endswith(f"/{n}")]
        if len(fit) > 1:
            raise ValueError(
                f"'{printable(self._path)}': the frame '{printable(frame)}' can be "
                f"'{printable(fit[0])}' or '{printable(fit[1])}': name frames by their whole path"
            )
        return fit[0] if fit else ""

    def _with_masks(self, masker: Masker, tasks: Sequence[Task], image: Image.Image) -> List[Task]:
        """Masks for those that have none; what the model leaves empty stays a box."""
        lacking = [task for task in tasks if task.mask is None]
        pixels = convert_PIL_to_numpy(image, "BGR")
        boxes = np.array([task.box for task in lacking], float).reshape(-1, 4)
        made = iter(masker(pixels, boxes, [task.category for task in lacking]) if lacking else ())
        found = []
        for task in tasks:
            if task.mask is None:
                mask = next(made).mask
                rle = to_rle(mask, image.height, image.width) if mask.area else []
                annotation = {**task.annotation, "segmentation": rle}
                task = task_of(annotation, self.categories, image.height, image.width)
            found.append(task)
        return found

    def _shapes(
        self, task: Task, group: int, height: int, width: int, as_polygons: bool
    ) -> List[Any]:
        label = self._label_ids[task.category]
        if task.mask is None:
            x, y, w, h = task.box
            corners = np.clip([x, y, x + w, y + h], 0, [width, height, width, height])
            return [self._cvataa.rectangle(label, corners.tolist())]
        if not as_polygons:
            return [self._cvataa.mask(label, self._encode_mask(task.pixels()))]
        several = {"group": group} if len(task.polygons) > 1 else {}
        return [self._cvataa.polygon(label, polygon, **several) for polygon in task.polygons]
