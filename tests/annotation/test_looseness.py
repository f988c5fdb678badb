"""How much larger than its masks a data set draws its boxes, and what training makes of it."""

from pathlib import Path
from typing import Any, Dict, List

import pytest
from annotating import options_for

from seg_every_thing.annotation import training
from seg_every_thing.annotation.looseness import Looseness
from seg_every_thing.config import load_config

MARGIN = "MODEL.ROI_MASK_HEAD.BOX_LOSS.MARGIN"


def loose(gap: float, **fields: Any) -> Dict[str, Any]:
    """An object whose box is larger than its mask by so much on each side."""
    x0, y0, x1, y1 = 20.0, 25.0, 40.0, 50.0
    polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
    box = [x0 - gap, y0 - gap, x1 - x0 + 2 * gap, y1 - y0 + 2 * gap]
    return {"bbox": box, "segmentation": [polygon], **fields}


def share_of(annotations: List[Any], size: Any = (100, 200)) -> float:
    looseness = Looseness()
    for annotation in annotations:
        looseness.add(annotation, size)
    return looseness.share()


def test_three_quarters_by_hand() -> None:
    # Four gaps each of 0, 1, ... 10 pixels of 100; the 33rd of the 44 is 8.
    annotations = [loose(float(gap)) for gap in range(11)]
    assert share_of(annotations) == pytest.approx(0.08)
    assert share_of(annotations, (200, 300)) == pytest.approx(0.04)
    assert share_of([loose(-2.0)] * 20) == 0  # masks that leave their boxes


def test_what_tells_nothing() -> None:
    told = [loose(4.0)] * 10
    silent = [
        loose(9.0, segmentation=[]),
        loose(9.0, iscrowd=1),
        loose(9.0, segmentation=[[1.0, 2.0]]),
        loose(9.0, segmentation="a mask"),
        loose(9.0, bbox=None),
        loose(9.0, bbox=[1, 2, "three", 4]),
    ]
    assert share_of([*silent * 9, *told]) == pytest.approx(0.04)
    assert share_of([*silent * 9, *told[1:]]) == 0  # too few


@pytest.mark.parametrize(
    "config, opts, share, margin",
    [
        ("photos/box_to_mask.yaml", (), 0.01, [MARGIN, 3.8]),  # of 384 pixels
        ("photos/box_to_mask.yaml", ("INPUT.MIN_SIZE_TRAIN", (192,)), 0.01, [MARGIN, 1.9]),
        ("photos/box_to_mask.yaml", (), 0.002, []),  # less than a pixel
        ("photos/box_to_mask.yaml", (MARGIN, 9.0), 0.01, []),  # the user's own
        ("voc/box_to_mask.yaml", (), 0.01, []),  # which has one of its own
    ],
)
def test_box_losses_get_a_margin_where_boxes_are_loose(
    config: str, opts: Any, share: float, margin: List[Any], tmp_path: Path
) -> None:
    options = options_for(tmp_path / "boxes.json", config_file=config, opts=opts)
    found = training._defaults(options, {"images": 2, "objects": 5, "looseness": share})
    assert found[4:] == margin
    load_config(config, found)  # keys that are there
