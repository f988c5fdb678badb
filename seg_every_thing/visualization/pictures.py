"""Images, folders of images and videos as one sequence of pictures."""

import logging
import time
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

import cv2
import numpy as np

from ..data.images import read_image

logger = logging.getLogger(__name__)

_LOG_EVERY = 5.0  # seconds
_IMAGES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


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
                if p.suffix.lower() in _IMAGES and not p.name.startswith(".") and p.is_file()
            ]
            if not found:
                raise ValueError(f"the folder '{path}' holds no images ({', '.join(_IMAGES)})")
            files += found
        elif not path.exists():
            raise ValueError(f"the input '{path}' does not exist")
        elif path.suffix.lower() not in _IMAGES + _VIDEOS:
            raise ValueError(
                f"the input '{path}' is neither an image ({', '.join(_IMAGES)}) "
                f"nor a video ({', '.join(_VIDEOS)})"
            )
        else:
            files.append(path)
    first: Dict[Path, Path] = {}
    for file in files:
        first.setdefault(file.resolve(), file)
    return list(first.values())


def count_pictures(files: Sequence[Path], frame_step: int) -> int:
    """Make sure that every file can be decoded, and count the pictures in them.

    One file that is corrupt would otherwise end a long run in its middle.

    Returns:
        The number of images and of frames to be used; for videos what their header says.

    Raises:
        ValueError: naming the files that cannot be decoded.
    """
    total, bad = 0, []
    for file in files:
        try:
            if file.suffix.lower() in _VIDEOS:
                total += _check_video(file, frame_step)
            else:
                read_image(file)
                total += 1
        except ValueError as e:
            bad.append(str(e))
    if bad:
        more = f" (and {len(bad) - 3} more files)" if len(bad) > 3 else ""
        raise ValueError("; ".join(bad[:3]) + more)
    return total


def read_pictures(files: Sequence[Path], frame_step: int) -> Iterator[Picture]:
    """Decode images, and every ``frame_step``-th frame of videos, one after the other."""
    for file in files:
        if file.suffix.lower() not in _VIDEOS:
            yield Picture(str(file), file.stem, read_image(file))
            continue
        for index, frame in _frames(file, frame_step):
            yield Picture(f"{file}#{index}", f"{file.stem}_{index:06d}", frame)


def size_of(file: Path) -> Tuple[int, int]:
    """Height and width of an image, or of the frames of a video.

    Raises:
        ValueError: when it cannot be decoded.
    """
    if file.suffix.lower() not in _VIDEOS:
        return read_image(file).shape[:2]
    _, frame = next(_frames(file, 1), (0, None))
    if frame is None:
        raise ValueError(f"cannot decode the video '{file}': it has no readable frame")
    return frame.shape[:2]


def _check_video(path: Path, frame_step: int) -> int:
    size_of(path)  # decodes a frame
    capture = cv2.VideoCapture(str(path))
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return 1 + max(frames - 1, 0) // frame_step


def _frames(path: Path, step: int) -> Iterator[Tuple[int, np.ndarray]]:
    capture = cv2.VideoCapture(str(path))
    try:
        index = 0
        while capture.grab():
            if index % step == 0:
                decoded, frame = capture.retrieve()
                if decoded:
                    yield index, frame
            index += 1
    finally:
        capture.release()


def unused_name(stem: str, used: Set[str]) -> str:
    """A name that no picture has yet, also where upper and lower case are the same."""
    name, number = stem, 1
    while name.lower() in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name.lower())
    return name


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
