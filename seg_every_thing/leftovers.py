"""Temporary files and folders, which a killed program leaves behind and the next one sweeps."""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Iterator, Set

try:
    import fcntl
except ImportError:  # not on Windows, where nothing is swept
    fcntl = None  # type: ignore[assignment]

_ENDING = ".seg-every-thing"  # so that nobody else's files are swept
_YOUNG = 2.0  # seconds in which whoever makes a temporary file has certainly locked it
_swept: Set[Path] = set()


@contextlib.contextmanager
def temporary_file(target: Path) -> Iterator[Path]:
    """An empty file beside ``target``, in an existing folder; gone after the block, if not moved.

    Raises:
        OSError: when it cannot be made.
    """
    _sweep_once(target.parent)
    descriptor, name = tempfile.mkstemp(_ENDING, f".{target.name}.", target.parent)
    os.close(descriptor)
    try:
        with _in_use(Path(name)):
            yield Path(name)
    finally:
        if os.path.exists(name):
            os.unlink(name)


@contextlib.contextmanager
def temporary_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target``, in an existing folder; gone after the block, if not moved.

    Raises:
        OSError: when it cannot be made.
    """
    _sweep_once(target.parent)
    folder = Path(tempfile.mkdtemp(_ENDING, f".{target.name}.", target.parent))
    try:
        folder.chmod(0o755)
        with _in_use(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_unless_there(made: Path, target: Path) -> None:
    """Move a temporary folder to its place, unless another program has been faster.

    Raises:
        OSError: when it cannot be moved.
    """
    try:
        made.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def sweep(folder: Path) -> None:
    """Remove what programs that run no more have left in a folder under temporary names."""
    for path in folder.glob(f".*{_ENDING}"):
        with contextlib.suppress(OSError):  # it is in use, or another program sweeps, too
            if time.time() - path.stat().st_mtime > _YOUNG:
                with _locked(path):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sweep_once(folder: Path) -> None:
    folder = folder.absolute()
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)


@contextlib.contextmanager
def _in_use(path: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # without locks nothing is swept, either
            stack.enter_context(_locked(path))
        yield


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock, which ends with this process.

    Raises:
        OSError: when another one holds it, or there are no locks.
    """
    if fcntl is None:
        raise OSError("no locks on this system")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
