"""What is to be done to a data set: its objects by image, on disk, so that memory stays as it is.

A COCO file may have its annotations in any order, and more of them than memory holds.
"""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Set, Tuple

from ..files import PathLike, printable
from .tables_on_disk import id_key

_IMAGE = "number, id, file_name, height, width"
_OBJECT = "number, id, category, box, wanted, truth"
_TO_DO = "(wanted OR truth IS NOT NULL)"


class IndexedImage(NamedTuple):
    """An image that has objects to do."""

    number: int
    id: Any
    file_name: str
    height: int
    width: int


class IndexedObject(NamedTuple):
    """An object that gets a mask, or whose mask is held out to compare with."""

    number: int  # place of its annotation in the file, from 0
    id: Any
    category: Any  # id
    box: List[float]  # x, y, width, height, cut to the image
    wanted: bool
    truth: Any  # polygons or RLE where it is held out, else None


@contextlib.contextmanager
def named_database(path: PathLike) -> Iterator[None]:
    """Let errors of SQLite, say of a full disk, name the file.

    Raises:
        OSError: naming it.
    """
    try:
        yield
    except sqlite3.Error as e:
        raise OSError(f"cannot use '{printable(path)}': {e}") from e


class Index:
    """Images and objects of a COCO file, in a database."""

    def __init__(self, path: Path) -> None:
        """
        Args:
            path: of a database that :func:`build_index` has made.
        """
        self.path = path
        with named_database(path):
            self._db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro&immutable=1", uri=True)
            rows = self._db.execute("SELECT key, value FROM meta").fetchall()
        self.meta: Dict[str, Any] = {key: json.loads(value) for key, value in rows}

    @property
    def categories(self) -> Dict[Any, str]:
        """Names by id, in the order of the ids."""
        return {i: name for i, name in self.meta["categories"]}

    @property
    def counts(self) -> Dict[str, int]:
        """How many images, annotations, objects ... there are."""
        return self.meta["counts"]

    def images(self, part: int = 0, parts: int = 1) -> Iterator[IndexedImage]:
        """The images with objects to do, in the order of the file.

        Args:
            part, parts: those alone whose number leaves ``part`` when divided by ``parts``.
        """
        query = f"""SELECT {_IMAGE} FROM image WHERE number % ? = ? AND EXISTS
            (SELECT 1 FROM object WHERE image = image.number AND {_TO_DO}) ORDER BY number"""
        for row in self._db.execute(query, (parts, part)):
            yield _image(row)

    def image(self, number: int) -> IndexedImage:
        """The image of a number."""
        query = f"SELECT {_IMAGE} FROM image WHERE number = ?"
        return _image(self._db.execute(query, (number,)).fetchone())

    def size_of(self, image_id: Any) -> Tuple[int, int]:
        """(height, width) of an image by its id."""
        query = "SELECT height, width FROM image WHERE id = ?"
        return self._db.execute(query, (id_key(image_id),)).fetchone()

    def objects(self, image: int) -> List[IndexedObject]:
        """The objects of an image that are to do."""
        query = f"SELECT {_OBJECT} FROM object WHERE image = ? AND {_TO_DO} ORDER BY number"
        return [_object(row) for row in self._db.execute(query, (image,))]

    def boxes(self, image: int) -> List[List[float]]:
        """x, y, width, height of all objects of an image, also of those with nothing to do."""
        rows = self._db.execute("SELECT box FROM object WHERE image = ?", (image,))
        return [json.loads(box) for (box,) in rows]

    def object(self, number: int) -> Tuple[IndexedObject, IndexedImage]:
        """An object by its number, and its image."""
        query = f"SELECT image, {_OBJECT} FROM object WHERE number = ?"
        image, *row = self._db.execute(query, (number,)).fetchone()
        return _object(row), self.image(image)

    def objects_by_number(self) -> Iterator[Any]:
        """(number, image number, wanted, held out) of all objects to do, in order."""
        query = "SELECT number, image, wanted, truth IS NOT NULL FROM object"
        yield from self._db.execute(f"{query} WHERE {_TO_DO} ORDER BY number")

    def training_images(self, limit: int) -> Iterator[IndexedImage]:
        """At most so many images to train on: those with masks first, up to 7 in 10 of them."""
        query = """SELECT number FROM image WHERE {} EXISTS (SELECT 1 FROM object
            WHERE image = image.number AND known AND truth IS NULL) ORDER BY number"""
        having = [n for (n,) in self._db.execute(query.format(""))]
        lacking = [n for (n,) in self._db.execute(query.format("NOT"))]
        of_masks = min(len(having), max(limit - len(lacking), int(0.7 * limit)))
        chosen = [*_spread(having, of_masks), *_spread(lacking, limit - of_masks)]
        for number in sorted(chosen):
            yield self.image(number)

    @property
    def hidden(self) -> List[Any]:
        """Ids of the categories whose masks nothing may learn from."""
        return self.meta["hidden"]

    def masks_by_class(self) -> Dict[Any, int]:
        """How many masks that were not made each class has, by category id; those with none are
        left out."""
        query = """SELECT category, COUNT(*) FROM object WHERE known AND NOT made
            GROUP BY category"""
        return {json.loads(category): count for category, count in self._db.execute(query)}

    def wants_without_masks(self) -> bool:
        """Whether an object is to get a mask whose category has none."""
        query = """SELECT EXISTS (SELECT 1 FROM object WHERE wanted AND category NOT IN
            (SELECT category FROM object WHERE known))"""
        return bool(self._db.execute(query).fetchone()[0])

    def categories_without_masks(self) -> List[Any]:
        """Ids of the categories of which no object has a mask."""
        query = "SELECT DISTINCT category FROM object WHERE known"
        having = {category for (category,) in self._db.execute(query)}
        return [i for i in self.categories if id_key(i) not in having]

    def held_out(self) -> Set[int]:
        """Numbers of the objects whose masks are held out."""
        return {n for (n,) in self._db.execute("SELECT number FROM object WHERE truth IS NOT NULL")}

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _image(row: Any) -> IndexedImage:
    number, image_id, file_name, height, width = row
    return IndexedImage(number, json.loads(image_id), json.loads(file_name), height, width)


def _object(row: Any) -> IndexedObject:
    number, own_id, category, box, wanted, truth = row
    return IndexedObject(
        number,
        *(json.loads(own_id), json.loads(category), json.loads(box), bool(wanted)),
        json.loads(truth) if truth else None,
    )


def _spread(numbers: List[int], count: int) -> List[int]:
    """At most so many of the numbers, at equal distances."""
    if count >= len(numbers):
        return numbers
    return [numbers[i * len(numbers) // count] for i in range(count)]


def _quoted(path: Path) -> str:
    return str(path.absolute()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
