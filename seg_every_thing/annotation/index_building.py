"""From a COCO file to the :class:`~seg_every_thing.annotation.index.Index` of what is to do."""

import contextlib
import hashlib
import os
import sqlite3
from pathlib import Path
from typing import Any, Dict, Iterable, Sequence, Set

from ..data.coco_annotations import CocoChecker
from ..data.coco_tables import CocoTables, is_id
from ..data.data_report import DataReport
from ..data.json_stream import encode
from ..files import printable
from ..leftovers import temporary_file
from .formats import coco
from .index import named_database
from .options import Options
from .origin import is_ours, with_mask_of_crowd
from .tables_on_disk import IdsOnDisk, ImagesOnDisk, id_key

MAX_HELD_OUT = 2000
"""Masks that are held out: more would not tell more."""

_FEWEST_KNOWN = 4  # masks of a class that gives one, however small the share

_TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
{ImagesOnDisk.TABLE}
{IdsOnDisk.TABLE}
CREATE TABLE object (number INTEGER PRIMARY KEY, image INTEGER, id TEXT, category TEXT, box TEXT,
    wanted INTEGER, known INTEGER, made INTEGER, draw INTEGER, truth TEXT);
"""
_INDICES = """
CREATE INDEX object_image ON object (image);
CREATE INDEX object_draw ON object (category, known, draw);
"""
_COUNTS = ("images", "annotations", "wanted", "with_masks", "crowds", "crowds_as_masks", "unusable")


def build_index(
    path: Path,
    options: Options,
    on_bad: str,
    meta: Dict[str, Any],
    hidden: Sequence[Any] = (),
) -> DataReport:
    """Read and check a COCO file, and note what is to do.

    Args:
        path: of the database, which appears when it is complete.
        options: of the run.
        on_bad: as ``DATASETS.ON_BAD_ANNOTATION``.
        meta: is kept with it.
        hidden: ids of categories whose masks are held out, all of them; then nothing else is to do.

    Returns:
        What became of the annotations.

    Raises:
        ValueError: for what is no COCO file, or holds what is unusable (unless it is to be set
            aside); the message names the file and the first ten.
        OSError: when the database cannot be written.
    """
    with temporary_file(path) as temporary:
        with named_database(path), contextlib.closing(sqlite3.connect(temporary)) as db:
            db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _TABLES)
            try:
                report = _fill(db, options, on_bad, meta, hidden)
            except ValueError as e:
                text = str(e)
                source = f"'{printable(options.annotations)}'"
                raise ValueError(text if source in text else f"{source}: {text}") from e
            db.commit()
        os.replace(temporary, path)
    return report


def _fill(
    db: sqlite3.Connection,
    options: Options,
    on_bad: str,
    meta: Dict[str, Any],
    hidden: Sequence[Any],
) -> DataReport:
    source = options.annotations
    report = DataReport(str(source), "annotation", str(source))
    images = ImagesOnDisk(db)
    tables = CocoTables(coco.read_boxes(source), report, images)
    checker = CocoChecker(tables, report, "all", str(source), IdsOnDisk(db))
    counts = dict.fromkeys(_COUNTS, 0)
    number = -1
    for key, value in coco.read_boxes(source):
        try:
            encode(value)
        except ValueError as e:
            raise ValueError(f"one of its '{key}' has a number that is not finite: {e}") from e
        if key != "annotations":
            counts["images"] += key == "images"
            continue
        number += 1
        counts["annotations"] += 1
        annotation = with_mask_of_crowd(value) if options.crowd_rle_is_mask else value
        counts["crowds_as_masks"] += annotation is not value
        if isinstance(value, dict) and not is_id(value.get("id")):
            report.refuse(f"annotation number {number + 1} has no id: give it one of its own")
            counts["unusable"] += 1
            continue
        checked = checker.check(annotation)
        if checked is None:
            counts["unusable"] += 1
        elif checked.get("iscrowd"):
            counts["crowds"] += 1
        else:
            known = bool(checked.get("segmentation"))
            counts["with_masks"] += known
            wanted = not hidden and (options.overwrite or not known)
            counts["wanted"] += wanted
            made = known and is_ours(value)
            _add_object(db, images, number, checked, known, made, wanted)
    checker.finish(on_bad)
    db.executescript(_INDICES)
    categories = sorted(tables.categories.items())
    whose, share = (hidden, 1.0) if hidden else ([i for i, _ in categories], options.holdout)
    counts["held_out"] = _hold_out(db, source, whose, share)
    kept = {**meta, "categories": categories, "counts": counts, "data_report": report.as_json()}
    kept["hidden"] = [*hidden]
    for key, value in kept.items():
        db.execute("INSERT INTO meta VALUES (?, ?)", (key, encode(value)))
    return report


def _add_object(
    db: sqlite3.Connection,
    images: ImagesOnDisk,
    number: int,
    annotation: Dict[str, Any],
    known: bool,
    made: bool,
    wanted: bool,
) -> None:
    own_id = id_key(annotation["id"])
    draw = int.from_bytes(hashlib.sha1(own_id.encode()).digest()[:7], "big")
    row = (
        *(number, images.number_of(annotation["image_id"]), own_id),
        *(id_key(annotation["category_id"]), encode([*map(float, annotation["bbox"])])),
        *(int(wanted), int(known), int(made), draw, None),
    )
    db.execute("INSERT INTO object VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def _hold_out(db: sqlite3.Connection, source: Path, categories: Iterable[Any], share: float) -> int:
    """Keep the masks of a share of the objects of each class, but none that was made: those say
    nothing of quality.  Returns how many."""
    numbers = "SELECT COUNT(*) FROM object WHERE known AND NOT made"
    (total,) = db.execute(numbers).fetchone()
    share = min(share, MAX_HELD_OUT / max(total, 1))
    chosen: Set[int] = set()
    for category in map(id_key, categories):
        (known,) = db.execute(f"{numbers} AND category = ?", (category,)).fetchone()
        count = max(int(share * known + 0.5), int(share > 0 and known >= _FEWEST_KNOWN))
        query = "SELECT number FROM object WHERE known AND NOT made AND category = ?"
        query += " ORDER BY draw LIMIT ?"
        chosen.update(n for (n,) in db.execute(query, (category, count)))
    if chosen:
        annotations = (v for k, v in coco.read_boxes(source) if k == "annotations")
        for number, annotation in enumerate(annotations):
            if number in chosen:
                truth = encode(annotation["segmentation"])
                db.execute("UPDATE object SET truth = ? WHERE number = ?", (truth, number))
    return len(chosen)
