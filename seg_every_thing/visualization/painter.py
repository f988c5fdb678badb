"""Outlines and labels of objects on a picture."""

import colorsys
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from detectron2.utils.visualizer import GenericMask, Visualizer
from matplotlib.font_manager import FontProperties

from .class_colors import LINE_STYLES, Color
from .label_placement import gaps, place_label

_FEW = 15  # objects; lines are thinner and labels smaller where there are more


class DrawnObject(NamedTuple):
    """An object in the pixels of the picture that it is drawn on."""

    box: np.ndarray  # (4,) x0, y0, x1, y1 in pixels
    mask: Optional[np.ndarray]  # (H, W) bool
    class_index: int
    kind: str  # of class: "A", "B", "new" or ""
    label: str


class Painter(Visualizer):
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

    def draw_edges(self, o: DrawnObject, color: Color) -> None:
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

    def draw_labels(self, objects: Sequence[DrawnObject], colors: Sequence[Color]) -> None:
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
