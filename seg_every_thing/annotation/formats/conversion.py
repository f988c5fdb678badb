"""Which formats there are, and the way from one of them to COCO and from COCO to one of them."""

import functools
import logging
import os
import shutil
from pathlib import Path
from typing import Callable, Dict, Iterable, Optional

from ...data.json_stream import iter_members
from ...files import (
    PathLike,
    check_targets,
    file_digest,
    printable,
    read_json,
    write_json,
)
from ...leftovers import temporary_folder
from . import csv_table, cvat, label_studio, labelme, voc, yolo
from .image_folder import ImageFolder
from .records import Reader, write_coco
from .tasks import Tally, Work

logger = logging.getLogger(__name__)

READERS: Dict[str, Reader] = {
    "yolo": yolo.read,
    "voc": voc.read,
    "labelme": labelme.read,
    "label-studio": label_studio.read,
    "csv": csv_table.read,
}
WRITERS: Dict[str, Callable[[Work], Tally]] = {
    "yolo": yolo.write,
    "labelme": labelme.write,
    "label-studio": label_studio.write,
    "label-studio-brush": functools.partial(label_studio.write, with_brush=True),
    "cvat": cvat.write,
}
_MADE_BY = "boxes in the format '{}', as COCO by seg_every_thing"
_POINTING = ("labelme",)  # from their folder to that of the images
_MARK = ".seg_every_thing"  # no name that --from would take for annotations


def boxes_as_coco(
    source: Path, format: str, image_root: Path, target: Path, classes: Optional[PathLike] = None
) -> None:
    """Write boxes of another format as a COCO file; the same boxes give the same file.

    Args:
        source: file or folder of the boxes.
        format: of :data:`READERS`.
        image_root: folder of the images.
        target: the COCO file; what is there is replaced if this function wrote it.
        classes: file with the names of YOLO's classes.

    Raises:
        ValueError: naming file and object that are wrong.
        OSError: when it cannot be written.
    """
    if not source.exists():
        raise ValueError(f"the annotations '{printable(source)}' do not exist")
    check_targets([source, classes], [target])
    about = {"description": _MADE_BY.format(format), "source": source.name}
    if target.exists() and next(iter_members(target), None) != ("info", about):
        raise ValueError(f"'{printable(target)}' exists and holds something else: move it away")
    names = None if classes is None else yolo.read_names(classes)
    images = READERS[format](source, ImageFolder(image_root), names)
    try:
        counts = write_coco(target, images, names or (), about)
    except ValueError as e:
        text, name = str(e), f"'{printable(source)}"
        raise ValueError(text if name in text else f"{name}': {text}") from e
    logger.info(
        "'%s' holds %d boxes of %d classes in %d images: '%s'",
        *(printable(source), counts["objects"], counts["categories"], counts["images"]),
        printable(target),
    )


def place_of(format: str, annotations: Path) -> Path:
    """Where :func:`write_as` writes: a folder beside the COCO file."""
    return annotations.with_name(f"{annotations.stem}_{format.replace('-', '_')}")


def check_places(formats: Iterable[str], annotations: Path) -> None:
    """Refuse at the start what :func:`write_as` would refuse at the end.

    Raises:
        ValueError: when a folder is in the way, or a package is missing.
    """
    for format in formats:
        target = place_of(format, annotations)
        if format == "label-studio-brush":
            label_studio.brush()
        if target.exists() and not (target / _MARK).is_file():
            raise ValueError(f"'{printable(target)}' exists and was not made by --to: move it away")


def write_as(format: str, annotations: Path, image_root: Path) -> Path:
    """Write a COCO file in another format beside it; what is up to date is left as it is.

    Args:
        format: of :data:`WRITERS`.
        annotations: the COCO file.
        image_root: folder of the images.

    Returns:
        The folder.

    Raises:
        ValueError: naming what cannot be written in the format.
        OSError: when something cannot be written.
    """
    check_places([format], annotations)
    target, mark = place_of(format, annotations), {"sha256": file_digest(annotations)}
    if format in _POINTING:
        mark["images"] = os.path.relpath(image_root.resolve(), target.resolve())
    before = read_json(target / _MARK) if (target / _MARK).is_file() else None
    if before == mark:
        logger.info("'%s' is up to date", printable(target))
        return target
    if before is not None:
        changed = "masks" if before.get("sha256") != mark["sha256"] else "images"
        logger.info("'%s' is of other %s: it is replaced", printable(target), changed)
    with temporary_folder(target) as made:
        tally = WRITERS[format](Work(annotations, ImageFolder(image_root), made))
        write_json(made / _MARK, mark)
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    logger.info("'%s': %s", printable(target), tally)
    return target
