"""Files that are either complete or not there."""

import contextlib
import errno
import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import IO, Any, Dict, Hashable, Iterable, Iterator, Optional, Union

import numpy as np
from detectron2.utils.file_io import PathManager

from .leftovers import sweep, temporary_file

PathLike = Union[str, Path]

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def written_atomically(path: PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write, under a temporary name until the block ends without an error.

    Args:
        path: of the file; its folder is made.
        mode: "w" (text, UTF-8; what is not Unicode, such as the bytes of a file name, is escaped)
            or "wb".

    Raises:
        OSError: when the file cannot be written, say because the disk is full; the message names
            it, whatever a library makes of it that writes the file.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with _naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(temporary_file(path))
            raw = _Raw(os.fdopen(os.open(temporary, os.O_WRONLY), "wb", buffering=0))
        try:
            with io.BufferedWriter(raw, 1 << 20) as f:
                if "b" in mode:
                    yield f
                else:
                    with io.TextIOWrapper(f, "utf-8", "backslashreplace") as text:
                        yield text
        except Exception as e:
            if raw.error is None:
                raise
            raise _cannot_write(path, raw.error) from e
        with _naming(path):
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)


class _Raw(io.RawIOBase):
    """A file that remembers why it could not be written.

    PyTorch reports another error then, and numpy and Pillow, which would write by themselves to a
    file with a number, lose the reason.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: Optional[OSError] = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> Optional[int]:
        try:
            return self._file.write(data)
        except OSError as e:
            self.error = e
            raise

    def close(self) -> None:
        super().close()
        self._file.close()


@contextlib.contextmanager
def _naming(path: PathLike) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise _cannot_write(path, e) from e


def _cannot_write(path: PathLike, error: OSError) -> OSError:
    return OSError(f"cannot write '{printable(path)}': {error.strerror or error}")


class AtomicPathManager:
    """detectron2's PathManager that writes local files under a temporary name first."""

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> Any:
        if mode in ("w", "wb") and "://" not in path:
            return written_atomically(path, mode)
        return PathManager.open(path, mode, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(PathManager, name)


@contextlib.contextmanager
def full_disk_named(folder: PathLike) -> Iterator[None]:
    """Let an error of a full disk that names no file, such as that of a log, name its folder.

    Raises:
        OSError: naming the folder.
    """
    try:
        yield
    except OSError as e:
        if e.errno not in _FULL or e.filename is not None:
            raise
        raise _cannot_write(folder, e) from e


def write_text(path: PathLike, text: str) -> None:
    """Write a text file under a temporary name, then move it to its place.

    Raises:
        OSError: when the folder cannot be written; the message names the file.
    """
    with written_atomically(path) as f:
        f.write(text)


def write_json(path: PathLike, content: Any) -> None:
    """Write strict JSON (no NaN) as :func:`write_text` does."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_array(path: PathLike, array: np.ndarray) -> None:
    """Write a .npy file as :func:`write_text` does.

    Raises:
        OSError: when it cannot be written; the message names the file.
    """
    with written_atomically(path, "wb") as f:
        np.save(f, array)


def read_text(path: PathLike) -> str:
    """Read a text file in UTF-8.

    Raises:
        ValueError: when it is missing, unreadable or not UTF-8; the message names it.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise ValueError(f"cannot read '{printable(path)}': {e.strerror or e}") from e
    except UnicodeDecodeError as e:
        raise ValueError(f"'{printable(path)}' is no text in UTF-8: {e}") from e


def read_json(path: PathLike) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: when the file is missing, unreadable or not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise ValueError(f"cannot read '{printable(path)}': {e.strerror or e}") from e
    except (ValueError, RecursionError) as e:
        raise ValueError(f"'{printable(path)}' is not valid JSON: {e}") from e


def file_digest(path: PathLike) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        for block in iter(lambda: f.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def make_output_dir(path: PathLike, *, utf_8: bool = False) -> Path:
    """Create an output folder, make sure that it can be written, and sweep what killed runs left.

    Args:
        path: of the folder.
        utf_8: refuse another name, which TensorBoard would fail on in the midst of a training.

    Raises:
        OSError: naming the folder.
        ValueError: for a name that is refused.
    """
    if not str(path):
        raise ValueError("the output folder has an empty name: name one, or '.' for this folder")
    path = Path(path)
    if utf_8 and any("\ud800" <= c <= "\udfff" for c in str(path)):
        raise ValueError(
            f"the output folder '{printable(path)}' has a name that is not UTF-8: give another"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        sweep(path)
    except OSError as e:
        raise OSError(
            f"cannot write to the output folder '{printable(path)}': {e.strerror or e}"
        ) from e
    return path


def printable(path: PathLike) -> str:
    """A path as text that can be written anywhere, whatever its bytes are."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


def escape_in(stream: Any) -> None:
    """Let a text stream escape what it cannot encode, say a name that is not UTF-8, and not fail.

    Args:
        stream: of a log, for example.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def check_targets(
    inputs: Iterable[Optional[PathLike]],
    outputs: Iterable[Optional[PathLike]],
    cleared: Iterable[PathLike] = (),
) -> None:
    """Refuse to write over what is read, or to write a file twice; for the start of a command.

    Files are the same by any name: links, hard links and ".." are seen through.

    Args:
        inputs: files and folders that are read; None stands for one that is not given.
        outputs: files that are written.
        cleared: folders whose content is removed first.

    Raises:
        ValueError: naming the files.
    """
    readers: Dict[Hashable, PathLike] = {_identity(path): path for path in inputs if path}
    writers: Dict[Hashable, PathLike] = {}
    for path in (path for path in outputs if path):
        if os.path.exists(path) and not os.path.isfile(path):
            kind = "a folder" if os.path.isdir(path) else "no ordinary file"
            raise ValueError(
                f"cannot write '{printable(path)}': it is {kind}, give the name of a file"
            )
        key = _identity(path)
        if key in readers:
            same = "" if str(readers[key]) == str(path) else f" (as '{path}')"
            raise ValueError(
                f"the input '{readers[key]}' would be written over{same}: give another output"
            )
        if key in writers:
            raise ValueError(
                f"'{path}' would be written over by '{writers[key]}', the same file: give another"
            )
        writers[key] = path
    for folder in map(os.path.realpath, map(str, cleared)):
        for path in readers.values():
            if os.path.commonpath([folder, os.path.realpath(path)]) == folder:
                raise ValueError(
                    f"the input '{path}' is in '{folder}', which is cleared first: give another "
                    f"output folder"
                )


def _identity(path: PathLike) -> Hashable:
    """Equal for names of the same file."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino
