import colorsys
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from seg_every_thing.visualization.drawing import draw_ground_truth, draw_instances
from seg_every_thing.visualization.painter import Painter

SIDE = 400  # large enough not to be enlarged
NAMES = ("cup", "dog", "kite")
GREY = 128

Box = Tuple[int, int, int, int]


def grey_image(side: int = SIDE) -> np.ndarray:
    return np.full((side, side, 3), GREY, np.uint8)


def box_instances(
    boxes: Sequence[Box],
    classes: Sequence[int],
    scores: Optional[Sequence[float]] = None,
    masks: bool = True,
    side: int = SIDE,
) -> Instances:
    """Instances whose masks, if any, are their whole boxes."""
    instances = Instances((side, side))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.pred_classes = torch.tensor(classes, dtype=torch.long)
    instances.scores = torch.tensor(scores if scores is not None else [0.9] * len(boxes))
    if masks:
        instances.pred_masks = torch.zeros(len(boxes), side, side, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, boxes):
            mask[y0:y1, x0:x1] = True
    return instances


def hue_at(image_bgr: np.ndarray, x: int, y: int) -> float:
    b, g, r = (float(v) / 255 for v in image_bgr[y, x])
    assert max(r, g, b) - min(r, g, b) > 0.1, "the pixel has no colour"
    return colorsys.rgb_to_hsv(r, g, b)[0]


def is_grey(image_bgr: np.ndarray, x: int, y: int) -> bool:
    return image_bgr[y, x].tolist() == [GREY] * 3


# Drawing predictions


@pytest.mark.parametrize("class_index", [0, 1, 2, 3, 17, 46, 79])
def test_set_a_is_cool_and_set_b_is_warm(class_index: int) -> None:
    instances = box_instances([(40, 60, 340, 360)], [class_index])
    as_a = draw_instances(grey_image(), instances, NAMES, {class_index})
    as_b = draw_instances(grey_image(), instances, NAMES, {class_index + 1})
    assert 0.35 < hue_at(as_a, 200, 250) < 0.75
    assert not 0.2 < hue_at(as_b, 200, 250) < 0.85
    for drawn in (as_a, as_b):
        assert drawn.shape == (SIDE, SIDE, 3)
        assert is_grey(drawn, 380, 385)


def test_outline_is_solid_for_set_a_and_dashed_for_set_b() -> None:
    # A mask that is smaller than its box: the outline of the mask stands alone.
    instances = box_instances([(20, 20, 390, 390)], [0])
    instances.pred_masks[:] = False
    instances.pred_masks[0, 100:300, 100:300] = True

    def coloured_part_of_lower_edge(set_a: Sequence[int]) -> float:
        drawn = draw_instances(grey_image(), instances, NAMES, set_a).astype(int)
        edge = drawn[298:302, 110:290]
        vivid = (edge.max(axis=2) - edge.min(axis=2)).max(axis=0) > 150
        return float(vivid.mean())

    assert coloured_part_of_lower_edge([0]) > 0.99
    assert 0.3 < coloured_part_of_lower_edge([]) < 0.9


def test_labels_carry_set_name_and_score(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: List[str] = []
    monkeypatch.setattr(Painter, "draw_text", lambda self, text, *_, **__: texts.append(text))
    instances = box_instances([(0, 0, 300, 300), (50, 50, 90, 90)], [0, 5], [0.75, 0.5])
    draw_instances(grey_image(), instances, NAMES, {0})
    assert sorted(texts) == ["A: cup 0.75", "B: 5 0.50"]  # class 5 has no name
    texts.clear()
    draw_instances(grey_image(), instances, NAMES)
    assert sorted(texts) == ["5 0.50", "cup 0.75"]


def test_threshold_keeps_equal_and_drops_lower_scores() -> None:
    instances = box_instances([(20, 60, 180, 220), (220, 60, 380, 220)], [0, 1], [0.5, 0.49])
    drawn = draw_instances(grey_image(), instances, NAMES, {0}, threshold=0.5)
    alone = draw_instances(grey_image(), instances[:1], NAMES, {0}, threshold=0.5)
    assert (drawn == alone).all()
    assert not is_grey(drawn, 100, 150)
    both = draw_instances(grey_image(), instances, NAMES, {0}, threshold=0.49)
    assert not is_grey(both, 300, 150)


def test_small_object_keeps_its_colour_on_a_large_one() -> None:
    # The large one comes last and has the better score: the area alone decides.
    boxes: List[Box] = [(150, 150, 250, 250), (20, 20, 390, 390)]
    drawn = draw_instances(grey_image(), box_instances(boxes, [1, 0], [0.6, 0.9]), NAMES, {0})
    alone = draw_instances(grey_image(), box_instances(boxes[:1], [1], [0.6]), NAMES, {0})
    assert drawn[225, 225].tolist() == alone[225, 225].tolist()
    assert 0.35 < hue_at(drawn, 330, 330) < 0.75


def test_no_instances_leave_the_image_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE + 20, 3), dtype=np.uint8)
    instances = box_instances([], [])
    instances = Instances((SIDE, SIDE + 20), **instances.get_fields())
    instances.pred_masks = torch.zeros(0, SIDE, SIDE + 20)
    assert (draw_instances(image, instances, NAMES, {0}) == image).all()


def test_instances_without_masks_are_drawn_as_boxes() -> None:
    instances = box_instances([(40, 60, 340, 360)], [0], masks=False)
    drawn = draw_instances(grey_image(), instances, NAMES)
    assert is_grey(drawn, 200, 250)
    assert not is_grey(drawn, 200, 360)  # on the lower edge
    assert not is_grey(drawn, 340, 250)


def test_small_images_are_enlarged_with_their_masks() -> None:
    instances = box_instances([(10, 50, 60, 120)], [0], side=128)
    drawn = draw_instances(grey_image(128), instances, NAMES)
    assert drawn.shape == (384, 384, 3)
    assert not is_grey(drawn, 3 * 35, 3 * 85)
    assert is_grey(drawn, 3 * 100, 3 * 100)


def test_a_thin_strip_is_not_enlarged_without_bound() -> None:
    instances = Instances((2, 1600), **box_instances([], []).get_fields())
    instances.remove("pred_masks")
    drawn = draw_instances(np.zeros((2, 1600, 3), np.uint8), instances, NAMES)
    assert drawn.shape == (2, 1600, 3)


def test_masks_of_another_size_are_refused() -> None:
    instances = box_instances([(10, 10, 60, 60)], [0], side=128)
    with pytest.raises(ValueError, match=r"'cup 0.90' has shape \(128, 128\), its image \(400"):
        draw_instances(grey_image(), instances, NAMES)


def test_class_names_are_not_read_as_formulas() -> None:
    instances = box_instances([(40, 60, 340, 360)], [0])
    drawn = draw_instances(grey_image(), instances, [r"$\frac$"])
    assert drawn.shape == (SIDE, SIDE, 3)


def test_labels_keep_off_each_other_and_inside_the_image() -> None:
    painter = Painter(grey_image())
    box, size = np.array([300.0, 2.0, 399.0, 200.0]), (120.0, 20.0)
    taken: List[np.ndarray] = []
    for _ in range(5):
        x0, y0, x1, y1 = place = painter._place(box, size, taken)
        assert 0 <= x0 < x1 <= SIDE
        assert 0 <= y0 < y1 <= SIDE
        for other in taken:
            assert (np.minimum(place, other)[2:] <= np.maximum(place, other)[:2]).any()
        taken.append(place)


# Many instances


def test_no_more_instances_than_wanted_and_those_of_the_highest_scores() -> None:
    boxes: List[Box] = [(20, 60, 120, 220), (150, 60, 250, 220), (280, 60, 380, 220)]
    instances = box_instances(boxes, [0, 1, 2], [0.6, 0.9, 0.8])
    drawn = draw_instances(grey_image(), instances, NAMES, {0}, max_instances=2)
    assert (drawn == draw_instances(grey_image(), instances[1:], NAMES, {0})).all()
    assert (drawn != draw_instances(grey_image(), instances, NAMES, {0})).any()
    drawn = draw_instances(grey_image(), instances, NAMES, {0}, max_instances=9)
    assert (drawn == draw_instances(grey_image(), instances, NAMES, {0})).all()


def test_the_smaller_mask_lies_on_top_though_its_box_is_the_larger() -> None:
    boxes: List[Box] = [(100, 100, 300, 300), (20, 20, 390, 390)]
    instances = box_instances(boxes, [0, 1])
    instances.pred_masks[1] = False
    instances.pred_masks[1, 150:250, 20:390] = True  # 37 000 pixels; the other has 40 000
    drawn = draw_instances(grey_image(), instances, NAMES, {0})
    assert not 0.2 < hue_at(drawn, 200, 200) < 0.85  # of set B
    assert 0.35 < hue_at(drawn, 200, 280) < 0.75


def spied_places(monkeypatch: pytest.MonkeyPatch) -> List[np.ndarray]:
    places: List[np.ndarray] = []
    place_of = Painter._place

    def spy(self: Painter, *args: Any) -> np.ndarray:
        places.append(place_of(self, *args))
        return places[-1]

    monkeypatch.setattr(Painter, "_place", spy)
    return places


def test_labels_of_overlapping_boxes_do_not_cover_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = spied_places(monkeypatch)
    boxes: List[Box] = [(100 + 3 * i, 120 + 2 * i, 250 + 5 * i, 200 + 4 * i) for i in range(24)]
    instances = box_instances(boxes, range(24), masks=False)
    draw_instances(grey_image(), instances, ["traffic light"] * 24, {0, 1, 2})
    assert len(places) == 24
    for i, place in enumerate(places):
        assert (place >= 0).all() and (place <= SIDE).all()
        for other in places[:i]:
            sides = np.minimum(place, other)[2:] - np.maximum(place, other)[:2]
            assert not (sides > 1e-6).all()


def test_a_label_away_from_its_box_has_a_line_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    places = spied_places(monkeypatch)
    lines: List[np.ndarray] = []

    def spy(self: Painter, x: Any, y: Any, *_: Any, **__: Any) -> None:
        lines.append(np.array([x, y], dtype=float).T)

    monkeypatch.setattr(Painter, "draw_line", spy)
    box: Box = (200, 200, 210, 210)
    draw_instances(grey_image(), box_instances([box] * 24, [0] * 24, masks=False), NAMES)
    x0, y0, x1, y1 = np.array(places).T
    away = (x0 > 212) | (x1 < 198) | (y0 > 212) | (y1 < 198)
    assert len(lines) == away.sum() >= 10
    for (start, end), place in zip(lines, np.array(places)[away]):
        assert (start >= box[:2]).all() and (start <= box[2:]).all()
        assert (end >= place[:2]).all() and (end <= place[2:]).all()


def test_lines_are_thin_where_objects_are_small_or_many(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: List[float] = []

    def spy(self: Painter, *_: Any, linewidth: float, **__: Any) -> None:
        widths.append(linewidth)

    monkeypatch.setattr(Painter, "draw_line", spy)

    def width_of(box: Box, count: int) -> float:
        widths.clear()
        draw_instances(grey_image(), box_instances([box] * count, [0] * count), NAMES)
        return widths[1]  # of the coloured outline; the dark one below it comes first

    large, small = (100, 100, 300, 300), (100, 100, 112, 112)
    assert width_of(large, 1) == 1.4
    assert width_of(small, 1) == 0.5
    assert width_of(large, 16) == pytest.approx(0.98)


def test_an_added_class_is_violet_dotted_and_called_new(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: List[str] = []
    monkeypatch.setattr(Painter, "draw_text", lambda self, text, *_, **__: texts.append(text))
    instances = box_instances([(40, 60, 340, 360)], [2])
    for set_a in ({0}, None):
        drawn = draw_instances(grey_image(), instances, NAMES, set_a, added={2})
        assert 0.72 < hue_at(drawn, 200, 250) < 0.85
    assert texts == ["new: kite 0.90"] * 2


# Drawing ground truth


def annotation(box: Box, segmentation: Any, category_id: int = 0, **more: Any) -> Dict[str, Any]:
    x0, y0, x1, y1 = box
    xywh = [x0, y0, x1 - x0, y1 - y0]
    return {
        "bbox": xywh,
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": category_id,
        "segmentation": segmentation,
        **more,
    }


def rle_of(box: Box, side: int = SIDE) -> Dict[str, Any]:
    x0, y0, x1, y1 = box
    mask = np.zeros((side, side), np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    return mask_util.encode(mask)


def test_ground_truth_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    polygon, rle, crowd, box_only = (
        (20, 40, 180, 180),
        (220, 40, 380, 180),
        (20, 240, 180, 380),
        (220, 240, 380, 380),
    )
    x0, y0, x1, y1 = polygon
    annotations = [
        annotation(polygon, [[x0, y0, x1, y0, x1, y1, x0, y1]]),
        annotation(rle, rle_of(rle), 1),
        annotation(crowd, rle_of(crowd), 1, iscrowd=1),
        annotation(box_only, [], 2),
    ]
    texts: List[str] = []
    draw_text = Painter.draw_text

    def spy(self: Painter, text: str, *args: Any, **kwargs: Any) -> Any:
        texts.append(text)
        return draw_text(self, text, *args, **kwargs)

    monkeypatch.setattr(Painter, "draw_text", spy)
    drawn = draw_ground_truth(grey_image(), {"annotations": annotations}, NAMES, {0})
    assert sorted(texts) == ["A: cup", "B: dog", "B: dog (crowd)", "B: kite"]
    assert 0.35 < hue_at(drawn, 100, 130) < 0.75
    assert not 0.2 < hue_at(drawn, 300, 130) < 0.85
    assert hue_at(drawn, 100, 320) == hue_at(drawn, 300, 130)  # of one class
    assert is_grey(drawn, 300, 320)
    assert not is_grey(drawn, 300, 380)


def test_ground_truth_without_objects() -> None:
    for empty in ({}, {"annotations": []}):
        assert (draw_ground_truth(grey_image(), empty, NAMES) == GREY).all()


def test_bad_ground_truth_is_refused() -> None:
    box = (20, 20, 90, 90)
    with pytest.raises(ValueError, match="'cup' has shape"):
        draw_ground_truth(grey_image(), {"annotations": [annotation(box, rle_of(box, 100))]}, NAMES)
    with pytest.raises(ValueError, match="polygons"):
        draw_ground_truth(grey_image(), {"annotations": [annotation(box, "poly")]}, NAMES)
