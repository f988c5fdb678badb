"""Masks in windows: their pixels, parts, RLE and polygons."""

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest

from seg_every_thing.annotation.encoding import (
    CutMask,
    keep_parts,
    runs_of,
    to_polygons,
    to_rle,
    window_of,
)

RING = np.pad(np.pad(np.zeros((6, 6), bool), 4, constant_values=True), 2)
BLOBS = np.zeros((30, 40), bool)
for _y, _x, _r in ((6, 6, 5), (6, 30, 4), (20, 8, 6), (22, 24, 3), (25, 35, 2)):
    _rows, _columns = np.mgrid[:30, :40]
    BLOBS |= (_rows - _y) ** 2 + (_columns - _x) ** 2 <= _r**2


def drawn(polygons: Any, height: int, width: int) -> np.ndarray:
    rles = mask_util.frPyObjects(polygons, height, width)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


@pytest.mark.parametrize(
    ("box", "window"),
    [
        ((2, 3, 4, 5), (2, 3, 6, 8)),
        ((2.4, 3.6, 4, 5), (2, 4, 6, 9)),  # pixels 2.5 to 5.5 have their centres in 2.4 to 6.4
        ((-5, -5, 100, 100), (0, 0, 20, 10)),
        ((0, 0, 20, 10), (0, 0, 20, 10)),
        ((7.1, 4.2, 0.3, 0.2), (7, 4, 8, 5)),  # no centre: the pixel that it lies in
        ((19.9, 9.9, 0.1, 0.1), (19, 9, 20, 10)),
        ((-3, 2, 3.2, 1), (0, 2, 1, 3)),
    ],
)
def test_pixels_of_a_box(box: Any, window: Any) -> None:
    assert window_of(box, 10, 20) == window


@pytest.mark.parametrize("pixels", [np.ones((1, 1), bool), np.zeros((3, 4), bool), RING, BLOBS])
@pytest.mark.parametrize("place", [(0, 0), (3, 7)])
def test_rle_is_the_mask_in_its_image(pixels: np.ndarray, place: Any) -> None:
    left, top = place
    h, w = pixels.shape
    height, width = h + top + 2, w + left
    mask = CutMask(pixels, left, top)
    whole = np.zeros((height, width), bool)
    whole[top : top + h, left : left + w] = pixels
    rle = to_rle(mask, height, width)
    assert rle["size"] == [height, width]
    assert isinstance(rle["counts"], str)
    np.testing.assert_array_equal(mask_util.decode(rle).astype(bool), whole)
    encoded = mask_util.encode(np.asfortranarray(whole.astype(np.uint8)))
    assert rle["counts"] == encoded["counts"].decode()
    assert sum(runs_of(mask, height, width)) == height * width


def test_parts() -> None:
    largest = keep_parts(BLOBS, "largest")
    assert largest.sum() == 113  # pixels of a disk of radius 6
    np.testing.assert_array_equal(keep_parts(BLOBS, "all"), BLOBS)
    np.testing.assert_array_equal(keep_parts(BLOBS, "external"), BLOBS)
    filled = keep_parts(RING, "external")
    assert filled.sum() == 14 * 14
    assert keep_parts(RING, "largest").sum() == RING.sum()
    assert not keep_parts(np.zeros((4, 4), bool), "largest").any()


def test_polygons_of_five_parts() -> None:
    polygons, area, iou = to_polygons(CutMask(BLOBS, 3, 2))
    assert len(polygons) == 5
    assert all(len(p) % 2 == 0 and len(p) >= 6 for p in polygons)
    found = drawn(polygons, 40, 50)[2:32, 3:43]
    assert area == found.sum()
    assert (found & BLOBS).sum() / (found | BLOBS).sum() == pytest.approx(iou)
    assert iou >= 0.95


def test_a_pixel_and_a_rectangle_are_exact_as_polygons() -> None:
    assert to_polygons(CutMask(np.ones((1, 1), bool), 4, 6))[1:] == (1, 1.0)
    polygons, _, iou = to_polygons(CutMask(np.ones((3, 5), bool), 4, 6))
    assert iou == 1.0
    assert sorted(zip(polygons[0][::2], polygons[0][1::2])) == [(4, 6), (4, 9), (9, 6), (9, 9)]


def test_polygons_lose_holes_and_say_so() -> None:
    polygons, area, iou = to_polygons(CutMask(RING, 0, 0))
    assert (len(polygons), area) == (1, 14**2)
    assert iou == pytest.approx(RING.sum() / 14**2)


def test_extent() -> None:
    assert CutMask(RING, 10, 20).extent() == [12, 22, 14, 14]
