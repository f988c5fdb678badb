"""Files that are either complete or not there."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Union

PathLike = Union[str, Path]


def write_text(path: PathLike, text: str) -> None:
    """Write a text file under a temporary name, then move it to its place.

    Raises:
        OSError: when the folder cannot be written; the message names the file.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as e:
        raise OSError(f"cannot write '{path}': {e.strerror or e}") from e
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as f:
            f.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as e:
        os.unlink(temporary)
        if isinstance(e, OSError):
            raise OSError(f"cannot write '{path}': {e.strerror or e}") from e
        raise


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
