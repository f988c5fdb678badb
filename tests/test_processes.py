"""Processes end with their parent, and signals end a program in good order."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import pytest
from helpers import runs

from seg_every_thing import processes
from seg_every_thing.processes import (
    EndedBySignal,
    call_and_end_together,
    end_with_parent,
    readers_may_end,
    signals_end_in_good_order,
    starting_processes,
)

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

FORK = multiprocessing.get_context("fork")


def write_pid_and_sleep(parent: int, path: Path) -> None:
    end_with_parent(parent)
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)
    time.sleep(60)


def start_a_child(path: Path) -> None:
    FORK.Process(target=write_pid_and_sleep, args=(os.getpid(), path)).start()
    time.sleep(60)


def start_a_child_without_the_kernel(path: Path) -> None:
    processes._LIBC = None  # as on other systems than Linux
    start_a_child(path)


def call_a_command(path: Path) -> None:
    call_and_end_together(["sh", "-c", f"echo $$ > {path}.part; mv {path}.part {path}; sleep 60"])


@linux
@pytest.mark.parametrize(
    "program", [start_a_child, start_a_child_without_the_kernel, call_a_command]
)
def test_children_end_with_a_killed_program(
    program: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    parent = FORK.Process(target=program, args=(path,))
    parent.start()
    deadline = time.monotonic() + 60
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    pid = int(path.read_text())
    assert runs(pid)
    os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(pid)


def test_a_command_gives_its_exit_code() -> None:
    assert call_and_end_together(["sh", "-c", "exit 7"]) == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_unwind(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    done = []
    with pytest.raises(EndedBySignal) as ended, signals_end_in_good_order():
        try:
            signal.raise_signal(number)
            time.sleep(10)
        finally:
            done.append("tidied up")
    assert ended.value.number == number and str(ended.value) == f"ended by {number.name}"
    assert done and signal.getsignal(number) == before


def test_what_a_user_has_set_stays() -> None:
    """nohup ignores SIGHUP, and a program that embeds this one has handlers of its own."""
    got = []
    before = signal.signal(signal.SIGHUP, lambda number, _: got.append(number))
    try:
        with signals_end_in_good_order():
            signal.raise_signal(signal.SIGHUP)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert got == [signal.SIGHUP]


def test_ctrl_c_comes_after_processes_have_started() -> None:
    begun = []

    def start() -> None:
        with starting_processes():
            # To this thread: os.kill may reach another one, and the test that comes after this.
            signal.raise_signal(signal.SIGINT)
            begun.append(os.environ["PYTHONWARNINGS"])

    with pytest.raises(KeyboardInterrupt):
        start()
    assert len(begun) == 1 and "resource_tracker" in begun[0]
    assert "resource_tracker" not in os.environ.get("PYTHONWARNINGS", "")


def test_killed_ones_get_a_hint() -> None:
    error: Any = EndedBySignal(signal.SIGKILL, "process 1 was ended by")
    assert str(error) == "process 1 was ended by SIGKILL (the kernel does so for want of memory)"


def test_a_reader_that_ends_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with readers_may_end():
            handler = logging.StreamHandler(stream)
            handler.handleError = lambda record: pytest.fail("a traceback in the log")  # type: ignore
            handler.emit(logging.makeLogRecord({"msg": "a line"}))
            stream.write("x" * 100_000)
            stream.flush()
        assert "write" not in vars(stream)  # as it was before


def test_output_that_is_read_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with open(reader, encoding="utf-8") as end, open(writer, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with readers_may_end():
            stream.write("a line\n")
        assert end.readline() == "a line\n"  # flushed when the program ends


def test_freed_memory_is_not_cleared_anew() -> None:
    """Pages that come from the kernel are counted; those of memory that was kept are not."""
    if not hasattr(processes._LIBC, "mallopt"):
        pytest.skip("of glibc")
    pages = _pages_of_large_arrays(kept=True)
    assert pages < 50
    assert pages < _pages_of_large_arrays(kept=False)


def _pages_of_large_arrays(kept: bool) -> int:
    """How many pages a process gets for three arrays of 128 MB in turn, after a first one."""
    script = (
        "import resource, runpy, numpy\n"
        f"names = runpy.run_path({processes.__file__!r})\n"  # without PyTorch: it is fast
        f"assert not {kept} or names['keep_freed_memory']()\n"
        "pages = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "numpy.ones(2**24)\n"
        "start = pages()\n"
        "for _ in range(3): numpy.ones(2**24)\n"
        "print(pages() - start)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    return int(done.stdout)
