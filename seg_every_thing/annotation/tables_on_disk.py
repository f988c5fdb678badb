"""What the check of a COCO file remembers of it, in a database rather than in memory."""

import json
import sqlite3
from typing import Any, Iterator, MutableMapping, MutableSet

from ..data.coco_tables import CocoImage
from ..data.json_stream import encode


class ImagesOnDisk(MutableMapping[Any, CocoImage]):
    """Images by id, in the order in which they came."""

    TABLE = """CREATE TABLE image (number INTEGER PRIMARY KEY, id TEXT UNIQUE, file_name TEXT,
        height INTEGER, width INTEGER);"""

    def __init__(self, db: sqlite3.Connection) -> None:
        """
        Args:
            db: a database with the table.
        """
        self._db = db

    def number_of(self, key: Any) -> int:
        """The place of an image in the file, from 1."""
        row = self._db.execute("SELECT number FROM image WHERE id = ?", (id_key(key),)).fetchone()
        return row[0]

    def __getitem__(self, key: Any) -> CocoImage:
        query = "SELECT file_name, height, width FROM image WHERE id = ?"
        row = self._db.execute(query, (id_key(key),)).fetchone()
        if row is None:
            raise KeyError(key)
        return CocoImage(json.loads(row[0]), None if row[1] is None else (row[1], row[2]))

    def __setitem__(self, key: Any, image: CocoImage) -> None:
        query = "INSERT INTO image (id, file_name, height, width) VALUES (?, ?, ?, ?) ON CONFLICT"
        query += " (id) DO UPDATE SET file_name = excluded.file_name, height = excluded.height,"
        query += " width = excluded.width"
        self._db.execute(
            query, (id_key(key), encode(image.file_name), *(image.size or (None, None)))
        )

    def __delitem__(self, key: Any) -> None:
        self._db.execute("DELETE FROM image WHERE id = ?", (id_key(key),))

    def __iter__(self) -> Iterator[Any]:
        for (key,) in self._db.execute("SELECT id FROM image ORDER BY number"):
            yield json.loads(key)

    def __len__(self) -> int:
        return self._db.execute("SELECT COUNT(*) FROM image").fetchone()[0]


class IdsOnDisk(MutableSet[Any]):
    """Ids of annotations."""

    TABLE = "CREATE TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID;"

    def __init__(self, db: sqlite3.Connection) -> None:
        """
        Args:
            db: a database with the table.
        """
        self._db = db

    def __contains__(self, key: Any) -> bool:
        return bool(self._db.execute("SELECT 1 FROM seen WHERE id = ?", (id_key(key),)).fetchone())

    def add(self, key: Any) -> None:
        self._db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (id_key(key),))

    def discard(self, key: Any) -> None:
        self._db.execute("DELETE FROM seen WHERE id = ?", (id_key(key),))

    def __iter__(self) -> Iterator[Any]:
        return (json.loads(key) for (key,) in self._db.execute("SELECT id FROM seen"))

    def __len__(self) -> int:
        return self._db.execute("SELECT COUNT(*) FROM seen").fetchone()[0]


def id_key(value: Any) -> str:
    """Equal for ids that Python takes for equal, such as 1 and 1.0."""
    return encode(int(value) if isinstance(value, float) and value.is_integer() else value)
