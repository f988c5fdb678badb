"""A disk that gets full, for tests of everything that writes files."""

import contextlib
import errno
import os
from typing import Any, Iterator
from unittest import mock


class _File:
    """A file on a disk that has room for some more bytes."""

    def __init__(self, file: Any, disk: "_Disk") -> None:
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        taken = min(len(data), self._disk.room)
        self._disk.room -= taken
        if not taken:
            self._disk.was_full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._file.write(bytes(data[:taken]))

    def close(self) -> None:
        self._file.close()


class _Disk:
    def __init__(self, room: int) -> None:
        self.room, self.was_full = room, False


@contextlib.contextmanager
def full_disk(room: int = 0) -> Iterator[_Disk]:
    """Let files of :mod:`seg_every_thing.files` take that many bytes in all, and no more.

    As on a real disk, the last write that fits is a part of what was asked for.
    """
    disk = _Disk(room)
    open_descriptor = os.fdopen

    def fdopen(descriptor: int, *args: Any, **kwargs: Any) -> Any:
        return _File(open_descriptor(descriptor, *args, **kwargs), disk)

    with mock.patch.object(os, "fdopen", fdopen):
        yield disk
