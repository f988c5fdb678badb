"""Pictures of masks in which set A, set B and added classes can be told apart."""

import colorsys
import os
import tempfile
from pathlib import Path
from typing import Any, Collection, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode, Instances
from detectron2.structures.masks import polygons_to_bitmask
from detectron2.utils.visualizer import GenericMask, VisImage, Visualizer
from matplotlib.font_manager import FontProperties

from ..data.partial import usable_segmentation
from ..files import PathLike
from .class_colors import LINE_STYLES, Color, class_color, kind_of
from .gallery import GalleryItem, write_gallery
from .label_placement import gaps, place_label

__all__ = [
    "GalleryItem",
    "draw_ground_truth",
    "draw_instances",
    "save_picture",
    "side_by_side",
    "write_gallery",
]

_LEGIBLE_SIDE = 384  # pixels; smaller pictures are enlarged, or labels would cover them
_FILL = 0.34
_FEW = 15  # objects; lines are thinner and labels smaller where there are more


class _Object(NamedTuple):
    box: np.ndarray  # (4,) x0, y0, x1, y1 in pixels
    mask: Optional[np.ndarray]  # (H, W) bool
    class_index: int
    kind: str  # of class: "A", "B", "new" or ""
    label: str


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
        segmentation = usable_segmentation(annotation.get("segmentation"))
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


def side_by_side(panels: Sequence[Tuple[str, np.ndarray]]) -> np.ndarray:
    """One picture of several captioned ones in a row.

    Args:
        panels: caption and (H, W, 3) uint8 BGR picture of each.

    Returns:
        (H', W', 3) uint8, BGR: panels at the height of the highest, which is enlarged if small.

    Raises:
        ValueError: when there are no panels.
    """
    if not panels:
        raise ValueError("side_by_side needs at least one panel")
    highest = max((picture.shape for _, picture in panels), key=lambda shape: shape[0])
    height = highest[0] * _enlargement(highest)
    strip, gap = max(28, height // 16), max(6, height // 64)
    columns: List[np.ndarray] = []
    for caption, picture in panels:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
        columns.append(np.full((strip + height, gap, 3), 255, np.uint8))
        columns.append(np.concatenate([_caption_strip(caption, strip, width), picture]))
    return np.concatenate(columns[1:], axis=1)


def save_picture(path: PathLike, image_bgr: np.ndarray) -> None:
    """Write a picture in the format of the file's ending; the file is complete or not there.

    Raises:
        ValueError: for an unknown ending.
        OSError: when it cannot be written.
    """
    path = Path(path)
    try:
        _, data = cv2.imencode(path.suffix, image_bgr, [cv2.IMWRITE_JPEG_QUALITY, 93])
    except cv2.error as e:
        raise ValueError(f"cannot write '{path}': the ending names no format of pictures") from e
    try:
        with tempfile.TemporaryDirectory(prefix=".picture_", dir=path.parent) as staging:
            staged = Path(staging) / path.name
            staged.write_bytes(data.tobytes())
            os.replace(staged, path)
    except OSError as e:
        raise OSError(f"cannot write '{path}': {e.strerror or e}") from e


def _object(
    box: np.ndarray,
    mask: Optional[np.ndarray],
    class_index: int,
    class_names: Sequence[str],
    kind: str,
    extra: str,
) -> _Object:
    name = class_names[class_index] if class_index < len(class_names) else str(class_index)
    return _Object(box, mask, class_index, kind, f"{kind}{': ' if kind else ''}{name}{extra}")


def _enlargement(shape: Sequence[int]) -> int:
    """The whole number by which a picture of shape (H, W, ...) is enlarged."""
    short, long = sorted(shape[:2])
    return max(1, min(round(_LEGIBLE_SIDE / short), 4 * _LEGIBLE_SIDE // long))


def _draw(image_bgr: np.ndarray, objects: Sequence[_Object]) -> np.ndarray:
    scale = _enlargement(image_bgr.shape)
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
    painter = _Painter(blended, len(objects))
    for o, color in zip(objects, colors):
        painter.draw_edges(o, color)
    painter.draw_labels(objects, colors)
    return np.ascontiguousarray(painter.picture()[:, :, ::-1])


def _area(o: _Object) -> float:
    return float(np.prod(o.box[2:] - o.box[:2]) if o.mask is None else o.mask.sum())


def _enlarged(mask: Optional[np.ndarray], scale: int) -> Optional[np.ndarray]:
    if mask is None:
        return None
    return cv2.resize(mask.astype(np.float32), None, fx=scale, fy=scale) >= 0.5


class _Painter(Visualizer):
    """detectron2's Visualizer with outlines by kind, and labels that keep off each other."""

    def __init__(self, image_rgb: np.ndarray, num_objects: int = 0) -> None:
        super().__init__(image_rgb)
        side = (self.output.width * self.output.height) ** 0.5
        crowded = num_objects > _FEW
        self._font_size = max(7.5, side / (80 if crowded else 64))  # points
        self._line_width = max(1.4, side / 420) * (0.7 if crowded else 1)

    def picture(self) -> np.ndarray:
        """The image under all that was drawn, (H, W, 3) uint8 RGB.

        matplotlib would resample the image, which shifts half of its rows and columns by a pixel.
        """
        self.output.ax.images[0].remove()
        self.output.fig.patch.set_visible(False)
        buffer, (width, height) = self.output.canvas.print_to_buffer()
        drawn = np.frombuffer(buffer, np.uint8).reshape(height, width, 4).astype(np.float32)
        alpha = drawn[:, :, 3:] / 255
        return (self.img + alpha * (drawn[:, :, :3] - self.img)).round().astype(np.uint8)

    def draw_edges(self, o: _Object, color: Color) -> None:
        """The outline of the mask, on a dark one that sets it off, and a thin box."""
        # A line as wide as its object is small would hide it.
        side = float((o.box[2:] - o.box[:2]).clip(min=1).prod()) ** 0.5
        width = min(self._line_width, max(0.5, side / 30))
        self.draw_box(o.box, alpha=0.55, edge_color=color, line_style=LINE_STYLES[o.kind])
        self.output.ax.patches[-1].set_linewidth(0.6 * width)
        if o.mask is None:
            return
        outline = GenericMask(o.mask.astype(np.uint8), self.output.height, self.output.width)
        for polygon in outline.polygons:
            x, y = np.append(polygon, polygon[:2]).reshape(-1, 2).T
            self.draw_line(x, y, color="black", linewidth=1.9 * width)
            self.draw_line(x, y, color=color, linestyle=LINE_STYLES[o.kind], linewidth=width)

    def draw_labels(self, objects: Sequence[_Object], colors: Sequence[Color]) -> None:
        """Labels at their boxes or, where that is crowded, nearby with a line to the box."""
        taken: List[np.ndarray] = []
        for o, color in reversed(list(zip(objects, colors))):  # small boxes have the least choice
            text = o.label.replace("$", r"\$")  # would start a formula
            place = self._place(o.box, self._text_size(text), taken)
            taken.append(place)
            light = colorsys.hls_to_rgb(colorsys.rgb_to_hls(*color)[0], 0.8, 1.0)
            if gaps(place[None], o.box).max() > 2:
                end = np.clip(o.box.reshape(2, 2).mean(0), place[:2], place[2:])
                start = np.clip(end, o.box[:2], o.box[2:])
                ends = np.stack([start, end], axis=1)
                self.draw_line(*ends, color=light, linewidth=0.6 * self._line_width)
            self.draw_text(
                *(text, tuple(place[:2])),
                font_size=self._font_size,
                color=light,
                horizontal_alignment="left",
            )

    def _text_size(self, text: str) -> Tuple[float, float]:
        font = FontProperties(family="sans-serif", size=self._font_size)
        measure = self.output.canvas.get_renderer().get_text_width_height_descent
        width, height, _ = measure(text, font, ismath=False)
        return width + 4, height + 4

    def _place(
        self, box: np.ndarray, size: Tuple[float, float], taken: Sequence[np.ndarray]
    ) -> np.ndarray:
        return place_label(box, size, taken, (self.output.width, self.output.height))


def _caption_strip(caption: str, height: int, width: int) -> np.ndarray:
    strip = VisImage(np.full((height, width, 3), 255, np.uint8))
    # A bold character is about 0.7 em wide, a point 100 / 72 pixels high.
    size = min(0.42 * height, width / max(len(caption), 1) / 0.7) * 0.72
    place = {"ha": "center", "va": "center", "color": "#222", "weight": "bold"}
    strip.ax.text(width / 2, height / 2, caption.replace("$", r"\$"), size=max(size, 4), **place)
    return strip.get_image()[:, :, ::-1]
