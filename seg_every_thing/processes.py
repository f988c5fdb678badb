"""Processes that end together, and signals that end a program in good order."""

import contextlib
import ctypes
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import Any, Callable, Iterator, Sequence
from unittest import mock

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_LIBC = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


class EndedBySignal(BaseException):
    """A signal ends this program, or has ended a process that it needs.

    Attributes:
        number: of the signal; the program's exit code is 128 + number.
    """

    def __init__(self, number: int, who: str) -> None:
        hint = " (the kernel does so for want of memory)" if number == signal.SIGKILL else ""
        super().__init__(f"{who} {signal.Signals(number).name}{hint}")
        self.number = number


@contextlib.contextmanager
def signals_end_in_good_order() -> Iterator[None]:
    """Let signals that ask the program to end raise :class:`EndedBySignal` inside the block.

    Python does so for Ctrl-C alone; without it, files that are being written would stay behind.

    Raises:
        EndedBySignal: for SIGINT, SIGTERM and SIGHUP.
    """

    def end(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # who sends it twice is in a hurry
        raise EndedBySignal(number, "ended by")

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # Windows knows one of them
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                before[number] = signal.signal(number, end)
    try:
        yield
    except KeyboardInterrupt:
        raise EndedBySignal(signal.SIGINT, "ended by") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def readers_may_end() -> Iterator[None]:
    """Let the program go on when who reads its output ends, as in ``| head``: nobody misses it.

    Else a log has a traceback for each line, and a print ends a training.
    """
    with contextlib.ExitStack() as stack:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                for name in ("write", "flush"):
                    method = partial(_written, stream, getattr(stream, name))
                    stack.enter_context(mock.patch.object(stream, name, method))
                stack.callback(stream.flush)
        yield


def _written(stream: io.TextIOWrapper, method: Callable[..., Any], *args: Any) -> Any:
    try:
        return method(*args)
    except BrokenPipeError:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), stream.fileno())
        return method(*args)


@contextlib.contextmanager
def starting_processes() -> Iterator[None]:
    """Start processes that end when this one wants it: Ctrl-C in a terminal does not reach them.

    Nor does Python, which tidies up after those that were killed, warn about it.
    """
    quiet = "ignore:resource_tracker:UserWarning"
    warnings = ",".join(filter(None, [os.getenv("PYTHONWARNINGS"), quiet]))
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, PYTHONWARNINGS=warnings))
        if hasattr(signal, "pthread_sigmask"):
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            stack.callback(signal.pthread_sigmask, signal.SIG_SETMASK, before)
        yield


def end_with_parent(parent: int) -> None:
    """Let this process end within seconds of its parent, however that ends.

    Args:
        parent: process id of the parent, as it knows it itself.
    """
    _get_when_parent_ends(signal.SIGKILL)  # at once, and whatever this process waits for

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def call_and_end_together(command: Sequence[str]) -> int:
    """Run a command that ends with this process, and return its exit code.

    On Linux it does, however this process ends; elsewhere not when this process is killed.
    """
    return subprocess.call(command, preexec_fn=partial(_get_when_parent_ends, signal.SIGTERM))


def _get_when_parent_ends(number: int) -> None:
    """Ask the kernel for a signal at the end of the parent; Linux alone does so."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def kill_children() -> None:
    """End all processes that this one has started with ``multiprocessing``, at once."""
    for child in multiprocessing.active_children():
        child.kill()


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for what it allocates next.

    glibc gives the memory of large tensors back to the system at once, and the kernel clears it
    anew for the next: on small machines that took longer than the convolutions in between.  The
    numbers that come out stay the same; memory is returned when the process ends.

    Returns:
        Whether it does; only with glibc.
    """
    mallopt = getattr(_LIBC, "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
