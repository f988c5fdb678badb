"""Jobs that stand on one another: order, failures, and workers that die."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch

from seg_every_thing.study.running.scheduler import Job, run_jobs

pytestmark = pytest.mark.usefixtures("forked_workers")


def nothing() -> None:
    """Initialiser of the worker processes."""


def note(folder: Path, name: str, seconds: float = 0.0) -> Dict[str, Any]:
    started = time.time()
    time.sleep(seconds)
    return {"name": name, "started": started, "ended": time.time(), "process": os.getpid()}


def fail(message: str) -> Dict[str, Any]:
    raise ValueError(message)


def die() -> Dict[str, Any]:
    os._exit(9)


def wait_for_ever(folder: Path) -> Dict[str, Any]:
    (folder / "part").write_text(str(os.getpid()))
    (folder / "part").rename(folder / "pid")
    time.sleep(600)
    return {}


def job(folder: Path, name: str, *needs: str, seconds: float = 0.0) -> Job:
    return Job(name, note, (folder, name, seconds), folder / name, needs=needs)


def test_jobs_wait_for_what_they_need_and_others_do_not(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "base", seconds=0.3),
        job(tmp_path, "on top", "base"),
        job(tmp_path, "alone", seconds=0.3),
        job(tmp_path, "needs what is done already", "not among these jobs"),
    ]
    records = run_jobs(jobs, 2, nothing)
    assert set(records) == {j.name for j in jobs}
    assert records["on top"]["started"] >= records["base"]["ended"]
    assert records["alone"]["started"] < records["base"]["ended"]  # two at a time
    assert len({r["process"] for r in records.values()}) == 2
    assert (tmp_path / "on top" / "log.txt").is_file()


def threads(seconds: float) -> Dict[str, Any]:
    return {**note(Path(), "", seconds), "threads": torch.get_num_threads()}


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_job_has_its_threads_whatever_the_workers(workers: int, tmp_path: Path) -> None:
    jobs = [
        Job("two", threads, (0.2,), tmp_path / "two", threads=2),
        Job("one", threads, (0.0,), tmp_path / "one"),
    ]
    records = run_jobs(jobs, workers, nothing)
    assert {name: record["threads"] for name, record in records.items()} == {"two": 2, "one": 1}
    beside = records["one"]["started"] < records["two"]["ended"]
    assert beside == (workers == 3)


def test_a_failure_is_kept_and_ends_only_what_stands_on_it(tmp_path: Path) -> None:
    jobs = [
        Job("bad", fail, ("the disk is full",), tmp_path / "bad"),
        job(tmp_path, "child", "bad"),
        job(tmp_path, "grandchild", "child"),
        job(tmp_path, "other"),
    ]
    records = run_jobs(jobs, 2, nothing)
    assert "ValueError: the disk is full" in records["bad"]["error"]
    assert "Traceback" in (tmp_path / "bad" / "log.txt").read_text()
    assert records["child"] == {"error": "needs 'bad', which failed"}
    assert records["grandchild"] == {"error": "needs 'child', which failed"}
    assert records["other"]["name"] == "other"


def test_a_worker_that_dies_takes_no_waiting_job_along(tmp_path: Path) -> None:
    jobs = [Job("dies", die, (), tmp_path / "dies"), job(tmp_path, "after")]
    records = run_jobs(jobs, 1, nothing)
    assert "its process died" in records["dies"]["error"]
    assert records["after"]["name"] == "after"


def test_ctrl_c_ends_the_workers_at_once(tmp_path: Path) -> None:
    """A terminal sends it to all processes; the workers leave the answer to this one."""
    pids: List[int] = []

    def interrupt() -> None:
        while not (tmp_path / "pid").exists():
            time.sleep(0.05)
        pids.append(int((tmp_path / "pid").read_text()))
        os.kill(pids[0], signal.SIGINT)
        time.sleep(0.2)
        os.kill(pids[0], 0)  # it goes on
        pids.append(pids[0])
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_jobs([Job("long", wait_for_ever, (tmp_path,), tmp_path)], 1, nothing)
    assert len(pids) == 2
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
