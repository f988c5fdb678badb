"""detectron2's launch for processes that end together, and say once why."""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection, wait
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple
from unittest import mock

import torch
from detectron2.engine import launch as detectron2_launch

from ..errors import ProcessError, is_expected, one_line
from ..processes import EndedBySignal, end_with_parent, readers_may_end, starting_processes

_SECONDS_TO_FOLLOW = 2.0  # for processes that fail because another one has
_POLL_SECONDS = 0.2
_LONGEST_REPORT = 20_000  # characters that a pipe takes without a reader

Report = Tuple[float, bool, str]
"""Of a process that failed: when, whether with an expected error, and its line or traceback."""


def launch(
    main: Callable[..., Any],
    num_processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
    args: Tuple[Any, ...] = (),
) -> None:
    """As detectron2's ``launch``; a process that ends badly, or the parent, takes all others along.

    Args:
        main: called as ``main(*args)`` in each process, or here if there is but one.
        num_processes: on this machine: one a GPU.
        num_machines: in all.
        machine_rank: of this machine.
        dist_url: where the processes of several machines meet; on one machine they find a port.
        args: picklable.

    Raises:
        ProcessError: when a process met an expected error; of several errors the first.
        RuntimeError: with its traceback, when a process met any other.
        EndedBySignal: when a process was killed.
        ValueError: for more processes than GPUs, or machines that could wait for ever.
    """
    gpus = torch.cuda.device_count()
    if num_processes < 0 or gpus and num_processes > gpus:
        raise ValueError(f"--num-gpus is {num_processes}, this machine has {gpus}")
    if num_machines < 1:
        raise ValueError(f"--num-machines is {num_machines}, expected 1 or more")
    if not 0 <= machine_rank < num_machines:
        raise ValueError(
            f"--machine-rank is {machine_rank}, expected 0 to {num_machines - 1} with "
            f"--num-machines {num_machines}"
        )
    if num_machines > 1 and not dist_url.startswith(("tcp://", "file://", "env://")):
        raise ValueError(
            f"--dist-url is '{dist_url}': {num_machines} machines need one tcp://HOST:PORT"
        )
    with mock.patch.object(torch.multiprocessing, "start_processes", _run_processes):
        detectron2_launch(
            main,
            num_processes,
            num_machines=num_machines,
            machine_rank=machine_rank,
            dist_url="auto" if num_machines == 1 else dist_url,
            args=args,
        )


def _run_processes(
    function: Callable[..., Any], *, nprocs: int, args: Tuple[Any, ...], daemon: bool
) -> None:
    """Stands in for torch's ``start_processes``: run ``function(rank, *args)`` in each process."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(nprocs)]
    processes = [
        context.Process(
            target=_run_rank, args=(writer, os.getpid(), function, rank, args), daemon=daemon
        )
        for rank, (_, writer) in enumerate(pipes)
    ]
    try:
        with starting_processes():
            for process in processes:
                process.start()
        codes = _exit_codes(processes)
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
    _raise_the_cause(codes, [report for reader, _ in pipes for report in _reports(reader)])


def _exit_codes(processes: List[Any]) -> Dict[int, int]:
    """Rank -> exit code of the processes that have ended.

    All have, or one has failed and the others had time to fail for that reason.
    """
    codes: Dict[int, int] = {}
    deadline = math.inf
    while len(codes) < len(processes) and time.monotonic() < deadline:
        # Sentinels do not tell of a killed process as long as its data loading lives.
        wait([p.sentinel for rank, p in enumerate(processes) if rank not in codes], _POLL_SECONDS)
        ended = {rank: process.exitcode for rank, process in enumerate(processes)}
        codes = {rank: code for rank, code in ended.items() if code is not None}
        if any(codes.values()):
            deadline = min(deadline, time.monotonic() + _SECONDS_TO_FOLLOW)
    return codes


def _reports(reader: Connection) -> Iterator[Report]:
    """What a process has sent."""
    with contextlib.suppress(EOFError):
        if reader.poll():
            yield reader.recv()


def _raise_the_cause(codes: Dict[int, int], reports: Sequence[Report]) -> None:
    # Who is left without the others fails, too, sometimes with SIGABRT.
    for rank, code in codes.items():
        if code < 0 and code != -signal.SIGABRT:
            raise EndedBySignal(-code, f"process {rank} was ended by")
    if reports:
        _, expected, text = min(reports)
        raise ProcessError(text) if expected else RuntimeError(f"in a process:\n{text}")
    for rank, code in codes.items():
        if code != 0:
            raise ProcessError(f"process {rank} ended with exit code {code}")


def _run_rank(
    writer: Connection, parent: int, function: Callable[..., Any], rank: int, args: Any
) -> None:
    end_with_parent(parent)
    try:
        with readers_may_end():
            function(rank, *args)
    except Exception as e:
        expected = is_expected(e)
        text = one_line(e) if expected else traceback.format_exc()
        writer.send((time.time(), expected, text[-_LONGEST_REPORT:]))
        sys.exit(1)
