"""`seg-every-thing demo` picture by picture: what fails is listed, and the rest goes on."""

import contextlib
import logging
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Protocol, Sequence, Tuple

import cv2
import numpy as np
from detectron2.engine import DefaultPredictor

from ..data.images import reason_of
from ..data.picture_files import encode_picture
from ..files import make_output_dir, printable
from ..visualization.gallery import GalleryItem
from ..visualization.pictures import Failures, Picture, PictureProgress, read_pictures
from ..visualization.result_folder import ResultFolder

logger = logging.getLogger(__name__)

FILES = ("index.html", "predictions.json", "images.json", "failed.json")
"""What the command may write beside pictures."""

# What an image may cause: too thin, too large, out of memory.  Anything else is a defect.
_OF_A_PICTURE = (
    *(ArithmeticError, AssertionError, MemoryError, OSError, RuntimeError, ValueError),
    cv2.error,
)


class Drawn(NamedTuple):
    """What a model makes of a picture."""

    pictures: Sequence[np.ndarray]  # (H, W, 3) BGR or (H, W) uint8, one for each ending
    caption: str
    results: Any  # for the files of results


class Done(NamedTuple):
    """A picture that is finished."""

    name: str  # as given
    size: Tuple[int, int]  # height, width
    files: Sequence[str]  # in the output folder, one for each ending
    caption: str
    results: Any

    def item(self) -> GalleryItem:
        """The first of its files, for the page."""
        return GalleryItem(self.files[0], f"{printable(self.name)}: {self.caption}")


class Demo(Protocol):
    """What the command does with a kind of model."""

    endings: Sequence[str]  # of the files that are drawn for a picture

    def draw(self, predictor: DefaultPredictor, picture: Picture) -> Drawn:
        """Predict, and draw what was predicted."""

    def write(
        self, folder: ResultFolder, done: Sequence[Done], failures: Failures, remark: str
    ) -> None:
        """Write the results of all finished pictures, and the page with a remark, if any."""


def draw_pictures(
    demo: Demo,
    predictor: DefaultPredictor,
    files: Sequence[Path],
    total: int,
    frame_step: int,
    folder: ResultFolder,
    failures: Failures,
) -> int:
    """Draw what a model makes of every picture, and write the results.

    What fails is listed in ``failed.json``, on the page and in the log.  A run that is ended before
    its end writes the results of the pictures that it has finished.

    Args:
        demo: for the kind of the model.
        predictor: with its weights.
        files: images and videos.
        total: number of pictures in them.
        frame_step: every which frame of videos.
        folder: what a former run wrote there goes as soon as there is something new.
        failures: what failed before; gets what fails now.

    Returns:
        The exit code: 0, or 2 when something failed.

    Raises:
        ValueError: when every picture failed.
        OSError: when the output cannot be written.
    """
    make_output_dir(folder.path)
    done: List[Done] = []
    progress = PictureProgress(total)
    try:
        for picture in read_pictures(files, frame_step, failures):
            drawn, encoded = _drawn(demo, predictor, picture, failures)
            if drawn is not None:
                if not done:
                    folder.clear()
                names = folder.free_names(picture.stem, demo.endings)
                for name, data in zip(names, encoded):
                    folder.write(name, data)
                size = picture.image.shape[:2]
                done.append(Done(picture.name, size, names, drawn.caption, drawn.results))
            progress.step()
        if not done:
            raise ValueError(f"nothing could be drawn: {failures.text()}")
    except BaseException as e:
        if done:
            with contextlib.suppress(OSError):  # the disk may be full
                _write(demo, folder, done, failures, f"Ended before its end: {reason_of(e)}.")
        raise
    _write(demo, folder, done, failures, "")
    if not failures:
        return 0
    logger.warning("%d failed: %s", len(failures), failures.text())
    return 2


def _drawn(
    demo: Demo, predictor: DefaultPredictor, picture: Picture, failures: Failures
) -> Tuple[Optional[Drawn], List[bytes]]:
    try:
        drawn = demo.draw(predictor, picture)
        return drawn, list(map(encode_picture, demo.endings, drawn.pictures))
    except _OF_A_PICTURE as e:
        height, width = picture.image.shape[:2]
        failures.add(picture.name, f"the picture of {width} x {height} pixels: {reason_of(e)}")
        return None, []


def _write(
    demo: Demo, folder: ResultFolder, done: Sequence[Done], failures: Failures, remark: str
) -> None:
    if failures:
        entries = [{"file_name": f.name, "reason": f.reason} for f in failures]
        folder.write_json("failed.json", entries)
        remark += f" {len(failures)} failed, see below and failed.json."
    demo.write(folder, done, failures, remark.strip())
