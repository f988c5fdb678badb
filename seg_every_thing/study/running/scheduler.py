"""Runs jobs that stand on one another, several at a time, each in a process of its own."""

import json
import logging
import multiprocessing
import os
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch

from ...files import escape_in, full_disk_named
from ...processes import (
    end_with_parent,
    keep_freed_memory,
    kill_children,
    starting_processes,
)

logger = logging.getLogger(__name__)

Record = Dict[str, Any]

_POLL_SECONDS = 15


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        name: unique.
        function: picklable; called with ``arguments``; returns the job's record.
        arguments: picklable.
        folder: for its ``log.txt``; its ``metrics.json`` (detectron2's) tells how far it is.
        needs: names of jobs that must be complete before.
        iterations: that it will write to ``metrics.json``; 0 = unknown.
        weight: what an iteration costs, relative to other jobs, for the ETA.
        threads: that it computes with, however many cores there are, as rounding depends on it.
    """

    name: str
    function: Callable[..., Record]
    arguments: Tuple[Any, ...]
    folder: Path
    needs: Tuple[str, ...] = ()
    iterations: int = 0
    weight: float = 1.0
    threads: int = 1


def run_jobs(
    jobs: Sequence[Job], workers: int, initializer: Callable[[], None]
) -> Dict[str, Record]:
    """Run jobs with the threads that each asks for, reporting progress until the last is done.

    Args:
        jobs: those that need another come after it; what they need and is not among them counts as
            complete.
        workers: how many threads run at a time; a job that asks for more runs alone.
        initializer: picklable; called once in each process.

    Returns:
        Records by job name; a job that failed, or that needs one that failed, has ``{"error"}``.
    """
    return _Run(jobs, workers, initializer).finish()


class _Run:
    def __init__(self, jobs: Sequence[Job], workers: int, initializer: Callable[[], None]) -> None:
        self.jobs = {job.name: job for job in jobs}
        self.waiting: List[Job] = list(jobs)
        self.running: Dict[Future, Job] = {}
        self.records: Dict[str, Record] = {}
        self.workers = max(1, workers)
        self.initializer = initializer
        self.start = time.perf_counter()

    def finish(self) -> Dict[str, Record]:
        pool = self._new_pool()
        reported = time.perf_counter()
        try:
            while self.waiting or self.running:
                self._submit(pool)
                if not self.running:
                    continue  # what was waiting has failed with what it needs
                done, _ = wait(self.running, _POLL_SECONDS, FIRST_COMPLETED)
                if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                    self._fail_running("its process died, perhaps for want of memory")
                    pool = self._new_pool()
                    continue
                for future in done:
                    job = self.running.pop(future)
                    self.records[job.name] = future.result()
                    self._log_end(job)
                if time.perf_counter() - reported >= _POLL_SECONDS:
                    reported = time.perf_counter()
                    self._log_progress()
        except BaseException:
            kill_children()  # which would go on for hours
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return self.records

    def _new_pool(self) -> ProcessPoolExecutor:
        with starting_processes():
            return ProcessPoolExecutor(
                min(self.workers, len(self.jobs)),
                multiprocessing.get_context("spawn"),
                initializer=_start_worker,
                initargs=(os.getpid(), self.initializer),
            )

    def _submit(self, pool: ProcessPoolExecutor) -> None:
        for job in list(self.waiting):
            failed = [n for n in job.needs if "error" in self.records.get(n, {})]
            if failed:
                self.waiting.remove(job)
                self.records[job.name] = {"error": f"needs '{failed[0]}', which failed"}
                continue
            ready = all(n in self.records or n not in self.jobs for n in job.needs)
            busy = sum(other.threads for other in self.running.values())
            if ready and (not busy or busy + job.threads <= self.workers):
                self.waiting.remove(job)
                with starting_processes():
                    self.running[pool.submit(_run_job, job)] = job

    def _fail_running(self, reason: str) -> None:
        for job in self.running.values():
            self.records[job.name] = {"error": reason}
            self._log_end(job)
        self.running.clear()

    def _log_end(self, job: Job) -> None:
        error = self.records[job.name].get("error")
        if error:
            logger.error("%s failed: %s", job.name, error)
        else:
            logger.info("%s is complete (%d of %d)", job.name, len(self.records), len(self.jobs))

    def _log_progress(self) -> None:
        total = sum(_cost(job) for job in self.jobs.values())
        done = sum(_cost(self.jobs[name]) for name in self.records)
        parts = []
        for job in self.running.values():
            at = min(_iterations_done(job.folder), job.iterations)
            done += _cost(job) * at / job.iterations if job.iterations else 0
            parts.append(f"{job.name} {at}/{job.iterations}" if job.iterations else job.name)
        elapsed = time.perf_counter() - self.start
        remaining = f"{elapsed / done * (total - done) / 60:.0f} min" if done else "unknown"
        logger.info(
            "%d of %d complete; now %s; ETA %s",
            *(len(self.records), len(self.jobs), ", ".join(parts), remaining),
        )


def _cost(job: Job) -> float:
    return max(job.iterations, 50) * job.weight


def _start_worker(parent: int, initializer: Callable[[], None]) -> None:
    keep_freed_memory()
    end_with_parent(parent)
    initializer()


def _run_job(job: Job) -> Record:
    """One job in its process; an error is its result, so that it does not end the others."""
    torch.set_num_threads(job.threads)
    job.folder.mkdir(parents=True, exist_ok=True)
    _log_to_file_only(job.folder)
    try:
        with full_disk_named(job.folder):
            return job.function(*job.arguments)
    except Exception as e:
        logger.error("failed:\n%s", traceback.format_exc())
        return {"error": f"{type(e).__name__}: {e} (see {job.folder / 'log.txt'})"}


def _log_to_file_only(folder: Path) -> None:
    """Jobs that run side by side write to their files; on the console they would interleave."""
    for name in ("detectron2", "fvcore", "seg_every_thing"):
        log = logging.getLogger(name)
        for old in log.handlers:
            old.close()
        handler = logging.FileHandler(folder / "log.txt")
        escape_in(handler.stream)
        handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s]: %(message)s"))
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO)


def _iterations_done(folder: Path) -> int:
    path = folder / "metrics.json"
    if not path.is_file():
        return 0
    lines = path.read_text().splitlines()
    try:
        return int(json.loads(lines[-1])["iteration"]) + 1 if lines else 0
    except (ValueError, KeyError):  # the line is being written
        return 0
