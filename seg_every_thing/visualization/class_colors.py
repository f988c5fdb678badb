"""Colours that tell set A, set B and added classes apart, each class in a shade of its own."""

import colorsys
from typing import Collection, Optional, Tuple

Color = Tuple[float, float, float]
"""RGB in [0, 1]."""

_GOLDEN = 0.618034  # its multiples modulo 1 never crowd: neighbouring classes get distant shades
_HUES = {  # on a circle of length 1
    "A": (0.42, 0.69),
    "B": (0.88, 1.13),
    "new": (0.75, 0.81),
    "": (0.0, 1.0),
}

LINE_STYLES = {"A": "-", "B": "--", "new": ":", "": "-"}
"""matplotlib's line style of each kind of class."""

LEGEND = {
    "A": "set A: masks in training (cool colours, solid outline, tag A)",
    "B": "set B: only boxes in training (warm colours, dashed outline, tag B)",
    "new": "added: not in training at all (violet, dotted outline, tag new)",
}


def kind_of(class_index: int, set_a: Optional[Collection[int]], added: Collection[int] = ()) -> str:
    """What a class is: "A", "B", "new" (added at test time), or "" where there are no sets."""
    if class_index in added:
        return "new"
    return "" if set_a is None else "A" if class_index in set_a else "B"


def class_color(class_index: int, kind: str) -> Color:
    """The colour of a class of a kind of :func:`kind_of`: the same in every picture."""
    low, high = _HUES[kind]
    hue = (low + (class_index * _GOLDEN % 1) * (high - low)) % 1
    return colorsys.hls_to_rgb(hue, (0.46, 0.54, 0.62)[class_index % 3], 0.95)
