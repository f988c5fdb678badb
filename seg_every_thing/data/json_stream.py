"""JSON files of any size: read record by record, written list by list.

The standard library's decoder runs in C and can decode one value out of a longer text.  On a buffer
that rolls over the file it reads a Visual Genome file faster than ``json.load`` does (which spends
its time on memory), and twice as fast as ijson's C backend; so the standard library does it.
"""

import codecs
import contextlib
import json
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import (
    IO,
    Any,
    BinaryIO,
    Collection,
    Iterable,
    Iterator,
    List,
    NoReturn,
    Optional,
    Tuple,
)

from tqdm import tqdm

from ..files import PathLike

COCO_LISTS = ("images", "annotations", "categories")

_CHUNK = 1 << 22  # bytes read at a time
_TOKEN = 16  # a decoder that stops this close to the end of its text may lack the rest of a token
_WHITESPACE = re.compile(r"[ \t\n\r]*")


def iter_array(path: PathLike, description: str = "") -> Iterator[Any]:
    """The elements of a file that is one JSON array, decoded one at a time.

    Args:
        path: a .json file, or a .zip with one .json file in it.
        description: label of the progress bar.

    Raises:
        ValueError: when the file is missing, truncated or not a JSON array; the message names it.
    """
    with _opened(path, description) as scanner:
        scanner.take("[", "a list")
        yield from scanner.elements()
        scanner.finish()


def iter_members(
    path: PathLike, description: str = "", long_lists: Collection[str] = COCO_LISTS
) -> Iterator[Tuple[str, Any]]:
    """The members of a file that is one JSON object, such as a COCO file, in the file's order.

    Args:
        path: a .json file, or a .zip with one .json file in it.
        description: label of the progress bar.
        long_lists: keys of lists that come element by element, each under the list's key; all
            other values come whole.

    Raises:
        ValueError: when the file is missing, truncated or not a JSON object; the message names it.
    """
    with _opened(path, description) as scanner:
        scanner.take("{", "an object")
        more = scanner.peek() != "}"
        if not more:
            scanner.take("}")
        while more:
            if scanner.peek() != '"':
                scanner.fail("expected a key")
            key = scanner.value()
            scanner.take(":")
            if scanner.peek() == "[" and key in long_lists:
                scanner.take("[")
                for element in scanner.elements():
                    yield key, element
            else:
                yield key, scanner.value()
            more = scanner.take(",}") == ","
        scanner.finish()


class _Scanner:
    """A place in a JSON text of which only a part is in memory."""

    def __init__(self, path: PathLike, source: BinaryIO, progress: tqdm) -> None:
        self._path, self._source, self._progress = path, source, progress
        self._text_of = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._decode = json.JSONDecoder().raw_decode
        self._buffer, self._position = "", 0
        self._passed = 0  # characters before the buffer
        self._at_end = False

    def peek(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            self._position = _WHITESPACE.match(self._buffer, self._position).end()  # type: ignore
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._read():
                return ""

    def take(self, allowed: str, what: str = "") -> str:
        """Step over the next character, which must be one of some."""
        character = self.peek()
        if not character or character not in allowed:
            expected = what or " or ".join(f"'{c}'" for c in allowed)
            self.fail(f"expected {expected}", at_end=not character)
        self._position += 1
        return character

    def value(self) -> Any:
        """Decode the next value and step over it."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._buffer, self._position)
            except json.JSONDecodeError as e:
                # An error at the end of the buffer, or in a string, may just be a lack of text.
                lacks_text = e.pos > len(self._buffer) - _TOKEN or e.msg.startswith("Unterminated")
                if lacks_text and self._read():
                    continue
                self._position = e.pos
                self.fail(e.msg, at_end=lacks_text)
            except (ValueError, RecursionError) as e:
                self.fail(str(e))
            # A number near the end of the buffer may go on: "3." is read as 3.
            if end + _TOKEN < len(self._buffer) or not self._read():
                self._position = end
                return value

    def elements(self) -> Iterator[Any]:
        """The elements of an array, from after its "[" to after its "]"."""
        if self.peek() == "]":
            self.take("]")
            return
        yield self.value()
        while self.take(",]") == ",":
            yield self.value()

    def finish(self) -> None:
        """Make sure that nothing follows."""
        if self.peek():
            self.fail("extra data after its end")

    def fail(self, reason: str, at_end: bool = False) -> NoReturn:
        """Raise what is wrong at this place."""
        mend = ": was the file cut off? Get it anew" if at_end else ""
        place = "its end" if at_end else f"character {self._passed + self._position}"
        raise ValueError(f"'{self._path}' is not valid at {place}: {reason}{mend}")

    def _read(self) -> bool:
        """Add to the buffer; at least its own size again, so that long values cost no more."""
        if self._at_end:
            return False
        size = max(_CHUNK, len(self._buffer) - self._position)
        try:
            data = self._source.read(size)
            text = self._text_of(data, not data)
        except (OSError, EOFError, UnicodeDecodeError, zipfile.BadZipFile, zlib.error) as e:
            raise ValueError(f"cannot read '{self._path}': {e}") from e
        if not data:
            self._at_end = True
            return False
        self._progress.update(len(data))
        self._buffer = self._buffer[self._position :] + text
        self._passed, self._position = self._passed + self._position, 0
        return True


@contextlib.contextmanager
def _opened(path: PathLike, description: str) -> Iterator[_Scanner]:
    with contextlib.ExitStack() as stack:
        try:
            source: Any = stack.enter_context(open(path, "rb"))
            size = os.path.getsize(path)
            if Path(path).suffix.lower() == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(source))
                member = _only_json_of(path, archive)
                source, size = stack.enter_context(archive.open(member)), member.file_size
        except OSError as e:
            raise ValueError(f"cannot read '{path}': {e.strerror or e}") from e
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as e:
            raise ValueError(f"cannot read the archive '{path}': {e}") from e
        # Shown on terminals alone.
        bar = tqdm(
            total=size, desc=description, unit="B", unit_scale=True, disable=None, leave=False
        )
        yield _Scanner(path, source, stack.enter_context(bar))


def _only_json_of(path: PathLike, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [
        m
        for m in archive.infolist()
        if m.filename.endswith(".json") and not m.filename.startswith("__MACOSX")
    ]
    if len(members) != 1:
        raise ValueError(f"'{path}' must hold one .json file, it holds {len(members)}: unpack it")
    return members[0]


class MemberWriter:
    """Writes one JSON object, its lists bit by bit."""

    def __init__(self, file: IO[str]) -> None:
        """
        Args:
            file: an open text file.
        """
        self._file = file
        self._before_member, self._before_element = "{\n", ""
        self.open_list: Optional[str] = None
        """Key of the list that :meth:`extend` fills."""

    def put(self, key: str, value: Any) -> None:
        """Write a member whole; the elements of a list on a line each."""
        if isinstance(value, list):
            self.start_list(key)
            self.extend(encode(element) for element in value)
            return
        self._start_member(key)
        self._file.write(encode(value))

    def start_list(self, key: str) -> None:
        """Begin a member that is a list; :meth:`extend` fills it."""
        self._start_member(key)
        self._file.write("[")
        self._before_element, self.open_list = "\n", key

    def extend(self, elements: Iterable[str]) -> None:
        """Add elements, in JSON already, to the open list."""
        text = ",\n".join(elements)
        if text:
            self._file.write(self._before_element + text)
            self._before_element = ",\n"

    def finish(self) -> None:
        """Close the object."""
        self._close_list()
        self._file.write("{}\n" if self._before_member.startswith("{") else "\n}\n")

    def _start_member(self, key: str) -> None:
        self._close_list()
        self._file.write(f"{self._before_member}{encode(key)}: ")
        self._before_member = ",\n"

    def _close_list(self) -> None:
        if self.open_list is not None:
            self._file.write("]")
            self.open_list = None


def encode(value: Any) -> str:
    """Strict JSON on one line.

    Raises:
        ValueError: for numbers that are not finite.
    """
    return json.dumps(value, allow_nan=False)


def read_lines(path: PathLike) -> List[str]:
    """The lines of a text file without those that are empty or start with "#".

    Raises:
        ValueError: when it cannot be read; the message names it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ValueError(f"cannot read '{path}': {e}") from e
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
