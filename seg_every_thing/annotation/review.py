"""The review page: masks that were made, worst first, to accept or to reject in a browser.

A folder that opens from a disk, without a server and without a network::

    index.html              the page
    review_files/           its style and scripts, and
        data.js             a row for each object; the run
        masks/0.js ...      masks as runs, loaded when they come in sight
        crops/0/0.jpg ...   a small picture about each box

``docs/decisions/review-page.md`` says why it is made of these.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

import numpy as np

from ..data.images import read_image
from ..data.picture_files import encode_picture
from ..files import PathLike, make_output_dir, printable, write_text, written_atomically
from .decisions import decision_key
from .review_crops import Crop, crop_of
from .review_items import ReviewItem

logger = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "review_page"
FILES = "review_files"

_OURS = '<meta name="generator" content="seg_every_thing review">'
_JPEG_QUALITY = 82
_OBJECTS_PER_CHUNK = 250  # of masks: some 200 KB, loaded at once
_CROPS_PER_FOLDER = 1000


def check_review_folder(folder: PathLike) -> None:
    """Refuse a folder whose files a review page would replace; for the start of a command.

    An earlier review page is nobody else's.

    Raises:
        ValueError: naming what is in the way.
    """
    page, files = Path(folder, "index.html"), Path(folder, FILES)
    ours = page.is_file() and _OURS in page.read_text(encoding="utf-8", errors="replace")
    if os.path.lexists(page) and not ours:
        raise ValueError(
            f"'{printable(page)}' is no review page and would be written over: give another folder"
        )
    if os.path.lexists(files) and not (files / "data.js").is_file():
        raise ValueError(
            f"'{printable(files)}' is no part of a review page and would be removed: give another "
            f"folder"
        )


def has_page_of(folder: PathLike, source: str) -> bool:
    """Whether a folder holds the page of a run.

    Args:
        folder: of the page.
        source: of the ``meta`` that :func:`write_review` got.
    """
    data = Path(folder, FILES, "data.js")
    return data.is_file() and f'"source":{_text(source)}' in data.read_text(encoding="utf-8")


def write_review(folder: PathLike, items: Iterable[ReviewItem], meta: Mapping[str, Any]) -> Path:
    """Write the review page of masks; an earlier one in the folder is replaced when this is whole.

    Objects are taken one at a time.  Those of one image should follow each other, since it is read
    once for all of them.  An image that cannot be read leaves its objects without a picture, and
    is named in the log.

    Args:
        folder: for the page; made if need be.
        items: the masks, with ids that differ as text.
        meta: of the run: "title" of the page; "source", a digest that names the run in files of
            decisions and in the browser's memory (by default that of all objects); "facts", a
            mapping of labels to texts, to show.

    Returns:
        The page, to be opened in a browser.

    Raises:
        ValueError: for files that are not of a review page, or ids that are not unique.
        OSError: when it cannot be written.
    """
    check_review_folder(folder)
    folder = make_output_dir(folder)
    staging, files = folder / f".{FILES}", folder / FILES
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    try:
        count = _write_files(staging, items, meta)
        for source in PAGE.iterdir():
            if source.name != "index.html":
                write_text(staging / source.name, source.read_text(encoding="utf-8"))
        if files.exists():
            shutil.rmtree(files)
        os.replace(staging, files)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    page = folder / "index.html"
    write_text(page, (PAGE / "index.html").read_text(encoding="utf-8"))
    logger.info("%d masks to review: '%s'", count, printable(page))
    return page


def _write_files(folder: Path, items: Iterable[ReviewItem], meta: Mapping[str, Any]) -> int:
    """Write data, masks and crops; the number of objects."""
    classes: Dict[str, int] = {}
    flags: Dict[str, int] = {}
    ids: Set[str] = set()
    digest = hashlib.sha256()
    chunk: List[str] = []
    index = -1
    with written_atomically(folder / "data.js") as f:
        f.write("Review.rows = [\n")
        for index, (item, crop) in enumerate(_with_crops(items)):
            if decision_key(item.annotation_id) in ids:
                raise ValueError(f"two objects to review have the id {item.annotation_id}")
            ids.add(decision_key(item.annotation_id))
            row = _text(_row(item, crop, classes, flags))
            f.write(row + ",\n")
            chunk.append(_text(crop.runs))
            digest.update(f"{row}{item.class_name!r}{item.flags}{item.mask}\n".encode())
            if len(chunk) == _OBJECTS_PER_CHUNK:
                _write_chunk(folder, index // _OBJECTS_PER_CHUNK, chunk)
                chunk = []
            if crop.picture is not None:
                path = folder / "crops" / str(index // _CROPS_PER_FOLDER) / f"{index}.jpg"
                with written_atomically(path, "wb") as picture:
                    picture.write(encode_picture(".jpg", crop.picture, _JPEG_QUALITY))
        if chunk:
            _write_chunk(folder, index // _OBJECTS_PER_CHUNK, chunk)
        facts = {str(key): str(value) for key, value in meta.get("facts", {}).items()}
        run = {
            "title": str(meta.get("title", "Review of masks")),
            "source": str(meta.get("source", digest.hexdigest())),
            "facts": facts,
            "classes": [printable(name) for name in classes],
            "flags": [flag.replace("_", " ") for flag in flags],
            "objects_per_chunk": _OBJECTS_PER_CHUNK,
        }
        f.write(f"];\nReview.run = {_text(run)};\n")
    return index + 1


def _with_crops(items: Iterable[ReviewItem]) -> Iterator[Tuple[ReviewItem, Crop]]:
    path: Optional[Path] = None
    image: Optional[np.ndarray] = None
    for item in items:
        if item.image_path != path:
            path, image = item.image_path, None
            try:
                image = read_image(path)
            except (OSError, ValueError) as e:
                logger.warning("the review page shows no picture of some objects: %s", e)
        yield item, crop_of(item, image)


def _row(item: ReviewItem, crop: Crop, classes: Dict[str, int], flags: Dict[str, int]) -> List[Any]:
    """What the page's list, filters and details are made of; ``objects.js`` takes it apart."""
    bits = sum({1 << flags.setdefault(flag, len(flags)) for flag in item.flags})
    return [
        item.annotation_id,
        classes.setdefault(item.class_name, len(classes)),
        None if item.score is None else round(item.score, 4),
        round(item.fill, 4),
        bits,
        printable(item.file_name),
        item.image_id,
        [round(value, 2) for value in item.box],
        crop.window,
        crop.size,
        crop.picture is not None,
    ]


def _write_chunk(folder: Path, number: int, runs: List[str]) -> None:
    text = f"Review.masks({number}, [\n" + ",\n".join(runs) + "\n]);\n"
    write_text(folder / "masks" / f"{number}.js", text)


def _text(value: Any) -> str:
    """Strict JSON in ASCII, which is JavaScript, too, whatever a name consists of."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
