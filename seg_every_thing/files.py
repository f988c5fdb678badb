"""Files that are either complete or not there."""

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import IO, Any, Dict, Hashable, Iterable, Iterator, Optional, Union

PathLike = Union[str, Path]


@contextlib.contextmanager
def written_atomically(path: PathLike, mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write, under a temporary name until the block ends without an error.

    Args:
        path: of the file; its folder is made.
        mode: "w" (text, UTF-8) or "wb".

    Raises:
        OSError: when the file cannot be written; the message names it.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as f:
            yield f
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as e:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        if isinstance(e, OSError) and e.strerror:
            raise OSError(f"cannot write '{path}': {e.strerror}") from e
        raise


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


def read_json(path: PathLike) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: when the file is missing, unreadable or not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise ValueError(f"cannot read '{path}': {e.strerror or e}") from e
    except ValueError as e:
        raise ValueError(f"'{path}' is not valid JSON: {e}") from e


def make_output_dir(path: PathLike) -> Path:
    """Create an output folder and make sure that it can be written.

    Raises:
        OSError: naming the folder.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise OSError(f"cannot write to the output folder '{path}': {e.strerror or e}") from e
    return path


def printable(path: PathLike) -> str:
    """A path as text that can be written anywhere, whatever its bytes are."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(path))


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
            raise ValueError(f"cannot write '{path}': it is {kind}, give the name of a file")
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
