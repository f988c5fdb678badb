"""Tables of boxes, a line a box."""

import contextlib
import csv
import itertools
from pathlib import Path, PurePosixPath
from typing import Dict, Iterator, List, Optional, Tuple

from ...files import printable
from .image_folder import ImageFolder
from .records import ReadImage, ReadObject, checked_object

_FILE = ("file_name", "filename", "image", "image_path", "path", "file")
_LABEL = ("label", "class", "category", "category_name", "class_name", "name")
_BOXES = (
    (("x", "y", "width", "height"), False),
    (("xmin", "ymin", "xmax", "ymax"), True),
    (("x_min", "y_min", "x_max", "y_max"), True),
    (("x1", "y1", "x2", "y2"), True),
    (("x0", "y0", "x1", "y1"), True),
)
"""Columns of a box, and whether they are its corners."""


def read(source: Path, folder: ImageFolder, names: Optional[List[str]]) -> Iterator[ReadImage]:
    """Read a table whose first line names its columns; it is held in memory, being in any order.

    Args:
        source: a file with the columns file_name, label and x, y, width, height (or xmin, ymin,
            xmax, ymax) in pixels; score may be there.  Some other names of columns are known.
        folder: of the images.
        names: are not needed.

    Raises:
        ValueError: naming file and line.
    """
    images: Dict[str, List[ReadObject]] = {}
    written: Dict[str, str] = {}  # the name that the table has for an image
    with _readable(source), open(source, newline="", encoding="utf-8-sig") as f:
        sample = f.readline()
        f.seek(0)
        delimiter = max(",;\t", key=sample.count)
        table = csv.DictReader(f, delimiter=delimiter)
        columns = {name.strip().lower(): name for name in table.fieldnames or ()}
        file_key, label_key, keys, corners = _columns(columns, source)
        # ``line_num`` counts the lines of quoted cells, too.
        for row in table:
            try:
                values = [_number(row[columns[key]], key) for key in keys]
                x, y, w, h = values
                if corners:
                    w, h = w - x, h - y
                text = row.get(columns.get("score", "")) or None
                score = None if text is None else _number(text, "score")
                found = checked_object(row[label_key], (x, y, w, h), score=score)
                named = str(PurePosixPath((row[file_key] or "").replace("\\", "/")))
                image = folder.find(named)
                first = written.setdefault(image, named)
                if named != first:
                    raise ValueError(
                        f"'{printable(first)}' and '{printable(named)}' would both be the image "
                        f"'{printable(image)}': add the missing one, or write one name for it"
                    )
                images.setdefault(image, []).append(found)
            except ValueError as e:
                raise ValueError(f"'{printable(source)}', line {table.line_num}: {e}") from e
    for name, objects in images.items():
        yield ReadImage(name, *folder.size(name), objects)


@contextlib.contextmanager
def _readable(source: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as e:
        raise ValueError(f"'{printable(source)}' is no table in UTF-8: {e}") from e


def _number(text: Optional[str], key: str) -> float:
    try:
        return float(text or "")
    except ValueError as e:
        raise ValueError(f"its {key} must be a number, not {(text or '')[:40]!r}") from e


def _columns(
    columns: Dict[str, str], source: Path
) -> Tuple[str, str, Tuple[str, str, str, str], bool]:
    file_key, label_key = (
        next((k for k in known if k in columns), "") for known in (_FILE, _LABEL)
    )
    boxes = [(keys, corners) for keys, corners in _BOXES if set(keys) <= set(columns)]
    if not (file_key and label_key and boxes):
        found = ", ".join(itertools.islice(columns, 12))
        raise ValueError(
            f"'{printable(source)}': its first line must name the columns file_name, label, x, y, "
            f"width, height (or xmin, ymin, xmax, ymax); it has: {printable(found)}"
        )
    keys, corners = boxes[0]
    return columns[file_key], columns[label_key], keys, corners
