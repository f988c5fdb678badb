"""The bytes of a JSON file, or of the one in an archive, piece by piece."""

import contextlib
import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO, Iterator, Tuple

from tqdm import tqdm

from ..files import PathLike

_SIZE = 1 << 16  # bytes read at a time
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What may go on behind the end of a chunk: a surrogate pair or another escape, NaN or Infinity.
_UNFINISHED = re.compile(
    rb"(?:\\u[dD][89abAB]..)?(?:\\(?:u\w{0,3})?)?\Z|[A-Za-z]{1,8}\Z", re.DOTALL
)
_UNFINISHED_SIZE = 12


def json_chunks(path: PathLike, description: str) -> Iterator[bytes]:
    """The bytes of a file without its byte order mark, no escape or word cut in two.

    Args:
        path: a .json file, or a .zip with one .json file in it.
        description: label of the progress bar.

    Raises:
        ValueError: when the file cannot be read; the message names it.
    """
    with _opened(path) as (source, size), tqdm(
        total=size,
        desc=description,
        unit="B",
        unit_scale=True,
        disable=None,  # shown on terminals alone
        leave=False,
    ) as progress:
        at_start, kept, data = True, b"", b"any"
        while data:
            data = _read(path, source)
            progress.update(len(data))
            chunk = kept + data
            if at_start and len(chunk) < len(_BYTE_ORDER_MARK) and data:
                kept = chunk
                continue
            if at_start and chunk.startswith(_BYTE_ORDER_MARK):
                chunk = chunk[len(_BYTE_ORDER_MARK) :]
            at_start = False
            unfinished = _UNFINISHED.search(chunk, max(0, len(chunk) - _UNFINISHED_SIZE))
            cut = unfinished.start() if unfinished and data else len(chunk)
            kept = chunk[cut:]
            if cut:
                yield chunk[:cut]


@contextlib.contextmanager
def _opened(path: PathLike) -> Iterator[Tuple[IO[bytes], int]]:
    """The file, or the one in the archive, and its size in bytes."""
    with contextlib.ExitStack() as stack:
        try:
            source: IO[bytes] = stack.enter_context(open(path, "rb"))
            size = os.path.getsize(path)
            if Path(path).suffix.lower() == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(source))
                member = _only_json_of(path, archive)
                source, size = stack.enter_context(archive.open(member)), member.file_size
        except OSError as e:
            raise ValueError(f"cannot read '{path}': {e.strerror or e}") from e
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as e:
            raise ValueError(f"cannot read the archive '{path}': {e}") from e
        yield source, size


def _only_json_of(path: PathLike, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [
        m
        for m in archive.infolist()
        if m.filename.endswith(".json") and not m.filename.startswith("__MACOSX")
    ]
    if len(members) != 1:
        raise ValueError(f"'{path}' must hold one .json file, it holds {len(members)}: unpack it")
    return members[0]


def _read(path: PathLike, source: IO[bytes]) -> bytes:
    try:
        return source.read(_SIZE)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise ValueError(f"cannot read '{path}': {e}") from e
