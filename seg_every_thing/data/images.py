"""Images from files: one reader for training, evaluation, semantic data sets and demo."""

import contextlib
import logging
import os
from typing import IO, Any, Dict, Iterator

import cv2
import numpy as np
from detectron2.data import detection_utils
from detectron2.data.detection_utils import (
    SizeMismatchError,
    _apply_exif_orientation,
    convert_PIL_to_numpy,
)
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import log_first_n
from PIL import Image, UnidentifiedImageError

from ..files import PathLike, printable

_ORIENTATION = 0x0112  # EXIF tag
_QUARTER_TURNS = (5, 6, 7, 8)  # its values that exchange width and height
_SLACK = 0.01  # how far resampling or compression may lead a float image beyond 0 to 1
_DARK = 4096  # of 65536

_stock_size_check = detection_utils.check_image_size  # mappers put ours in its place


def read_image(path: PathLike, format: str = "BGR") -> np.ndarray:
    """Read an image as detectron2 does, but scale what is deeper than 8 bits instead of clipping.

    Images of 8 bits, of any mode, come out bit for bit as from detectron2, turned as their EXIF
    orientation says.  Of 16 bits the upper 8 are taken: 0 to 65535 becomes 0 to 255, whatever the
    brightest pixel is.  Floats from 0 to 1 become 0 to 255, rounded.

    Args:
        path: of the file.
        format: "BGR", "RGB", "L" or another one of detectron2.

    Returns:
        (H, W, 3) uint8, or as detectron2 has it for the format; "L" is (H, W, 1).

    Raises:
        FileNotFoundError: when the file is missing.
        ValueError: when it cannot be read, or its values have no known black and white; the
            message names it.
    """
    with readable("image", path), PathManager.open(str(path), "rb") as f:
        image: Image.Image
        try:
            image = Image.open(f)
        except UnidentifiedImageError:
            image = Image.fromarray(_to_8_bits(_decoded_by_opencv(f), path))
        stored, mode = image.format, image.mode
        image = _apply_exif_orientation(image)
        if mode in ("I", "F") or mode.startswith("I;16"):
            pixels = np.asarray(image)
            # PNG and PPM have no more than 16 bits, whatever some versions of Pillow call them.
            if mode.startswith("I;16") or (mode == "I" and stored in ("PNG", "PPM")):
                pixels = pixels.astype(np.uint16)
            image = Image.fromarray(_to_8_bits(pixels, path))
        return np.ascontiguousarray(convert_PIL_to_numpy(image, format))


def _decoded_by_opencv(f: IO[bytes]) -> np.ndarray:
    """What Pillow does not know: TIFF in colours of 32 bits, or of 64."""
    f.seek(0)
    data = f.read()
    if data[:4] not in (b"II*\0", b"MM\0*"):
        raise UnidentifiedImageError
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise UnidentifiedImageError
    return pixels if pixels.ndim == 2 else pixels[:, :, 2::-1]  # to RGB; without alpha


def _to_8_bits(pixels: np.ndarray, path: PathLike) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    low, high = pixels.min(), pixels.max()
    if pixels.dtype == np.uint16:
        if high < _DARK:
            log_first_n(
                logging.WARNING,
                f"the image '{printable(path)}' has 16 bits and no value above {high} of 65535: it "
                f"is read as a dark one. Where 65535 is not white, scale the values",
                name=__name__,
            )
        return (pixels >> 8).astype(np.uint8)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"its pixels are {pixels.dtype}: store it with 8 or 16 bits")
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # also where there is NaN
        raise ValueError(
            f"its pixels are floats from {low:g} to {high:g}: scale them to 0 (black) to 1 (white)"
        )
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


def check_image_size(dataset_dict: Dict[str, Any], image: np.ndarray) -> None:
    """detectron2's check of an image against the "width" and "height" of its dataset dict.

    Raises:
        SizeMismatchError: when they differ; the message says EXIF where that explains it.
    """
    try:
        _stock_size_check(dataset_dict, image)
    except SizeMismatchError as e:
        path, (height, width) = dataset_dict["file_name"], image.shape[:2]
        expected = dataset_dict["height"], dataset_dict["width"]
        remark = exif_remark(path, (height, width), expected) or "correct what is wrong"
        raise SizeMismatchError(
            f"the image '{printable(path)}' has {width} x {height} pixels (width x height), its "
            f"annotation says {expected[1]} x {expected[0]}: {remark}"
        ) from e


def exif_remark(path: PathLike, size: Any, expected: Any) -> str:
    """What EXIF has to do with an image that is not as large as expected; "" = nothing.

    Args:
        path: of the image.
        size: (height, width) as read.
        expected: (height, width) of its annotation or labels.
    """
    if tuple(size) != tuple(expected)[::-1]:
        return ""
    orientation = None
    with contextlib.suppress(Exception), Image.open(path) as image:
        orientation = image.getexif().get(_ORIENTATION)
    if orientation in _QUARTER_TURNS:
        return (
            f"its EXIF orientation ({orientation}) turns it, and these are of the image before "
            f"that. Remove the EXIF orientation from the file, or annotate the turned image"
        )
    return (
        "width and height are exchanged, as by an EXIF orientation that this file does not have. "
        "Turn the file, or annotate the image as it is"
    )


@contextlib.contextmanager
def readable(kind: str, path: PathLike) -> Iterator[None]:
    """Turn the many ways in which reading a picture fails into one line that names the file.

    Args:
        kind: what the file is for: "image", "label file".
        path: of the file.

    Raises:
        FileNotFoundError: when it is missing.
        ValueError: for anything else.
    """
    name = f"the {kind} '{printable(path)}'"
    try:
        yield
    except FileNotFoundError as e:
        raise FileNotFoundError(f"{name} does not exist") from e
    except UnidentifiedImageError as e:
        empty = os.path.isfile(path) and os.path.getsize(path) == 0
        reason = "the file is empty" if empty else "it is no image of a known format"
        raise ValueError(f"cannot read {name}: {reason}") from e
    except Image.DecompressionBombError as e:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ValueError(
            f"cannot read {name}: it has more than {limit} pixels, which Pillow refuses. Make it "
            f"smaller"
        ) from e
    except Exception as e:  # Pillow answers broken files with errors of many kinds
        raise ValueError(f"cannot read {name}: {reason_of(e)}") from e


@contextlib.contextmanager
def preparing(path: PathLike) -> Iterator[None]:
    """Let what goes wrong between a file and the model's input name the image.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: for anything else, as an image so thin that nothing is left of it when resized.
    """
    try:
        yield
    except FileNotFoundError as e:
        raise FileNotFoundError(
            f"{e}: check the folders of the data set and DETECTRON2_DATASETS"
        ) from e
    except (ArithmeticError, AssertionError, MemoryError, RuntimeError, ValueError) as e:
        if printable(path) in str(e):
            raise
        raise ValueError(
            f"the image '{printable(path)}' cannot be made ready for the model: {reason_of(e)}"
        ) from e


def reason_of(error: BaseException) -> str:
    """What an error says, in one line."""
    text = getattr(error, "strerror", None) or str(error)
    if text == "height and width must be > 0":  # Pillow, when it resizes
        return "it is so thin that nothing is left of it at the model's size"
    return " ".join(text.split()) or type(error).__name__
