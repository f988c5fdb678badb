"""Masks of annotation files: right ones stay as they are, others never reach pycocotools."""

from typing import Any, Dict, List

import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import HEIGHT, WIDTH, box_mask, box_polygon, box_rle, box_uncompressed_rle

from seg_every_thing.data.segmentations import (
    ABSENT,
    CUT,
    EMPTY,
    INCOMPLETE,
    OUTSIDE,
    SHORT,
    read_segmentation,
    shortened,
    usable_segmentation,
)

SIZE = (HEIGHT, WIDTH)
BOX = (4, 6, 20, 24)
SHORT_PARTS = ([], [1.0, 2], [1.0, 2, 3, 4], [1.0, 2, 3, 4, 5, 6, 7])


def pixels_of(segmentation: Any) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, *SIZE))
    return mask_util.decode(segmentation)


def bytes_rle() -> Dict[str, Any]:
    return mask_util.encode(np.asfortranarray(box_mask(BOX)))


def runs_of(mask: np.ndarray) -> List[int]:
    """Lengths of runs in a plain loop, the first of zeros."""
    runs, value = [0], 0
    for pixel in mask.flatten(order="F"):
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


# --- RLE ----------------------------------------------------------------------------------------

SPELLINGS = {
    "text": box_rle(BOX),
    "bytes": bytes_rle(),
    "bytes as text": {**bytes_rle(), "counts": str(bytes_rle()["counts"])},
    "list": box_uncompressed_rle(BOX),
    "list of floats": {
        "size": [float(HEIGHT), float(WIDTH)],
        "counts": [float(n) for n in box_uncompressed_rle(BOX)["counts"]],
    },
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_all_spellings_of_an_rle_are_one_mask(spelling: str) -> None:
    mask = read_segmentation(SPELLINGS[spelling], SIZE)
    np.testing.assert_array_equal(pixels_of(mask.segmentation), box_mask(BOX))
    assert mask.flaw == "" and mask.extent == (4, 6, 24, 30)


def test_an_rle_in_order_stays_the_object_that_it_is() -> None:
    for spelling in ("text", "bytes"):
        assert usable_segmentation(SPELLINGS[spelling], SIZE) is SPELLINGS[spelling]


def test_a_backslash_in_bytes_as_text() -> None:
    """It is one of the characters of compressed counts, and str() doubles it."""
    rle = mask_util.frPyObjects({"size": [100, 1], "counts": [44, 56]}, 100, 1)
    assert b"\\" in rle["counts"]
    written = {"size": [100, 1], "counts": str(rle["counts"])}
    assert usable_segmentation(written, (100, 1)) == rle


def test_runs_are_those_of_a_plain_loop() -> None:
    """Noise, blocks, one colour, single pixels; a mask of a pixel less is refused."""
    rng = np.random.default_rng(1)
    for i in range(60):
        height, width = (int(v) for v in rng.integers(1, 90, 2))
        mask = (rng.random((height, width)) < rng.choice([0.001, 0.5, 1])).astype(np.uint8)
        if i % 3 == 0:
            mask[:] = 0
            mask[height // 3 : height // 2 + 1, width // 4 : width // 2 + 1] = 1
        rle = mask_util.encode(np.asfortranarray(mask))
        read = read_segmentation(rle, (height, width))
        assert bool(read.segmentation) == mask.any()
        runs = runs_of(mask)
        listed = read_segmentation({"size": [height, width], "counts": runs}, (height, width))
        assert listed.segmentation == (rle if mask.any() else [])
        one_less = {"size": [height, width], "counts": [*runs[:-1], runs[-1] - 1]}
        with pytest.raises(ValueError, match="add up to|negative"):
            read_segmentation(one_less)
        encoded = mask_util.frPyObjects({**one_less, "counts": runs}, height, width)
        assert encoded["counts"] == rle["counts"]


def test_a_compressed_rle_of_too_few_runs_is_refused() -> None:
    """pycocotools decodes it, and leaves the rest of the mask as it finds it in memory."""
    counts = box_rle(BOX)["counts"]
    for end in range(len(counts)):
        for spelling in (counts[:end], counts[:end].encode(), str(counts[:end].encode())):
            with pytest.raises(ValueError, match="RLE"):
                read_segmentation({"size": list(SIZE), "counts": spelling}, SIZE)


def test_a_compressed_rle_of_too_many_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="add up to 35328 pixels"):
        read_segmentation({"size": list(SIZE), "counts": box_rle(BOX)["counts"][:-1] + "P1"}, SIZE)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"counts": [-1, HEIGHT * WIDTH + 1]}, "negative"),
        ({"counts": [0.5, HEIGHT * WIDTH - 0.5]}, "whole numbers"),
        ({"counts": [float("nan")]}, "whole numbers"),
        ({"counts": [float("inf")]}, "whole numbers"),
        ({"counts": [10**400]}, "RLE"),
        ({"counts": ["1", 2]}, "text or a list of numbers"),
        ({"counts": [True, 7679]}, "text or a list of numbers"),
        ({"counts": [None]}, "text or a list of numbers"),
        ({"counts": 5}, "text or a list of numbers"),
        ({"counts": {}}, "text or a list of numbers"),
        ({"counts": "~"}, "characters"),
        ({"counts": "\u00e9"}, "RLE"),
        ({"counts": "PPPPPPP0"}, "longer than any image"),
        ({"counts": "1P"}, "break off"),
        ({"counts": "b'1"}, "characters"),
        ({"size": [HEIGHT + 1, WIDTH]}, "has size 81 x 96"),
        ({"size": [WIDTH, HEIGHT]}, "transposed"),
        ({"size": [HEIGHT]}, "size must be"),
        ({"size": [HEIGHT, None]}, "size must be"),
        ({"size": ["80", "96"]}, "size must be"),
        ({"size": [80.5, 96]}, "size must be"),
        ({"size": [-80, -96]}, "size must be"),
        ({"size": [1e30, 1]}, "size must be"),
        ({"size": 7680}, "size must be"),
    ],
)
def test_a_broken_rle_is_refused(change: Dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as e:
        read_segmentation({**box_rle(BOX), **change}, SIZE)
    assert "\n" not in str(e.value) and len(str(e.value)) < 300


def test_an_empty_rle_is_no_mask() -> None:
    empty = mask_util.encode(np.zeros(SIZE, np.uint8, order="F"))
    for rle in (empty, {"size": list(SIZE), "counts": [HEIGHT * WIDTH]}):
        assert read_segmentation(rle, SIZE) == ([], EMPTY, None)


# --- polygons -----------------------------------------------------------------------------------


def test_polygons_in_order_stay_the_objects_that_they_are() -> None:
    polygons = [*box_polygon(BOX), [30, 40, 50, 40.5, 50, 60]]
    mask = read_segmentation(polygons, SIZE)
    assert mask.segmentation is polygons and mask.flaw == "" and mask.extent == (4, 6, 50, 60)


@pytest.mark.parametrize("nothing", [None, [], {}, ""])
def test_nothing_is_no_mask(nothing: Any) -> None:
    assert read_segmentation(nothing, SIZE) == ([], ABSENT, None)


@pytest.mark.parametrize("part", SHORT_PARTS)
def test_short_and_odd_polygons_are_left_out(part: List[float]) -> None:
    (good,) = box_polygon(BOX)
    assert read_segmentation([part], SIZE) == ([], SHORT, None)
    assert read_segmentation([part, good], SIZE) == ([good], INCOMPLETE, (4, 6, 24, 30))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2e9, 1e300, 10**400])
@pytest.mark.parametrize("place", [0, 1, 4, 7])
@pytest.mark.parametrize("beside", ["alone", "good ones", "short ones"])
def test_numbers_that_are_no_places_are_refused(value: float, place: int, beside: str) -> None:
    (part,) = box_polygon(BOX)
    bad: List[Any] = [*part[:place], value, *part[place + 1 :]]
    others = {"alone": [], "good ones": [part], "short ones": [[1.0]]}[beside]
    with pytest.raises(ValueError, match="no place in an image"):
        read_segmentation([*others, bad], SIZE)


@pytest.mark.parametrize("value", [None, "4", True, {}, [4]])
@pytest.mark.parametrize("beside", [[], [[4.0, 6, 24, 6, 24, 30, 4, 30]]])
def test_values_that_are_no_numbers_are_refused(value: Any, beside: List[Any]) -> None:
    with pytest.raises(ValueError, match="must be a list of numbers"):
        read_segmentation([*beside, [4.0, 6, 24, 6, 24, value]], SIZE)


@pytest.mark.parametrize(
    "form, words",
    [
        (box_polygon(BOX)[0], r"put this polygon into a list of polygons"),
        ([[4, 6], [24, 6], [24, 30], [4, 30]], "points that are lists"),
        ([[[4, 6], [24, 6], [24, 30]]], "points that are lists"),
        ([[[[4, 6], [24, 6], [24, 30]]]], "points that are lists"),
        (5, "list of polygons"),
        ("abc", "list of polygons"),
        (True, "list of polygons"),
        (["abcdef"], "list of polygons"),
        ([{"x": 1}], "list of polygons"),
        ([None], "list of polygons"),
        ({"polygon": [1]}, "needs the keys"),
    ],
)
def test_other_forms_are_refused(form: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_segmentation(form, SIZE)


def test_deep_nesting_is_refused_in_few_words() -> None:
    deep: Any = [1.0]
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ValueError) as e:
        read_segmentation(deep, SIZE)
    assert len(str(e.value)) < 300


def test_polygons_without_area_are_no_mask() -> None:
    line = [4.0, 6, 14, 6, 24, 6]
    assert read_segmentation([line], SIZE) == ([], EMPTY, None)
    assert read_segmentation([line, *box_polygon(BOX)], SIZE).segmentation[0] is line


@pytest.mark.parametrize("far", [1e4, 1e7, 1e9])
def test_polygons_that_leave_the_image_far_are_cut(far: float) -> None:
    """The right half of the image, and all that is beyond it."""
    half = [WIDTH / 2, -far, far, -far, far, far, WIDTH / 2, far]
    mask = read_segmentation([half], SIZE)
    assert mask.flaw == CUT and mask.extent == (WIDTH / 2, 0, WIDTH, HEIGHT)
    assert np.abs(mask.segmentation).max() <= WIDTH
    expected = np.zeros(SIZE, np.uint8)
    expected[:, WIDTH // 2 :] = 1
    np.testing.assert_array_equal(pixels_of(mask.segmentation), expected)


def test_polygons_that_leave_the_image_a_little_stay_as_they_are() -> None:
    """Annotation tools do that; pycocotools and detectron2 can take it."""
    beyond = [[-3.0, -2, WIDTH + 5, 10, 20, HEIGHT + 9]]
    mask = read_segmentation(beyond, SIZE)
    assert mask.segmentation is beyond and mask.flaw == ""
    assert mask.extent == (0, 0, WIDTH, HEIGHT)


@pytest.mark.parametrize("away", [200, 1e8])
def test_a_mask_outside_the_image_is_no_mask(away: float) -> None:
    (part,) = box_polygon(BOX)
    for shifted in ([v + away for v in part], [v - away for v in part]):
        assert read_segmentation([shifted], SIZE) == ([], OUTSIDE, None)
    # Its extent overlaps the image; it does not.
    corner = [-1e8, -1e8, -1e8 + 2e8, -1e8, -1e8, 1e8 - 1000]
    assert read_segmentation([corner], SIZE) == ([], OUTSIDE, None)


def test_the_size_of_the_image_may_be_unknown() -> None:
    assert usable_segmentation([[500.0, 500, 600, 500, 600, 600]])
    assert usable_segmentation(box_rle(BOX)) == box_rle(BOX)
    assert usable_segmentation([np.array(box_polygon(BOX)[0])])[0].tolist() == box_polygon(BOX)[0]


def test_numbers_of_numpy_in_a_message() -> None:
    assert shortened([np.float64(90), np.int32(2), np.bool_(True), np.str_("a")]) == (
        "[90.0, 2, True, 'a']"
    )
    with pytest.raises(ValueError, match=r"got \[5.5, 2.0\]"):
        usable_segmentation({"size": [4, 6], "counts": list(np.array([5.5, 2]))})
