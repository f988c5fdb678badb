import numpy as np
import pytest

from seg_every_thing.visualization.panels import side_by_side


def grey_image(side: int = 400) -> np.ndarray:
    return np.full((side, side, 3), 128, np.uint8)


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
