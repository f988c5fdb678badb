"""Images, folders of images and videos as one sequence of pictures."""

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np

from ..data.images import read_image, reason_of
from ..files import printable

logger = logging.getLogger(__name__)

_LOG_EVERY = 5.0  # seconds
_HEADER_ERROR = 0.05  # share of frames; headers of some formats hold an estimate
_IMAGES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


class Failure(NamedTuple):
    """An image, a video or a frame with which something went wrong."""

    name: str  # as that of a picture, or the path of a video
    reason: str

    def line(self) -> str:
        """The reason, with the name where it lacks that."""
        name = printable(self.name)
        return self.reason if name in self.reason else f"'{name}': {self.reason}"


class Failures(List[Failure]):
    """What went wrong, in the order in which it did."""

    def add(self, name: str, reason: str) -> None:
        """Add one, and log it."""
        self.append(Failure(name, reason))
        logger.warning("%s", self[-1].line())

    def text(self, most: int = 3) -> str:
        """The first of them in a sentence."""
        more = f"; and {len(self) - most} more" if len(self) > most else ""
        return "; ".join(failure.line() for failure in self[:most]) + more

    def table(self) -> Optional[Tuple[Sequence[str], Sequence[Sequence[str]]]]:
        """All of them as a header and cells; None = there are none."""
        return (["failed"], [[failure.line()] for failure in self]) if self else None


class Picture(NamedTuple):
    """An image, or a frame of a video."""

    name: str  # as in the results: the path as given, with "#<frame>" for frames
    stem: str  # of the file to write
    image: np.ndarray  # (H, W, 3) uint8, BGR


def find_inputs(paths: Sequence[str]) -> List[Path]:
    """The images and videos that paths stand for: files as they are, folders by the images in them.

    Returns:
        Files in the given order, the images of a folder by name; each file once.

    Raises:
        ValueError: for a missing path, a folder without images, or a file of another kind.
    """
    files: List[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = [
                p
                for p in sorted(path.iterdir())
                if p.suffix.lower() in _IMAGES and not p.name.startswith(".") and not p.is_fifo()
            ]
            if not found:
                raise ValueError(
                    f"the folder '{printable(path)}' holds no images ({', '.join(_IMAGES)})"
                )
            files += found
        elif not path.exists():
            raise ValueError(f"the input '{printable(path)}' does not exist")
        elif path.suffix.lower() not in _IMAGES + _VIDEOS:
            raise ValueError(
                f"the input '{printable(path)}' is neither an image ({', '.join(_IMAGES)}) "
                f"nor a video ({', '.join(_VIDEOS)})"
            )
        else:
            files.append(path)
    first: Dict[str, Path] = {}
    for file in files:
        first.setdefault(os.path.realpath(file), file)
    return list(first.values())


def check_pictures(files: Sequence[Path], frame_step: int) -> Tuple[List[Path], int, Failures]:
    """Try to decode every file, and count the pictures in them.

    Returns:
        The files that can be decoded; the number of images and of frames to be used in them, for
        videos what their header says; and what is wrong with the others.

    Raises:
        ValueError: when no file can be decoded, naming the first ones.
    """
    good, total, failures = [], 0, Failures()
    for file in files:
        try:
            total += _check_video(file, frame_step) if _is_video(file) else _check_image(file)
            good.append(file)
        except (OSError, ValueError) as e:
            failures.add(str(file), reason_of(e))
    if not good:
        raise ValueError(f"no input can be read: {failures.text()}")
    return good, total, failures


def read_pictures(files: Sequence[Path], frame_step: int, failures: Failures) -> Iterator[Picture]:
    """Decode images, and every ``frame_step``-th frame of videos, one after the other.

    Args:
        files: images and videos.
        frame_step: 1 = every frame.
        failures: gets an entry for each file that cannot be decoded, or not to its end.
    """
    for file in files:
        try:
            if _is_video(file):
                for index, frame in _frames(file, frame_step):
                    yield Picture(f"{file}#{index}", f"{file.stem}_{index:06d}", frame)
            else:
                yield Picture(str(file), file.stem, read_image(file))
        except (OSError, ValueError) as e:
            failures.add(str(file), reason_of(e))


def size_of(file: Path) -> Tuple[int, int]:
    """Height and width of an image, or of the frames of a video.

    Raises:
        FileNotFoundError: when it is missing.
        ValueError: when it cannot be decoded.
    """
    if not _is_video(file):
        return read_image(file).shape[:2]
    with _opened(file) as capture:
        decoded, frame = capture.read()
    if not decoded:
        raise ValueError(f"cannot decode the video '{printable(file)}': it has no readable frame")
    return frame.shape[:2]


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in _VIDEOS


def _check_image(file: Path) -> int:
    read_image(file)
    return 1


def _check_video(file: Path, frame_step: int) -> int:
    size_of(file)  # decodes a frame
    with _opened(file) as capture:
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return 1 + max(frames - 1, 0) // frame_step


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[cv2.VideoCapture]:
    try:
        str(file).encode()
    except UnicodeEncodeError as e:  # OpenCV would end the process
        raise ValueError(
            f"cannot open the video '{printable(file)}': its name is not UTF-8, rename it"
        ) from e
    capture = cv2.VideoCapture(str(file))
    try:
        yield capture
    finally:
        capture.release()


def _frames(file: Path, step: int) -> Iterator[Tuple[int, np.ndarray]]:
    with _opened(file) as capture:
        expected = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        index = lost = 0
        while capture.grab():
            if index % step == 0:
                decoded, frame = capture.retrieve()
                if decoded:
                    yield index, frame
                else:
                    lost += 1
            index += 1
    if lost or expected - index > max(1, _HEADER_ERROR * expected):
        raise ValueError(
            f"the video '{printable(file)}' is damaged: {index - lost} frames of {expected} could "
            f"be read"
        )


class PictureProgress:
    """Logs every few seconds how far the run is and how long it will take."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._start = self._last_log = time.perf_counter()

    def step(self) -> None:
        self._done += 1
        now = time.perf_counter()
        if now - self._last_log < _LOG_EVERY and self._done not in (1, self._total):
            return
        self._last_log = now
        pace = (now - self._start) / self._done
        self._total = max(self._total, self._done)  # a video's header may be wrong
        left = (self._total - self._done) * pace
        logger.info(
            *("picture %d of %d, %.2f s each, ETA %s", self._done, self._total, pace),
            f"{left // 3600:.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f}",
        )
