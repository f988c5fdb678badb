"""Masks of boxes without any learning: what a model has to beat.

The box itself, and GrabCut (Rother et al., 2004) with the box as its prompt.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import inference_on_dataset
from detectron2.structures import Instances

from ..data.images import read_image
from ..evaluation.given_boxes import GivenBoxEvaluator, ImageObjects, objects_with_masks

CONTEXT = 0.25
"""How much of the image GrabCut sees on each side of a box, as a share of the box's side."""

MAX_SIDE = 320
"""Larger crops are shrunk to this side, in pixels: GrabCut takes seconds for large ones."""

MIN_FIT = 0.5
"""GrabCut has failed when the IoU of its mask's extent and the box is below this."""

_ITERATIONS = 5


class Window(NamedTuple):
    """Whole pixels: first and last + 1, of columns and of rows."""

    x0: int
    y0: int
    x1: int
    y1: int

    @classmethod
    def of(cls, box: Sequence[float], size: Sequence[int]) -> "Window":
        """The pixels of an image of (height, width) whose centres lie in a box, at least one."""
        x0, x1 = _pixels(box[0], box[2], size[1])
        y0, y1 = _pixels(box[1], box[3], size[0])
        return cls(x0, y0, x1, y1)

    @property
    def slices(self) -> Tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)


def _pixels(start: float, end: float, limit: int) -> Tuple[int, int]:
    first = min(max(round(start), 0), limit - 1)
    return first, max(min(round(end), limit), first + 1)


def filled_box(size: Sequence[int], box: Sequence[float]) -> np.ndarray:
    """A mask (H, W) of all of a box.

    Args:
        size: height and width of the image.
        box: x0, y0, x1, y1 in pixels.
    """
    mask = np.zeros(tuple(size), bool)
    mask[Window.of(box, size).slices] = True
    return mask


def grabcut(image: np.ndarray, box: Sequence[float]) -> Optional[np.ndarray]:
    """What GrabCut finds in a box, starting from the inside as foreground and the rest as none.

    Args:
        image: (H, W, 3) uint8, BGR.
        box: x0, y0, x1, y1 in pixels.

    Returns:
        (H, W) bool, nothing of it outside the box.  None where GrabCut fails: nothing surrounds the
        box, nothing is found in it, or what is found has another extent than the box
        (:data:`MIN_FIT`).
    """
    size = image.shape[:2]
    window = Window.of(box, size)
    around_x, around_y = (CONTEXT * (box[i + 2] - box[i]) for i in (0, 1))
    crop = Window.of(
        (box[0] - around_x, box[1] - around_y, box[2] + around_x, box[3] + around_y), size
    )
    prompt = np.full(size, cv2.GC_BGD, np.uint8)
    prompt[window.slices] = cv2.GC_PR_FGD
    pixels, labels = image[crop.slices], prompt[crop.slices]
    scale = MAX_SIDE / max(labels.shape)
    if scale < 1:
        small = tuple(max(round(scale * side), 1) for side in labels.shape[::-1])
        pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
        labels = cv2.resize(labels, small, interpolation=cv2.INTER_NEAREST)
    if (labels == labels[0, 0]).all():
        return None
    cv2.setRNGSeed(0)  # it clusters colours from random starts
    labels, _, _ = cv2.grabCut(
        np.ascontiguousarray(pixels),
        np.ascontiguousarray(labels),
        None,
        *(np.zeros((1, 65)), np.zeros((1, 65))),  # colour models to fill, background and foreground
        iterCount=_ITERATIONS,
        mode=cv2.GC_INIT_WITH_MASK,
    )
    # Both kinds of foreground are odd.
    found = cv2.resize(
        labels % 2, (crop.x1 - crop.x0, crop.y1 - crop.y0), interpolation=cv2.INTER_NEAREST
    )
    mask = np.zeros(size, bool)
    mask[crop.slices] = found.astype(bool)
    mask &= prompt == cv2.GC_PR_FGD
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))  # within the window, or empty
    extent = w * h / ((window.x1 - window.x0) * (window.y1 - window.y0))
    return mask if extent >= MIN_FIT else None


class ReferenceSegmenter:
    """Outputs as of a model for the ground-truth boxes of images, by a method without learning."""

    def __init__(self, method: str, objects: Dict[Any, ImageObjects]) -> None:
        """
        Args:
            method: "filled_box" or "grabcut", which fills the box where GrabCut fails.
            objects: of :func:`objects_with_masks`.

        Raises:
            ValueError: for another method.
        """
        if method not in ("filled_box", "grabcut"):
            raise ValueError(f"unknown method '{method}': expected filled_box or grabcut")
        self.method = method
        self.objects = objects
        self.num_boxes = 0
        self.num_filled = 0

    def __call__(self, inputs: List[Dict[str, Any]]) -> List[Dict[str, Instances]]:
        """
        Args:
            inputs: dataset dicts with "file_name" and "image_id".

        Returns:
            For each image "instances" with ``pred_masks`` (n, H, W).

        Raises:
            FileNotFoundError: when an image is missing.
            ValueError: when it cannot be read.
        """
        outputs = []
        for record in inputs:
            image = read_image(record["file_name"], "BGR")
            size = image.shape[:2]
            objects = self.objects[record["image_id"]]
            masks = np.zeros((len(objects.boxes), *size), bool)
            for mask, box in zip(masks, objects.boxes):
                found = grabcut(image, box) if self.method == "grabcut" else None
                self.num_filled += found is None
                mask[:] = filled_box(size, box) if found is None else found
            self.num_boxes += len(masks)
            instances = objects.as_detections(size, size)
            instances.pred_masks = torch.from_numpy(masks)
            outputs.append({"instances": instances})
        return outputs


def evaluate_reference(
    method: str, dataset_name: str, *, class_split: str = "all", output_dir: Optional[str] = None
) -> Dict[str, Dict[str, float]]:
    """Metrics of :class:`GivenBoxEvaluator` for a method without learning, in one process.

    Args:
        method: "filled_box" or "grabcut".
        dataset_name: a registered data set in COCO format.
        class_split: as ``DATASETS.MASK_CLASSES``.
        output_dir: where results are written; None = nowhere.

    Returns:
        ``{"given": metrics}``; among them ``filled``: for how many of the boxes, in percent, the
        mask is the whole box.

    Raises:
        ValueError: for an unknown method, or a data set that is not registered or broken.
        FileNotFoundError: when a file of it is missing.
    """
    objects = objects_with_masks(dataset_name)
    segmenter = ReferenceSegmenter(method, objects)
    evaluator = GivenBoxEvaluator(
        dataset_name,
        class_split=class_split,
        output_dir=output_dir,
        distributed=False,
        objects=objects,
    )
    loader = [[record] for record in DatasetCatalog.get(dataset_name)]
    metrics = inference_on_dataset(segmenter, loader, evaluator)["given"]
    metrics["filled"] = 100 * segmenter.num_filled / max(segmenter.num_boxes, 1)
    evaluator.write(metrics)
    return {"given": metrics}
