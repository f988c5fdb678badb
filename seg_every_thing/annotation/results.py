"""Masks that were made, on disk until all are: what is finished survives a killed process."""

import contextlib
import heapq
import json
import sqlite3
import time
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import pycocotools.mask as mask_util

from .encoding import CutMask
from .index import named_database

_COMMIT_SECONDS = 2.0
_TABLES = """
CREATE TABLE IF NOT EXISTS image (number INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS failure (image INTEGER PRIMARY KEY, reason TEXT);
CREATE TABLE IF NOT EXISTS mask (object INTEGER PRIMARY KEY, pixels_left INTEGER,
    pixels_top INTEGER, height INTEGER, width INTEGER, counts BLOB, features TEXT, iou REAL);
"""


class Result(NamedTuple):
    """The mask of an object, before anything is decided about it."""

    object: int  # number of its annotation in the file
    mask: CutMask
    features: Tuple[float, ...]  # of features.FEATURES
    iou: Optional[float]  # with its true mask, where that is held out


class ResultWriter:
    """Keeps the results of one process."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of a new file.

        Raises:
            OSError: when it cannot be written.
        """
        self._path = path
        with named_database(path):
            self._db = sqlite3.connect(path)
            self._db.executescript(_TABLES)
        self._committed = time.monotonic()

    def add(self, image: int, results: Iterable[Result]) -> None:
        """Keep all results of an image."""
        with named_database(self._path):
            self._db.executemany(
                "INSERT INTO mask VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [_row(result) for result in results],
            )
            self._db.execute("INSERT INTO image VALUES (?)", (image,))
            if time.monotonic() - self._committed > _COMMIT_SECONDS:
                self._db.commit()
                self._committed = time.monotonic()

    def fail(self, image: int, reason: str) -> None:
        """Note why an image has no results; the next run tries it again."""
        with named_database(self._path):
            self._db.execute("INSERT INTO failure VALUES (?, ?)", (image, reason))

    def close(self) -> None:
        """Write what is not written yet."""
        with named_database(self._path):
            self._db.commit()
            self._db.close()


@contextlib.contextmanager
def writing_results(path: Path) -> Iterator[ResultWriter]:
    """A :class:`ResultWriter` that is closed in the end."""
    writer = ResultWriter(path)
    try:
        yield writer
    finally:
        writer.close()


def result_files(folder: Path, group: str = "*") -> List[Path]:
    """Files of results in a folder.

    Args:
        folder: of the run.
        group: of processes that wrote them; "*" = any.
    """
    return sorted(folder.glob(f"masks-{group}-*.sqlite"))


def new_result_file(folder: Path, group: str, attempt: int, rank: int) -> Path:
    """A file for the results of a process.

    Args:
        folder, group: as :func:`result_files`.
        attempt: of the run, which was killed that often.
        rank: of the process.
    """
    return folder / f"masks-{group}-{attempt:04}-{rank:04}.sqlite"


class Results:
    """What all processes of a run, and of those before it, have made."""

    def __init__(self, files: Iterable[Path]) -> None:
        """
        Args:
            files: of :class:`ResultWriter`, none of which is open.
        """
        self._files: List[sqlite3.Connection] = []
        for path in files:
            with named_database(path):
                self._files.append(sqlite3.connect(path))
                self._files[-1].executescript(_TABLES)  # if it was killed before it had them

    def __iter__(self) -> Iterator[Result]:
        """Each result once, in the order of the annotations."""
        rows = [db.execute("SELECT * FROM mask ORDER BY object") for db in self._files]
        last = -1
        for row in heapq.merge(*rows, key=lambda row: row[0]):
            if row[0] != last:
                yield _result(row)
            last = row[0]

    def get(self, number: int) -> Result:
        """The result of an object that has one."""
        for db in self._files:
            row = db.execute("SELECT * FROM mask WHERE object = ?", (number,)).fetchone()
            if row is not None:
                return _result(row)
        raise KeyError(number)

    def is_done(self, image: int) -> bool:
        """Whether an image has its results."""
        query = "SELECT 1 FROM image WHERE number = ?"
        return any(db.execute(query, (image,)).fetchone() for db in self._files)

    def failures(self) -> Dict[int, str]:
        """Reasons by number of the image, of images without results."""
        found: Dict[int, str] = {}
        for db in self._files:
            found.update(db.execute("SELECT image, reason FROM failure").fetchall())
        return {image: found[image] for image in sorted(found) if not self.is_done(image)}

    def compared(self) -> Sequence[Any]:
        """(object, features, IoU) where the true mask is held out, in the order of the file."""
        query = "SELECT object, features, iou FROM mask WHERE iou IS NOT NULL ORDER BY object"
        rows: Dict[int, Any] = {}
        for db in self._files:
            for number, features, iou in db.execute(query):
                rows.setdefault(number, (number, json.loads(features), iou))
        return [rows[number] for number in sorted(rows)]

    def close(self) -> None:
        """Close the files."""
        for db in self._files:
            db.close()


def _row(result: Result) -> Tuple[Any, ...]:
    pixels, left, top = result.mask
    rle = mask_util.encode(np.asfortranarray(pixels.astype(np.uint8)))
    features = json.dumps([round(float(f), 6) for f in result.features])
    return result.object, left, top, *pixels.shape, rle["counts"], features, result.iou


def _result(row: Tuple[Any, ...]) -> Result:
    number, left, top, height, width, counts, features, iou = row
    pixels = mask_util.decode({"size": [height, width], "counts": counts}).astype(bool)
    return Result(number, CutMask(pixels, left, top), tuple(json.loads(features)), iou)
