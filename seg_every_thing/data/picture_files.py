"""Pictures as files."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ..files import PathLike, printable, written_atomically


def encode_picture(ending: str, image_bgr: np.ndarray, quality: int = 93) -> bytes:
    """The content of a picture file.

    Args:
        ending: ".jpg", ".png", ...
        image_bgr: (H, W, 3) BGR or (H, W) grey, uint8.
        quality: of JPEG, 0 to 100.

    Raises:
        ValueError: for an unknown ending, or a picture that is too large for its format or for
            Pillow to read again.
    """
    height, width = image_bgr.shape[:2]
    encoded = False
    if height * width <= 2 * (Image.MAX_IMAGE_PIXELS or float("inf")):
        try:
            encoded, data = cv2.imencode(ending, image_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        except cv2.error as e:
            raise ValueError(f"the ending '{ending}' names no format of pictures") from e
    if not encoded:
        raise ValueError(f"a picture of {width} x {height} pixels is too large for '{ending}'")
    return data.tobytes()


def save_picture(path: PathLike, image_bgr: np.ndarray) -> None:
    """Write a picture in the format of the file's ending; the file is complete or not there.

    OpenCV's own imwrite does not tell when the disk is full.

    Raises:
        ValueError: as :func:`encode_picture`.
        OSError: when it cannot be written; the message names it.
    """
    path = Path(path)
    try:
        data = encode_picture(path.suffix, image_bgr)
    except ValueError as e:
        raise ValueError(f"cannot write '{printable(path)}': {e}") from e
    with written_atomically(path, "wb") as f:
        f.write(data)
