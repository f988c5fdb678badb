"""JSON files of any size: read record by record with ijson, written list by list.

ijson keeps to the letter of JSON and to numbers of 64 bits; Python's own ``json`` does not.  A file
with NaN, Infinity, larger numbers or half a surrogate pair (as Python writes the bytes of a file
name that is not UTF-8) is therefore read whole by ``json``: what comes out is always what
``json.load`` gives.
"""

import contextlib
import json
import re
from itertools import islice
from pathlib import Path
from typing import (
    IO,
    Any,
    Collection,
    Iterable,
    Iterator,
    List,
    NoReturn,
    Optional,
    Tuple,
)

import ijson

from ..files import PathLike
from .json_bytes import json_chunks

COCO_LISTS = ("images", "annotations", "categories")

Events = Iterator[Tuple[str, Any]]  # of ijson: what begins, ends or stands there, and its value

_COLUMN = 39  # of the line of text in an error of ijson's: the last byte that it read
_HALF_PAIR = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL
)


def iter_array(path: PathLike, description: str = "") -> Iterator[Any]:
    """The elements of a file that is one JSON array, decoded one at a time.

    Args:
        path: a .json file, or a .zip with one .json file in it.
        description: label of the progress bar.

    Raises:
        ValueError: when the file is missing, truncated or not a JSON array; the message names it.
    """
    events = _events(path, description)
    with _begun(path, events, "start_array", "a list"):
        yield from _elements(events)
        next(events, None)  # nothing may follow


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
        ValueError: when the file is missing, truncated, not a JSON object, or has one of its keys
            twice; the message names it.
    """
    events = _events(path, description)
    keys = set()
    with _begun(path, events, "start_map", "an object"):
        for event, key in events:
            if event == "end_map":
                continue  # nothing may follow
            if key in keys:
                raise ValueError(f"'{path}' has the key '{key}' twice: only one can count")
            keys.add(key)
            event, value = next(events)
            if event == "start_array" and key in long_lists:
                for element in _elements(events):
                    yield key, element
            else:
                yield key, _value(event, value, events)


@contextlib.contextmanager
def _begun(path: PathLike, events: Events, event: str, what: str) -> Iterator[None]:
    try:
        if next(events)[0] != event:
            raise ValueError(f"'{path}' must hold {what}, and it holds something else")
        yield
    except RecursionError as e:
        raise ValueError(f"'{path}' is nested too deeply") from e


def _elements(events: Events) -> Iterator[Any]:
    """The elements of an array that has begun."""
    for event, value in events:
        if event == "end_array":
            return
        yield _value(event, value, events)


def _value(event: str, value: Any, events: Events) -> Any:
    """Build the value that begins with an event."""
    if event == "start_array":
        return [*_elements(events)]
    if event == "start_map":
        result = {}
        for event, key in events:
            if event == "end_map":
                break
            result[key] = _value(*next(events), events)
        return result
    return value


def _events(path: PathLike, description: str) -> Events:
    """What ijson reads, or Python's json where ijson cannot.

    Raises:
        ValueError: for a broken file.
    """
    found = ijson.sendable_list()
    parser = ijson.basic_parse_coro(found, use_float=True)
    passed = position = 0
    chunk = b""
    try:
        for chunk in json_chunks(path, description):
            if b"NaN" in chunk or b"Infinity" in chunk:
                break
            if b"\\u" in chunk and _HALF_PAIR.search(chunk):
                break
            parser.send(chunk)
            yield from found
            passed += len(found)
            position += len(chunk)
            found.clear()
        else:
            chunk = b""
            parser.close()
            yield from found
            return
    except (ijson.JSONError, UnicodeDecodeError) as e:
        if "overflow" not in str(e):
            _fail(path, *_place_and_reason(e, position, chunk))
    yield from islice(_events_of(_read_whole(path, description)), passed, None)


class _Pairs(List[Tuple[str, Any]]):
    """The members of an object, with keys that repeat."""


def _read_whole(path: PathLike, description: str) -> Any:
    data = b"".join(json_chunks(path, description))
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_Pairs)
    except UnicodeDecodeError as e:
        _fail(path, f"byte {e.start}", f"not UTF-8: {e.reason}")
    except json.JSONDecodeError as e:
        _fail(path, f"character {e.pos}", e.msg)


def _events_of(value: Any) -> Events:
    """What ijson would say of a value."""
    if isinstance(value, _Pairs):
        yield "start_map", None
        for key, member in value:
            yield "map_key", key
            yield from _events_of(member)
        yield "end_map", None
    elif isinstance(value, list):
        yield "start_array", None
        for element in value:
            yield from _events_of(element)
        yield "end_array", None
    else:
        yield "", value


def _place_and_reason(error: Exception, position: int, chunk: bytes) -> Tuple[str, str]:
    """What ijson says of a chunk that begins at a position; an empty one is the end."""
    # One line of reason, one with the text (some of it before and some behind the place, which is
    # in column 40), one with an arrow.
    message = error.args[0] if isinstance(error.args[0], bytes) else str(error).encode()
    reason, text, *_ = (line.decode("utf-8", "replace") for line in message.split(b"\n") + [b""])
    reason = reason.rstrip(".")
    if not chunk and "garbage" not in reason:
        return "its end", f"{reason}: was the file cut off? Get it anew"
    excerpt = text.strip()
    begin = chunk.find(excerpt.encode()) + _COLUMN - (len(text) - len(text.lstrip()))
    return f"byte {position + max(0, begin)}", f"{reason}: {excerpt}"


def _fail(path: PathLike, place: str, reason: str) -> NoReturn:
    raise ValueError(f"'{path}' is not valid JSON near {place}: {reason}")


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
