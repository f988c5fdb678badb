import colorsys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple
from urllib.parse import unquote

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances

from seg_every_thing.visualization import (
    GalleryItem,
    _Painter,
    draw_ground_truth,
    draw_instances,
    save_picture,
    side_by_side,
    write_gallery,
)

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
    monkeypatch.setattr(_Painter, "draw_text", lambda self, text, *_, **__: texts.append(text))
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
    painter = _Painter(grey_image())
    box, size = np.array([300.0, 2.0, 399.0, 200.0]), (120.0, 20.0)
    taken: List[np.ndarray] = []
    for _ in range(5):
        x0, y0, x1, y1 = place = painter._place(box, size, taken)
        assert 0 <= x0 < x1 <= SIDE
        assert 0 <= y0 < y1 <= SIDE
        for other in taken:
            assert (np.minimum(place, other)[2:] <= np.maximum(place, other)[:2]).any()
        taken.append(place)


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
    draw_text = _Painter.draw_text

    def spy(self: _Painter, text: str, *args: Any, **kwargs: Any) -> Any:
        texts.append(text)
        return draw_text(self, text, *args, **kwargs)

    monkeypatch.setattr(_Painter, "draw_text", spy)
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


# Panels


def test_panels_stand_at_one_height_under_captions() -> None:
    left = np.full((400, 300, 3), (10, 200, 30), np.uint8)
    right = np.full((200, 100, 3), (200, 10, 30), np.uint8)
    row = side_by_side([("left $1", left), ("a long caption " * 2, right)])
    assert row.shape == (400 + 28, 300 + 6 + 200, 3)
    assert (row[28:, :300] == (10, 200, 30)).all()
    assert (row[:, 300:306] == 255).all()
    assert (row[28:, 306:] == (200, 10, 30)).all()
    for caption in (row[:28, :300], row[:28, 306:]):
        assert caption.min() < 100  # there is writing ...
        assert (caption[:, [0, -1]] == 255).all()  # ... that ends before the edges


def test_small_panels_are_enlarged() -> None:
    panel = np.full((128, 128, 3), 77, np.uint8)
    row = side_by_side([("a", panel), ("b", panel)])
    assert row.shape == (384 + 28, 2 * 384 + 6, 3)
    assert (row[28:, :384] == 77).all()


def test_no_panels_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one panel"):
        side_by_side([])


# Files


def test_save_picture_round_trip(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    save_picture(tmp_path / "a.png", image)
    assert (cv2.imread(str(tmp_path / "a.png")) == image).all()
    save_picture(tmp_path / "a.png", image[::-1])
    assert (cv2.imread(str(tmp_path / "a.png")) == image[::-1]).all()
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_save_picture_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a.xyz"):
        save_picture(tmp_path / "a.xyz", grey_image())
    with pytest.raises(OSError, match="missing/a.png"):
        save_picture(tmp_path / "missing" / "a.png", grey_image())
    assert list(tmp_path.iterdir()) == []


class Page(HTMLParser):
    """What a test wants to know of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: List[str] = []
        self.attributes: List[Tuple[str, Dict[str, Optional[str]]]] = []
        self.texts: List[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    def images(self) -> List[Dict[str, Optional[str]]]:
        return [attributes for tag, attributes in self.attributes if tag == "img"]


@pytest.fixture
def pictures(tmp_path: Path) -> List[str]:
    names = ["plain.png", "50% of #1 & more.png", "below/ü.png"]
    (tmp_path / "below").mkdir()
    for name in names:
        save_picture(tmp_path / name, np.zeros((10, 20, 3), np.uint8))
    return names


def test_gallery_refers_to_files_that_exist(tmp_path: Path, pictures: List[str]) -> None:
    items = [GalleryItem(name, f"<b> & {name}") for name in pictures]
    items.append(GalleryItem(str(tmp_path / "plain.png"), "given as an absolute path"))
    write_gallery(tmp_path / "index.html", "Title", "Intro", items)
    page = Page(tmp_path / "index.html")
    sources = [unquote(image["src"] or "") for image in page.images()]
    assert sources == [*pictures, "plain.png"]
    assert all((tmp_path / source).is_file() for source in sources)
    for image, item in zip(page.images(), items):
        assert image["loading"] == "lazy"
        assert image["alt"] == item.caption
        assert (image["width"], image["height"]) == ("20", "10")
        assert item.caption in page.texts
    links = [attributes["href"] for tag, attributes in page.attributes if tag == "a"]
    assert links == [image["src"] for image in page.images()]


def test_gallery_needs_no_network(tmp_path: Path, pictures: List[str]) -> None:
    items = [GalleryItem(name, name) for name in pictures]
    write_gallery(tmp_path / "index.html", "T", "I", items, (["a"], [["b"]]), with_sets=True)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert not {"script", "link", "iframe"} & set(Page(tmp_path / "index.html").tags)


def test_gallery_escapes_and_shows_the_table(tmp_path: Path) -> None:
    table = (["row", "AP<sub>"], [["<script>x</script>", 12.345], ["b", 3]])
    write_gallery(tmp_path / "index.html", "<i>T</i>", "one < two\n\n<p>three", [], table)
    page = Page(tmp_path / "index.html")
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert page.tags.count("p") == 3  # the two of the intro, and that there are no pictures
    for text in ("<i>T</i>", "one < two", "<p>three", "AP<sub>", "<script>x</script>", "12.3", "3"):
        assert text in page.texts
    assert page.tags.count("tr") == 3


def test_gallery_legend_names_both_sets(tmp_path: Path) -> None:
    for with_sets in (True, False):
        write_gallery(tmp_path / "index.html", "T", "I", [], with_sets=with_sets)
        page = Page(tmp_path / "index.html")
        legend = [text for text in page.texts if text.startswith("set ")]
        assert [text[:6] for text in legend] == (["set A:", "set B:"] if with_sets else [])


def test_gallery_refuses_missing_pictures_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.png"):
        write_gallery(tmp_path / "index.html", "T", "I", [GalleryItem("none.png", "c")])
    assert list(tmp_path.iterdir()) == []
