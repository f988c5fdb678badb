"""Processes that end together, with one line and the exit code of the signal.

The programs of these tests are forked from this one: starting Python and torch takes seconds.
"""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, List

import pytest
from helpers import runs

from seg_every_thing.cli import one_line_errors
from seg_every_thing.engine import ranks
from seg_every_thing.errors import ProcessError
from seg_every_thing.processes import EndedBySignal

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")

FORK = multiprocessing.get_context("fork")


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def rank_of(rank: int, folder: Path, behave: Callable[[int], None]) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a process that is not forked
    (folder / f"{rank}.part").write_text(str(os.getpid()))
    (folder / f"{rank}.part").rename(folder / str(rank))
    until((folder / "go").exists, 60)
    behave(rank)


def program(folder: Path, behave: Callable[[int], None]) -> None:
    ranks.multiprocessing.get_context = lambda _: FORK
    with one_line_errors("program"):
        ranks._run_processes(rank_of, nprocs=2, args=(folder, behave), daemon=False)


class Program:
    """A program of two processes, at the point where both of them run."""

    def __init__(self, folder: Path, behave: Callable[[int], None] = lambda rank: None) -> None:
        self.process = FORK.Process(target=program, args=(folder, behave))
        self.process.start()
        assert until(lambda: all((folder / rank).exists() for rank in "01"))
        self.pids = [int((folder / rank).read_text()) for rank in "01"]
        self.go = (folder / "go").touch

    def exit_code(self) -> int:
        """When all is over, within seconds."""
        self.process.join(10)
        assert until(lambda: not any(map(runs, self.pids))), "a process goes on"
        return self.process.exitcode


@pytest.mark.parametrize(
    "number, code",
    [
        (signal.SIGTERM, 143),
        (signal.SIGINT, 130),
        (signal.SIGHUP, 129),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_they_end_with_their_parent(
    number: signal.Signals, code: int, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    run = Program(tmp_path)
    os.kill(run.process.pid, number)
    assert run.exit_code() == code
    expected = "" if number == signal.SIGKILL else f"program: ended by {number.name}\n"
    assert capfd.readouterr().err == expected


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ctrl_c_is_for_the_parent_and_a_killed_one_takes_the_other_along(
    number: signal.Signals, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    run = Program(tmp_path)
    os.kill(run.pids[0], signal.SIGINT)  # as a terminal sends it to all
    os.kill(run.pids[1], number)
    assert run.exit_code() == 128 + number
    assert f"program: process 1 was ended by {number.name}" in capfd.readouterr().err


def lose_the_other(rank: int) -> None:
    """Rank 1 fails; rank 0 fails for that, a little later."""
    if rank == 1:
        raise ValueError("image 'x.png' is broken")
    time.sleep(0.3)
    raise RuntimeError("Connection closed by peer")


def defect(rank: int) -> None:
    if rank == 1:
        raise ZeroDivisionError("of the programmer")
    time.sleep(60)


def leave(rank: int) -> None:
    sys.exit(3 * rank)


@pytest.mark.parametrize(
    "behave, words",
    [
        (lose_the_other, ["program: error: image 'x.png' is broken\n"]),
        (leave, ["program: error: process 1 ended with exit code 3\n"]),
        (defect, ["Traceback", "of the programmer", "in defect"]),
    ],
)
def test_the_first_error_is_told(
    behave: Any, words: List[str], tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    run = Program(tmp_path, behave)
    run.go()
    assert run.exit_code() == 1
    err = capfd.readouterr().err
    assert all(word in err for word in words), err
    assert "Traceback" in words or err == words[0]


def test_all_end_well(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    run = Program(tmp_path)
    run.go()
    assert run.exit_code() == 0
    assert capfd.readouterr().err == ""


def test_what_is_told_of_several() -> None:
    reports = [(2.0, True, "second"), (1.0, True, "first")]
    with pytest.raises(ProcessError, match="^first$"):
        ranks._raise_the_cause({0: 1, 1: 1}, reports)
    with pytest.raises(EndedBySignal) as ended:
        ranks._raise_the_cause({0: 1, 1: -9}, reports)
    assert ended.value.number == 9 and "process 1 was ended by SIGKILL" in str(ended.value)
    # gloo aborts the processes that are left without another one.
    with pytest.raises(ProcessError, match="^first$"):
        ranks._raise_the_cause({0: -6, 1: 1}, reports)
    with pytest.raises(ProcessError, match="process 0 ended with exit code -6"):
        ranks._raise_the_cause({0: -6}, [])
    ranks._raise_the_cause({0: 0, 1: 0}, [])


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks.torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="--num-gpus is 2, this machine has 1"):
        ranks.launch(print, 2)


def test_one_process_needs_no_other(capsys: pytest.CaptureFixture) -> None:
    ranks.launch(print, 1, args=("here",))
    assert capsys.readouterr().out == "here\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_processes": -1}, "--num-gpus is -1"),
        ({"num_machines": 0}, "--num-machines is 0, expected 1 or more"),
        ({"machine_rank": 1}, "--machine-rank is 1, expected 0 to 0 with --num-machines 1"),
        ({"num_machines": 2, "machine_rank": -1}, "--machine-rank is -1, expected 0 to 1"),
        ({"num_machines": 2}, "--dist-url is 'auto': 2 machines need one tcp://HOST:PORT"),
        ({"num_machines": 2, "dist_url": "host:29500"}, "--dist-url is 'host:29500'"),
    ],
)
def test_machines_that_would_wait_for_ever(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ranks.launch(lambda: None, **{"num_processes": 1, **arguments})
