"""Pictures of masks in which set A, set B and added classes can be told apart."""

from typing import Any, Collection, Mapping, Optional, Sequence

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode, Instances
from detectron2.structures.masks import polygons_to_bitmask

from ..data.segmentations import usable_segmentation
from .class_colors import class_color, kind_of
from .painter import DrawnObject, Painter
from .panels import enlargement

_FILL = 0.34


def draw_instances(
    image_bgr: np.ndarray,
    instances: Instances,
    class_names: Sequence[str],
    set_a: Optional[Collection[int]] = None,
    threshold: float = 0.5,
    *,
    max_instances: Optional[int] = None,
    added: Collection[int] = (),
) -> np.ndarray:
    """Draw predictions: large ones first, so that what lies on top of them stays visible.

    Args:
        image_bgr: (H, W, 3) uint8, BGR.
        instances: of this image, on the CPU, with ``pred_boxes``, ``scores``, ``pred_classes`` and,
            where there are masks, ``pred_masks`` of shape (N, H, W).
        class_names: by class index; a class beyond the list is called by its index.
        set_a: indices of the classes of set A; None = there are no sets to tell apart.
        threshold: instances of a lower score are left out.
        max_instances: draw no more than those with the highest scores; None = all.
        added: indices of classes that were added at test time.

    Returns:
        (s*H, s*W, 3) uint8, BGR; s is a whole number, above 1 for small images only.

    Raises:
        ValueError: when masks and image differ in size.
    """
    instances = instances[instances.scores >= threshold]
    if max_instances is not None:
        best = instances.scores.sort(descending=True, stable=True).indices[:max_instances]
        instances = instances[best.sort().values]
    boxes = instances.pred_boxes.tensor.detach().numpy()
    masks: Sequence[Optional[np.ndarray]] = [None] * len(instances)
    if instances.has("pred_masks"):
        masks = np.asarray(instances.pred_masks.detach()).astype(bool)
    objects = [
        _object(box, mask, c, class_names, kind_of(c, set_a, added), f" {score:.2f}")
        for box, mask, c, score in zip(
            boxes, masks, instances.pred_classes.tolist(), instances.scores.tolist()
        )
    ]
    return _draw(image_bgr, objects)


def draw_ground_truth(
    image_bgr: np.ndarray,
    dataset_dict: Mapping[str, Any],
    class_names: Sequence[str],
    set_a: Optional[Collection[int]] = None,
) -> np.ndarray:
    """Draw the objects of a dataset dict: masks where they have one, else boxes alone.

    Args:
        image_bgr: (H, W, 3) uint8, BGR, in the size that the annotations are meant for.
        dataset_dict: in detectron2's format; segmentations may be polygons or RLE.
        class_names: by class index.
        set_a: as for :func:`draw_instances`.

    Returns:
        As :func:`draw_instances`.

    Raises:
        ValueError: for a malformed segmentation, or an RLE of another size than the image.
    """
    objects = []
    for annotation in dataset_dict.get("annotations", ()):
        c = annotation["category_id"]
        box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        segmentation = annotation.get("segmentation")
        # An RLE of another size is refused where the class is known.
        size = None if isinstance(segmentation, dict) else image_bgr.shape[:2]
        segmentation = usable_segmentation(segmentation, size)
        mask = None
        if isinstance(segmentation, dict):
            mask = mask_util.decode(segmentation).astype(bool)
        elif segmentation:
            polygons = [np.asarray(p, dtype=float) for p in segmentation]
            mask = polygons_to_bitmask(polygons, *image_bgr.shape[:2])
        crowd = " (crowd)" if annotation.get("iscrowd", 0) else ""
        box = np.asarray(box, dtype=float)
        objects.append(_object(box, mask, c, class_names, kind_of(c, set_a), crowd))
    return _draw(image_bgr, objects)


def _object(
    box: np.ndarray,
    mask: Optional[np.ndarray],
    class_index: int,
    class_names: Sequence[str],
    kind: str,
    extra: str,
) -> DrawnObject:
    name = class_names[class_index] if class_index < len(class_names) else str(class_index)
    return DrawnObject(box, mask, class_index, kind, f"{kind}{': ' if kind else ''}{name}{extra}")


def _draw(image_bgr: np.ndarray, objects: Sequence[DrawnObject]) -> np.ndarray:
    scale = enlargement(image_bgr.shape)
    for o in objects:
        if o.mask is not None and o.mask.shape != image_bgr.shape[:2]:
            shapes = f"{o.mask.shape}, its image {image_bgr.shape[:2]}"
            raise ValueError(f"the mask of '{o.label}' has shape {shapes}")
    objects = sorted(objects, key=_area, reverse=True)
    objects = [o._replace(box=o.box * scale, mask=_enlarged(o.mask, scale)) for o in objects]
    canvas = cv2.resize(image_bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    canvas = canvas[:, :, ::-1].astype(np.float32)
    colors = [class_color(o.class_index, o.kind) for o in objects]
    layer = canvas.copy()  # blended in once: overlapping fills would mix to colours of no set
    for o, color in zip(objects, colors):
        if o.mask is not None:
            layer[o.mask] = 255 * np.float32(color)
    blended = (canvas + _FILL * (layer - canvas)).round().astype(np.uint8)
    painter = Painter(blended, len(objects))
    for o, color in zip(objects, colors):
        painter.draw_edges(o, color)
    painter.draw_labels(objects, colors)
    return np.ascontiguousarray(painter.picture()[:, :, ::-1])


def _area(o: DrawnObject) -> float:
    return float(np.prod(o.box[2:] - o.box[:2]) if o.mask is None else o.mask.sum())


def _enlarged(mask: Optional[np.ndarray], scale: int) -> Optional[np.ndarray]:
    if mask is None:
        return None
    return cv2.resize(mask.astype(np.float32), None, fx=scale, fy=scale) >= 0.5
