"""Masks that a model predicts for boxes that the caller gives."""

from typing import Any, Dict, Sequence, Tuple

import numpy as np
import torch
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, Instances


def predict_masks(
    predictor: DefaultPredictor, image_bgr: np.ndarray, boxes: np.ndarray, classes: Sequence[int]
) -> Instances:
    """Predict masks for given boxes.

    Args:
        predictor: its model may have classes of :func:`add_class`.
        image_bgr: (H, W, 3) uint8, BGR.
        boxes: (n, 4) x0, y0, x1, y1 in pixels, each at least in part inside the image.
        classes: index of each box.

    Returns:
        n instances on the CPU with ``pred_boxes`` as given, ``pred_classes``, ``scores`` (1) and,
        unless the model has no masks, ``pred_masks`` of shape (n, H, W).
    """
    height, width = image_bgr.shape[:2]
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    inside = boxes.clip(min=0, max=[width, height, width, height])
    inputs, given = model_inputs(predictor, image_bgr, inside, classes)
    with torch.no_grad():
        (output,) = predictor.model.inference([inputs], detected_instances=[given])
    instances = output["instances"].to("cpu")
    instances.pred_boxes = Boxes(torch.from_numpy(boxes).float())  # there and back, they rounded
    return instances


def model_inputs(
    predictor: DefaultPredictor, image_bgr: np.ndarray, boxes: np.ndarray, classes: Sequence[int]
) -> Tuple[Dict[str, Any], Instances]:
    """An image and boxes as a model takes them.

    Args:
        predictor: its format and its size of images.
        image_bgr: (H, W, 3) uint8, BGR.
        boxes: (n, 4) x0, y0, x1, y1 in pixels, inside the image.
        classes: index of each box.

    Returns:
        An input of the model, and the boxes in it as if a detector had found them, with score 1.
    """
    height, width = image_bgr.shape[:2]
    image = image_bgr if predictor.input_format == "BGR" else image_bgr[:, :, ::-1]
    transform = predictor.aug.get_transform(image)
    resized = np.ascontiguousarray(transform.apply_image(image).transpose(2, 0, 1))
    given = Instances(resized.shape[1:])
    given.pred_boxes = Boxes(torch.from_numpy(transform.apply_box(boxes)).float())
    given.pred_classes = torch.tensor(classes, dtype=torch.long)
    given.scores = torch.ones(len(boxes))
    inputs = {"image": torch.from_numpy(resized).float(), "height": height, "width": width}
    return inputs, given
