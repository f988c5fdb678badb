"""Pictures of masks in which set A and set B can be told apart, and HTML galleries of them."""

import colorsys
import html
import os
import tempfile
from pathlib import Path
from typing import Any, Collection, List, Mapping, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import quote

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode, Instances
from detectron2.structures.masks import polygons_to_bitmask
from detectron2.utils.visualizer import GenericMask, VisImage, Visualizer
from matplotlib.font_manager import FontProperties
from PIL import Image

from .data.partial import usable_segmentation
from .files import PathLike, write_text

Color = Tuple[float, float, float]

_LEGIBLE_SIDE = 384  # pixels; smaller pictures are enlarged, or labels would cover them
_FILL = 0.34
_GOLDEN = 0.618034  # its multiples modulo 1 never crowd: neighbouring classes get distant shades
_HUES = {"A": (0.42, 0.69), "B": (0.88, 1.13), "": (0.0, 1.0)}  # on a circle of length 1
_LEGEND = {
    "A": "set A: masks in training (cool colours, solid outline, tag A)",
    "B": "set B: only boxes in training (warm colours, dashed outline, tag B)",
}


class _Object(NamedTuple):
    box: np.ndarray  # (4,) x0, y0, x1, y1 in pixels
    mask: Optional[np.ndarray]  # (H, W) bool
    class_index: int
    label: str


class GalleryItem(NamedTuple):
    """A picture of a gallery: its file, relative to the page or absolute, and a caption."""

    file: str
    caption: str


def draw_instances(
    image_bgr: np.ndarray,
    instances: Instances,
    class_names: Sequence[str],
    set_a: Optional[Collection[int]] = None,
    threshold: float = 0.5,
) -> np.ndarray:
    """Draw predictions.

    Args:
        image_bgr: (H, W, 3) uint8, BGR.
        instances: of this image, on the CPU, with ``pred_boxes``, ``scores``, ``pred_classes`` and,
            where there are masks, ``pred_masks`` of shape (N, H, W).
        class_names: by class index; a class beyond the list is called by its index.
        set_a: indices of the classes of set A; None = there are no sets to tell apart.
        threshold: instances of a lower score are left out.

    Returns:
        (s*H, s*W, 3) uint8, BGR; s is a whole number, above 1 for small images only.

    Raises:
        ValueError: when masks and image differ in size.
    """
    instances = instances[instances.scores >= threshold]
    boxes = instances.pred_boxes.tensor.detach().numpy()
    masks: Sequence[Optional[np.ndarray]] = [None] * len(instances)
    if instances.has("pred_masks"):
        masks = np.asarray(instances.pred_masks.detach()).astype(bool)
    objects = [
        _Object(box, mask, c, _label(c, class_names, set_a, f" {score:.2f}"))
        for box, mask, c, score in zip(
            boxes, masks, instances.pred_classes.tolist(), instances.scores.tolist()
        )
    ]
    return _draw(image_bgr, objects, set_a)


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
        label = _label(c, class_names, set_a, crowd)
        objects.append(_Object(np.asarray(box, dtype=float), mask, c, label))
    return _draw(image_bgr, objects, set_a)


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


def write_gallery(
    path: PathLike,
    title: str,
    intro: str,
    items: Sequence[GalleryItem],
    table: Optional[Tuple[Sequence[str], Sequence[Sequence[Any]]]] = None,
    *,
    with_sets: bool = False,
) -> None:
    """Write an HTML page of pictures that needs no network.

    Args:
        path: the page; pictures are referred to by their path from there.
        title: of the page.
        intro: plain text; an empty line starts a new paragraph.
        items: the pictures in order; the files must be there.
        table: column headers, and the cells of each row; floats show one digit after the point.
        with_sets: add the legend of set A and set B.

    Raises:
        ValueError: for a picture that is missing or unreadable.
        OSError: when the page cannot be written.
    """
    folder = Path(path).resolve().parent
    figures, aspects = [], [1.0]
    for item in items:
        source = Path(os.path.relpath(folder / item.file, folder)).as_posix()
        width, height = _picture_size(folder / item.file)
        aspects.append(width / height)
        url, caption = quote(source), html.escape(item.caption)
        figures.append(
            f'<figure><a href="{url}"><img src="{url}" alt="{caption}" width="{width}" '
            f'height="{height}" loading="lazy"></a><figcaption>{caption}</figcaption></figure>'
        )
    # Rows of panels need the width of the page; single pictures stand several in a row.
    column = min(1400, round(330 * max(aspects)))
    body = [f"<h1>{html.escape(title)}</h1>"]
    body += [f"<p>{html.escape(p)}</p>" for p in intro.split("\n\n") if p.strip()]
    if table:
        body.append(_html_table(*table))
    if with_sets:
        body.append(_html_legend())
    main = "\n".join(figures) or "<p>There are no pictures.</p>"
    body.append(f'<main style="--column: {column}px">{main}</main>')
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    page = [f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>', *body, "</body></html>\n"]
    write_text(path, "\n".join(page))


def _set_of(class_index: int, set_a: Optional[Collection[int]]) -> str:
    return "" if set_a is None else "A" if class_index in set_a else "B"


def _label(
    class_index: int, class_names: Sequence[str], set_a: Optional[Collection[int]], extra: str
) -> str:
    name = class_names[class_index] if class_index < len(class_names) else str(class_index)
    return f"{'' if set_a is None else _set_of(class_index, set_a) + ': '}{name}{extra}"


def _color(class_index: int, which_set: str) -> Color:
    """The colour of a class, RGB in [0, 1]: the same in every picture."""
    low, high = _HUES[which_set]
    hue = (low + (class_index * _GOLDEN % 1) * (high - low)) % 1
    return colorsys.hls_to_rgb(hue, (0.46, 0.54, 0.62)[class_index % 3], 0.95)


def _enlargement(shape: Sequence[int]) -> int:
    """The whole number by which a picture of shape (H, W, ...) is enlarged."""
    short, long = sorted(shape[:2])
    return max(1, min(round(_LEGIBLE_SIDE / short), 4 * _LEGIBLE_SIDE // long))


def _draw(
    image_bgr: np.ndarray, objects: Sequence[_Object], set_a: Optional[Collection[int]]
) -> np.ndarray:
    scale = _enlargement(image_bgr.shape)
    for o in objects:
        if o.mask is not None and o.mask.shape != image_bgr.shape[:2]:
            shapes = f"{o.mask.shape}, its image {image_bgr.shape[:2]}"
            raise ValueError(f"the mask of '{o.label}' has shape {shapes}")
    # Large ones first, so that what lies on top of them stays visible.
    objects = sorted(objects, key=lambda o: -float(np.prod(o.box[2:] - o.box[:2])))
    objects = [o._replace(box=o.box * scale, mask=_enlarged(o.mask, scale)) for o in objects]
    canvas = cv2.resize(image_bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    canvas = canvas[:, :, ::-1].astype(np.float32)
    colors = [_color(o.class_index, _set_of(o.class_index, set_a)) for o in objects]
    layer = canvas.copy()  # blended in once: overlapping fills would mix to colours of no set
    for o, color in zip(objects, colors):
        if o.mask is not None:
            layer[o.mask] = 255 * np.float32(color)
    painter = _Painter((canvas + _FILL * (layer - canvas)).round().astype(np.uint8))
    for o, color in zip(objects, colors):
        painter.draw_edges(o, color, "--" if _set_of(o.class_index, set_a) == "B" else "-")
    painter.draw_labels(objects, colors)
    return np.ascontiguousarray(painter.picture()[:, :, ::-1])


def _enlarged(mask: Optional[np.ndarray], scale: int) -> Optional[np.ndarray]:
    if mask is None:
        return None
    return cv2.resize(mask.astype(np.float32), None, fx=scale, fy=scale) >= 0.5


class _Painter(Visualizer):
    """detectron2's Visualizer with dashed outlines, and labels that keep off each other."""

    def __init__(self, image_rgb: np.ndarray) -> None:
        super().__init__(image_rgb)
        side = (self.output.width * self.output.height) ** 0.5
        self._font_size = max(7.5, side / 64)  # points
        self._line_width = max(1.4, side / 420)

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

    def draw_edges(self, o: _Object, color: Color, line_style: str) -> None:
        """The outline of the mask, on a dark one that sets it off, and a thin box."""
        self.draw_box(o.box, alpha=0.55, edge_color=color, line_style=line_style)
        self.output.ax.patches[-1].set_linewidth(0.6 * self._line_width)
        if o.mask is None:
            return
        outline = GenericMask(o.mask.astype(np.uint8), self.output.height, self.output.width)
        for polygon in outline.polygons:
            x, y = np.append(polygon, polygon[:2]).reshape(-1, 2).T
            self.draw_line(x, y, color="black", linewidth=1.9 * self._line_width)
            self.draw_line(x, y, color=color, linestyle=line_style, linewidth=self._line_width)

    def draw_labels(self, objects: Sequence[_Object], colors: Sequence[Color]) -> None:
        """Labels at corners of the boxes where they hide least of the labels before them."""
        taken: List[np.ndarray] = []
        for o, color in reversed(list(zip(objects, colors))):  # small boxes have the least choice
            text = o.label.replace("$", r"\$")  # would start a formula
            place = self._place(o.box, self._text_size(text), taken)
            taken.append(place)
            self.draw_text(
                *(text, tuple(place[:2])),
                font_size=self._font_size,
                color=colorsys.hls_to_rgb(colorsys.rgb_to_hls(*color)[0], 0.8, 1.0),
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
        (x0, y0, x1, y1), (w, h) = box, size
        corners = [(x0, y0 - h), (x0, y0), (x0, y1 - h), (x1 - w, y0), (x1 - w, y1 - h), (x0, y1)]
        shifted = [(x0, y0 + k * h) for k in range(1, 6)]
        places = []
        for x, y in corners + shifted:
            x = min(max(x, 0.0), max(self.output.width - w, 0.0))
            y = min(max(y, 0.0), max(self.output.height - h, 0.0))
            places.append(np.array([x, y, x + w, y + h]))
        return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((np.minimum(a, b)[2:] - np.maximum(a, b)[:2]).clip(min=0).prod())


def _caption_strip(caption: str, height: int, width: int) -> np.ndarray:
    strip = VisImage(np.full((height, width, 3), 255, np.uint8))
    # A bold character is about 0.7 em wide, a point 100 / 72 pixels high.
    size = min(0.42 * height, width / max(len(caption), 1) / 0.7) * 0.72
    place = {"ha": "center", "va": "center", "color": "#222", "weight": "bold"}
    strip.ax.text(width / 2, height / 2, caption.replace("$", r"\$"), size=max(size, 4), **place)
    return strip.get_image()[:, :, ::-1]


def _picture_size(path: Path) -> Tuple[int, int]:
    try:
        with Image.open(path) as picture:
            return picture.size
    except OSError as e:
        raise ValueError(f"the picture '{path}' of the gallery is missing or unreadable") from e


def _html_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def row(tag: str, cells: Sequence[Any]) -> str:
        texts = [f"{c:.1f}" if isinstance(c, float) else html.escape(str(c)) for c in cells]
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    body = "\n".join(row("td", cells) for cells in rows)
    return f"<table>{row('th', headers)}{body}</table>"


def _html_legend() -> str:
    entries = []
    for which_set, text in _LEGEND.items():
        shades = sorted(_color(i, which_set) for i in range(4))
        css = [f"rgb({', '.join(str(round(255 * v)) for v in shade)})" for shade in shades]
        line = "dashed" if which_set == "B" else "solid"
        style = f"background: linear-gradient(90deg, {', '.join(css)}); border-style: {line}"
        entries.append(f'<li><span class="swatch" style="{style}"></span>{html.escape(text)}</li>')
    return f'<ul class="legend" aria-label="Legend">{"".join(entries)}</ul>'


_STYLE = """
:root { color-scheme: light dark; --line: #8886; }  img { width: 100%; height: auto; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1700px; margin: auto; padding: 1.2rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; } p { max-width: 75ch; overflow-wrap: anywhere; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left; }
th + th, td + td { text-align: right; font-variant-numeric: tabular-nums; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .4rem 2rem; }
.legend li { display: flex; align-items: center; gap: .6rem; }
.swatch { width: 3.2rem; height: 1.2rem; flex: none; border: 2px solid CanvasText; }
main { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--column)), 1fr)); }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
figcaption { padding: .2rem .7rem .4rem; font-size: .9rem; overflow-wrap: anywhere; }
"""
