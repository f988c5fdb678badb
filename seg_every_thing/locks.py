"""One program at a time in an output folder."""

import contextlib
import errno
import logging
import os
import sys
from pathlib import Path
from typing import Iterator, Optional

try:
    import fcntl
except ImportError:  # not on Windows, where folders are not locked
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_NAME = ".in_use"


@contextlib.contextmanager
def folder_in_use(folder: Path, force: bool = False) -> Iterator[None]:
    """Keep other programs that ask, too, out of an existing folder until the block ends.

    The lock is of this process alone and ends with it, however that ends.

    Args:
        folder: which is written.
        force: go on even if another program is there.

    Raises:
        ValueError: when another program is there.
    """
    path = folder / _NAME
    descriptor = _lock(path) if fcntl is not None else None
    if descriptor is None and fcntl is not None:
        holder = path.read_text(encoding="utf-8") if path.is_file() else ""
        text = f"the folder '{folder}' is in use by {holder or 'another program'}"
        if not force:
            raise ValueError(f"{text}: wait for it, choose another folder, or give --force")
        logger.warning("%s; --force: going on", text)
    try:
        yield
    finally:
        if descriptor is not None:
            path.unlink()  # while it is locked: nobody may lock a file that is to vanish
            os.close(descriptor)


def _lock(path: Path) -> Optional[int]:
    """A descriptor that holds the lock; None when another process does.

    A lock of POSIX, which forked processes (those that load data) do not share.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno in (errno.EACCES, errno.EAGAIN):
                os.close(descriptor)
                return None
            logger.warning("Nothing keeps other programs out of '%s': %s", path.parent, e)
        # Its last holder may have removed the file in the meantime.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            break
        os.close(descriptor)
    text = f"process {os.getpid()} ({' '.join(sys.argv)[:200]})"
    os.ftruncate(descriptor, 0)
    os.write(descriptor, text.encode("utf-8", "backslashreplace"))
    return descriptor
