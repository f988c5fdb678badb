"""Pictures as files: what is written is what is read, and complete or not there."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from full_disk import full_disk

from seg_every_thing.data.picture_files import encode_picture, save_picture


def test_save_picture_round_trip(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    save_picture(tmp_path / "a.png", image)
    assert (cv2.imread(str(tmp_path / "a.png")) == image).all()
    save_picture(tmp_path / "a.png", image[::-1])
    assert (cv2.imread(str(tmp_path / "a.png")) == image[::-1]).all()
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_save_picture_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a.xyz"):
        save_picture(tmp_path / "a.xyz", np.full((40, 40, 3), 128, np.uint8))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write '.*file/a.png'"):
        save_picture(tmp_path / "file" / "a.png", np.full((40, 40, 3), 128, np.uint8))


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_full_disk(ending: str, tmp_path: Path) -> None:
    """A small picture fits into a buffer, and OpenCV does not ask whether that was written."""
    path = tmp_path / f"a{ending}"
    with full_disk(100), pytest.raises(OSError, match=f"cannot write '{path}': No space left"):
        save_picture(path, np.full((40, 40, 3), 128, np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_are_too_large_for_their_format() -> None:
    wide = np.zeros((1, 66000, 3), np.uint8)
    assert encode_picture(".png", wide).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="a picture of 66000 x 1 pixels is too large for '.jpg'"):
        encode_picture(".jpg", wide)
    with pytest.raises(ValueError, match="of 20000 x 10000 pixels is too large for '.png'"):
        encode_picture(".png", np.broadcast_to(np.uint8(0), (10000, 20000)))
