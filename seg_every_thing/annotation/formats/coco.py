"""COCO's JSON format."""

from typing import Any, Iterable, Iterator, Tuple

from ...data.json_stream import MemberWriter, encode, iter_members
from ...files import PathLike, written_atomically

Member = Tuple[str, Any]
"""The key of a member of a COCO file, and one element of it ("images", "annotations",
"categories") or the whole of it (any other key)."""

_LONG_LISTS = ("images", "annotations", "categories")


def read_boxes(path: PathLike) -> Iterator[Member]:
    """The members of a COCO file in its order.

    Args:
        path: a .json file, or a .zip with one .json file in it.

    Raises:
        ValueError: when the file is missing, truncated or no JSON object; the message names it.
    """
    return iter_members(path, long_lists=_LONG_LISTS)


def write(path: PathLike, members: Iterable[Member]) -> None:
    """Write a COCO file, an element of a list on a line each; lists without elements, too.

    Args:
        path: of the file, which appears when it is complete.
        members: as :func:`read_boxes` gives them; they are taken one by one.

    Raises:
        ValueError: for numbers that are not finite.
        OSError: when the file cannot be written; the message names it.
    """
    with written_atomically(path) as f:
        writer = MemberWriter(f)
        missing = dict.fromkeys(_LONG_LISTS)
        for key, value in members:
            if key not in _LONG_LISTS:
                writer.put(key, value)
                continue
            if writer.open_list != key:
                writer.start_list(key)
                missing.pop(key, None)
            writer.extend([encode(value)])
        for key in missing:
            writer.put(key, [])
        writer.finish()
