"""The mask of an object: whether it is one, in a form that detectron2 and pycocotools can take.

pycocotools believes what it is given.  Runs that do not fill the image leave memory as it was, and
coordinates far outside the image stall or end the process.  So nothing reaches it unchecked.
"""

import re
import reprlib
from itertools import chain
from typing import Any, Dict, List, NamedTuple, NoReturn, Optional, Tuple, Union

import numpy as np
import pycocotools.mask as mask_util
from fvcore.transforms.transform import CropTransform

Segmentation = Union[List[List[float]], Dict[str, Any]]
Size = Tuple[int, int]
"""(height, width)"""
Corners = Tuple[float, float, float, float]
"""x0, y0, x1, y1"""

MAX_COORDINATE = 1e9
"""A coordinate beyond this says nothing of a place; up to it, polygons can be cut to the image."""
MAX_PIXELS = 1 << 29
"""Of an image.  Longer runs do not survive pycocotools' encoding, nor do images that large open."""

ABSENT = "without a mask"
SHORT = "with invalid polygons"
EMPTY = "with an empty mask"
OUTSIDE = "with a mask outside the image"
CUT = "with a mask cut to the image"
INCOMPLETE = "with a mask of which invalid polygons are left out"

_NUMBERS = {int, float}


class _Repr(reprlib.Repr):
    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, np.generic):  # numpy 2 writes "np.float64(90.0)"
            return self.repr1(x.item(), level)
        return super().repr_instance(x, level)


_SHORTENED = _Repr()
_SHORTENED.maxlist = _SHORTENED.maxdict = 4
_SHORTENED.maxstring = _SHORTENED.maxother = 40
_SHORTENED.maxlevel = 3


class Mask(NamedTuple):
    """A mask that was checked."""

    segmentation: Segmentation  # polygons or compressed RLE; [] = none
    flaw: str = (
        ""  # ABSENT, SHORT, EMPTY, OUTSIDE: why there is none; CUT, INCOMPLETE: what it lost
    )
    extent: Optional[Corners] = None  # of its pixels in the image; None where there is none


def shortened(value: Any) -> str:
    """A value of a file, however large or deep, as a few words of a message."""
    return _SHORTENED.repr(value)


def are_numbers(values: Any) -> bool:
    """Whether a list (or array) holds numbers alone: no text, null, truth values or lists."""
    if isinstance(values, np.ndarray):
        return values.ndim == 1 and values.dtype.kind in "iuf"
    if set(map(type, values)) <= _NUMBERS:
        return True
    return all(isinstance(v, (int, float, np.number)) and not isinstance(v, bool) for v in values)


def usable_segmentation(segmentation: Any, image_size: Optional[Size] = None) -> Segmentation:
    """The mask of an object in a form that detectron2 can transform; ``[]`` where there is none.

    Arguments and errors are those of :func:`read_segmentation`.
    """
    return read_segmentation(segmentation, image_size).segmentation


def read_segmentation(segmentation: Any, image_size: Optional[Size] = None) -> Mask:
    """Check the mask of an object.

    Args:
        segmentation: polygons; RLE, its counts compressed (text, bytes, or bytes written as text:
            "b'...'") or not (a list); or nothing (None, ``[]``, ``{}``).
        image_size: (height, width) that an RLE must have, and that polygons are cut to where they
            leave the image by more than its own size; None = any.

    Returns:
        The mask.  Polygons of fewer than 3 points or an odd number of coordinates are left out.  It
        is none where not a single pixel is left.

    Raises:
        ValueError: for anything else; the message says what is wrong and what would be right.
    """
    if segmentation is None or (hasattr(segmentation, "__len__") and len(segmentation) == 0):
        return Mask([], ABSENT)
    if isinstance(segmentation, dict):
        return _read_rle(segmentation, image_size)
    if not isinstance(segmentation, list):
        raise ValueError(
            f"a segmentation must be a list of polygons ([[x0, y0, x1, y1, ...], ...]) or an RLE, "
            f"got {shortened(segmentation)}"
        )
    return _read_polygons(segmentation, image_size)


# --- RLE ----------------------------------------------------------------------------------------


def _read_rle(rle: Dict[str, Any], image_size: Optional[Size]) -> Mask:
    if not {"size", "counts"} <= rle.keys():
        raise ValueError("an RLE segmentation needs the keys 'size' and 'counts'")
    (height, width), counts = _size_of(rle["size"]), rle["counts"]
    if image_size is not None and (height, width) != tuple(image_size):
        turned = (width, height) == tuple(image_size)
        raise ValueError(
            f"the RLE segmentation has size {height} x {width} (height x width), "
            f"the image {image_size[0]} x {image_size[1]}"
            + (": it is written as [width, height], or transposed" if turned else "")
        )
    try:
        if isinstance(counts, str):
            counts = _bytes_of(counts)
        runs = _decoded(counts) if isinstance(counts, bytes) else _whole_numbers(counts)
    except (ValueError, OverflowError) as e:
        raise ValueError(f"cannot read the RLE segmentation: {e}") from e
    if (runs < 0).any():
        raise ValueError("cannot read the RLE segmentation: it has runs of negative length")
    if runs.sum() != height * width or not 0 <= height * width < MAX_PIXELS:
        raise ValueError(
            f"the runs of the RLE segmentation add up to {int(runs.sum())} pixels, its size "
            f"{height} x {width} (height x width) asks for {height * width}"
        )
    if not runs[1::2].any():
        return Mask([], EMPTY)
    if not isinstance(counts, bytes):
        whole = {"size": [height, width], "counts": runs.astype(int).tolist()}
        rle = mask_util.frPyObjects(whole, height, width)
    elif len(counts) != len(rle["counts"]) or float in map(type, rle["size"]):
        rle = {**rle, "size": [height, width], "counts": counts}
    x, y, w, h = mask_util.toBbox(rle)
    return Mask(rle, "", (x, y, x + w, y + h))


def _size_of(size: Any) -> Size:
    whole = isinstance(size, (list, tuple, np.ndarray)) and len(size) == 2 and are_numbers(size)
    if not whole or not all(0 <= v < MAX_PIXELS and v == int(v) for v in size):
        raise ValueError(f"an RLE's size must be [height, width], got {shortened(size)}")
    return int(size[0]), int(size[1])


def _bytes_of(counts: str) -> bytes:
    """Compressed counts; also what ``str()`` makes of bytes, "b'...'", which is no RLE itself."""
    written = re.fullmatch(r"b(['\"])([0-o]*)\1", counts)
    return (written[2].replace("\\\\", "\\") if written else counts).encode("ascii")


def _decoded(counts: bytes) -> np.ndarray:
    """The runs of compressed counts: 5 bits a character, from the fourth run on as differences."""
    codes = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if not codes.size:
        return codes
    if codes.min() < 0 or codes.max() > 63:
        raise ValueError("its counts have characters that no compressed RLE has")
    ends = np.flatnonzero(codes & 32 == 0)
    if not ends.size or ends[-1] != codes.size - 1:
        raise ValueError("its counts break off")
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > 6:
        raise ValueError("its counts have a run longer than any image")
    starts = ends - lengths + 1
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, lengths))
    runs = np.add.reduceat((codes & 31) << shifts, starts)
    runs -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)  # the sign
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs


def _whole_numbers(counts: Any) -> np.ndarray:
    if not isinstance(counts, (list, tuple, np.ndarray)) or not are_numbers(counts):
        raise ValueError(f"its counts must be text or a list of numbers, got {shortened(counts)}")
    runs = np.array(counts, float)
    if not (runs == np.floor(runs)).all() or np.abs(runs).max(initial=0) > MAX_PIXELS:
        raise ValueError(f"its counts must be whole numbers of pixels, got {shortened(counts)}")
    return runs


# --- polygons -----------------------------------------------------------------------------------


def _read_polygons(parts: List[Any], image_size: Optional[Size]) -> Mask:
    if are_numbers(parts):
        raise ValueError(
            f"its segmentation {shortened(parts)} is a list of numbers: put this polygon into a "
            f"list of polygons, [[x0, y0, x1, y1, ...]]"
        )
    if not all(isinstance(part, (list, tuple, np.ndarray)) for part in parts):
        raise ValueError(f"a segmentation must be a list of polygons, got {shortened(parts)}")
    if len(parts) > 2 and all(len(part) == 2 for part in parts):
        _refuse_pairs(parts)
    for part in parts:
        if not are_numbers(part):
            if len(part) and all(isinstance(point, (list, tuple)) for point in part):
                _refuse_pairs(part)
            raise ValueError(f"a polygon must be a list of numbers, got {shortened(part)}")
    numbers = _coordinates(parts)
    polygons = [part for part in parts if len(part) % 2 == 0 and len(part) >= 6]
    complete = len(polygons) == len(parts)
    polygons = parts if complete else polygons
    extent = _extent_of(numbers if complete else _coordinates(polygons))
    # NaN is within no bounds, and the extent of numbers with NaN is NaN.
    if not all(abs(v) <= MAX_COORDINATE for v in (extent if complete else numbers)):
        wrong = numbers[~(np.abs(numbers) <= MAX_COORDINATE)][0]
        raise ValueError(f"a polygon has the coordinate {wrong:g}, which is no place in an image")
    if not polygons:
        return Mask([], SHORT)
    if not any(_encloses_area(np.asarray(polygon, float)) for polygon in polygons):
        return Mask([], EMPTY)
    flaw = "" if complete else INCOMPLETE
    if image_size is not None:
        height, width = image_size
        if not _overlap(extent, height, width):
            return Mask([], OUTSIDE)
        if max(-extent[0], -extent[1], extent[2] - width, extent[3] - height) > max(image_size):
            polygons = _cut(polygons, height, width)
            if not polygons:
                return Mask([], OUTSIDE)
            flaw, extent = CUT, _extent_of(_coordinates(polygons))
        x0, y0, x1, y1 = extent
        extent = max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)
    return Mask(polygons, flaw, extent)


def _refuse_pairs(points: List[Any]) -> NoReturn:
    raise ValueError(
        f"its segmentation has points that are lists, {shortened(points)}: write a polygon as one "
        f"list of numbers, x0, y0, x1, y1, ..."
    )


def _coordinates(polygons: List[Any]) -> np.ndarray:
    try:
        return np.array([*chain.from_iterable(polygons)], float)
    except OverflowError:  # a whole number of hundreds of digits
        return np.array([np.inf, np.inf])


def _extent_of(numbers: np.ndarray) -> Corners:
    if not numbers.size:
        return 0.0, 0.0, 0.0, 0.0
    points = numbers.reshape(-1, 2)
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def _overlap(extent: Corners, height: int, width: int) -> bool:
    return extent[0] < width and extent[1] < height and extent[2] > 0 and extent[3] > 0


def _encloses_area(polygon: np.ndarray) -> bool:
    x, y = polygon.reshape(-1, 2).T
    if abs(x[:-1] @ y[1:] - x[1:] @ y[:-1] + x[-1] * y[0] - x[0] * y[-1]) > 1:
        return True  # no rounding error
    return bool(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) > 0)


def _cut(polygons: List[Any], height: int, width: int) -> List[List[float]]:
    """Polygons inside the image, as detectron2 cuts them when it crops."""
    points = [np.asarray(polygon, float).reshape(-1, 2) for polygon in polygons]
    return [p.ravel().tolist() for p in CropTransform(0, 0, width, height).apply_polygons(points)]
