"""Boxes of annotation files: which can be used, and whether a file writes corners for sizes."""

from typing import Any, List, Optional

import numpy as np
import pytest

from seg_every_thing.data.boxes import (
    CUT_BOX,
    EMPTY_BOX,
    OUTSIDE_BOX,
    CornerVotes,
    overlap,
    read_box,
)

SIZE = (80, 96)  # height, width


@pytest.mark.parametrize(
    "bbox, words",
    [
        (None, "no bbox"),
        ("4, 6, 20, 24", "not 4 numbers"),
        ({}, "not 4 numbers"),
        (7, "not 4 numbers"),
        ([], "not 4 numbers"),
        ([4, 6, 20], "not 4 numbers"),
        ([4, 6, 20, 24, 0.5], "not 4 numbers"),
        (["4", 6, 20, 24], "not 4 numbers"),
        ([None, 6, 20, 24], "not 4 numbers"),
        ([[4], [6], [20], [24]], "not 4 numbers"),
        ([True, 6, 20, 24], "not 4 numbers"),
        ([float("nan"), 6, 20, 24], "no place or size"),
        ([4, 6, 20, float("nan")], "no place or size"),
        ([4, 6, float("inf"), 24], "no place or size"),
        ([4, -float("inf"), 20, 24], "no place or size"),
        ([4, 6, 1e300, 24], "no place or size"),
        ([4, 6, 10**400, 24], "no place or size"),
        ([4, 6, -20, 24], "negative width or height"),
        ([4, 6, 20, -0.5], "negative width or height"),
    ],
)
def test_boxes_that_are_none_are_refused(bbox: Any, words: str) -> None:
    for size in (SIZE, None):
        with pytest.raises(ValueError, match=words) as e:
            read_box(bbox, size)
        assert "\n" not in str(e.value) and len(str(e.value)) < 200


@pytest.mark.parametrize(
    "bbox, flaw",
    [
        ([4, 6, 20, 24], ""),
        ([0, 0, 96, 80], ""),
        ([-0.9, 6, 97.5, 24], ""),  # by less than a pixel: as it is
        ([4, 6, 0, 24], EMPTY_BOX),
        ([4, 6, 20, 0.0], EMPTY_BOX),
        ([4, 6, 1e-7, 24], EMPTY_BOX),
        ([96, 6, 20, 24], OUTSIDE_BOX),
        ([4, 200, 20, 24], OUTSIDE_BOX),
        ([-30, 6, 20, 24], OUTSIDE_BOX),
    ],
)
def test_boxes_stay_as_they_are(bbox: List[float], flaw: str) -> None:
    box = read_box(bbox, SIZE)
    assert box.xywh is bbox and box.flaw == flaw
    assert read_box(bbox).flaw == (flaw if flaw == EMPTY_BOX else "")


def test_boxes_that_leave_the_image_are_cut() -> None:
    assert read_box([-10, 6, 30, 24], SIZE) == ([0, 6, 20, 24], CUT_BOX)
    assert read_box([4, 70, 20, 24], SIZE) == ([4, 70, 20, 10], CUT_BOX)
    assert read_box([-1e8, -1e8, 1e8 + 96, 1e8 + 40], SIZE) == ([0, 0, 96, 40], CUT_BOX)


def test_boxes_of_numpy() -> None:
    assert read_box(np.array([4.0, 6, 20, 24]), SIZE).flaw == ""
    with pytest.raises(ValueError, match="not 4 numbers"):
        read_box(np.array([[4.0, 6, 20, 24]]), SIZE)


def test_overlap() -> None:
    assert overlap((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(8 / 24)
    assert overlap((0, 0, 4, 4), (0, 0, 4, 4)) == 1
    assert overlap((0, 0, 4, 4), (4, 0, 8, 4)) == overlap((0, 0, 4, 4), (1, 1, 1, 3)) == 0


# --- corners by mistake -------------------------------------------------------------------------


def judge(corners: np.ndarray, written_as_corners: bool, masks: bool) -> Optional[str]:
    votes = CornerVotes()
    for x0, y0, x1, y1 in corners.tolist():
        bbox = [x0, y0, x1, y1] if written_as_corners else [x0, y0, x1 - x0, y1 - y0]
        votes.add(bbox, SIZE, (x0, y0, x1, y1) if masks else None)
    try:
        votes.check()
    except ValueError as e:
        return str(e)
    return None


def random_corners(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 1, (count, 2, 2)) * [96, 80]
    return np.concatenate([points.min(axis=1), points.max(axis=1) + 0.5], axis=1).round(1)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("count", [12, 200])
def test_corners_are_told_from_sizes(masks: bool, count: int) -> None:
    for seed in range(10):
        corners = random_corners(count, seed)
        message = judge(corners, True, masks)
        assert message is not None and "its boxes are x0, y0, x1, y1" in message
        assert judge(corners, False, masks) is None


def test_a_single_box_is_no_evidence() -> None:
    assert judge(random_corners(1, 3), True, True) is None


def test_boxes_that_often_leave_their_images_are_no_corners() -> None:
    """As of objects that are annotated beyond what is seen of them."""
    corners = random_corners(100, 4)
    corners[::4, 2] += 30
    assert judge(corners, False, False) is None


def test_shares_of_the_image_are_no_pixels() -> None:
    corners = random_corners(20, 5)
    message = judge(corners / 100, False, False)
    assert message is not None and "its 20 boxes have no number above 1" in message
    assert judge(corners / 100, False, True) == message  # whatever their masks are
    assert judge(corners[:1] / 100, False, False) is None
    one_is_not = np.concatenate([corners / 100, [[2.0, 2.0, 9.0, 9.0]]])
    assert judge(one_is_not, False, False) is None
