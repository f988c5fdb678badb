"""Honest measurements: a fresh process for each thing measured, and memory that is counted."""

import json
import multiprocessing
import os
import platform
import tempfile
import traceback
from contextlib import suppress
from itertools import accumulate
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import detectron2
import torch
from torch.profiler import ProfilerActivity, profile

from .. import __version__


class OutOfMemoryError(Exception):
    """A fresh process had too little memory, or was killed."""


class FreshProcess:
    """A new process that builds an object and calls its methods when told to.

    What one measurement leaves behind (freed but kept memory, warm caches) cannot touch the next.
    When memory runs out, the system ends this process before any other.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        """
        Args:
            build: makes the object; must be picklable.  It runs with this process's number of
                PyTorch threads, from random seed 0.
        """
        method = "spawn"
        if "forkserver" in multiprocessing.get_all_start_methods():
            method = "forkserver"  # imports PyTorch once for all
            multiprocessing.set_forkserver_preload(["detectron2.modeling", __name__])
        context: Any = multiprocessing.get_context(method)
        self._pipe, other_end = context.Pipe()
        arguments = (other_end, build, torch.get_num_threads())
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        other_end.close()

    def ask(self, method: str) -> Any:
        """Call a method of the object and return its result.

        Raises:
            OutOfMemoryError: when there is too little memory, or the process was killed.
            RuntimeError: for any other failure, with its traceback.
        """
        try:
            self._pipe.send(method)
            answer, error, is_memory = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            raise OutOfMemoryError(f"its process was killed (exit code {code})") from None
        if error is None:
            return answer
        raise OutOfMemoryError("out of memory") if is_memory else RuntimeError(error)

    def close(self) -> None:
        """End the process and free what it holds."""
        self._pipe.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()


def _serve(pipe: Connection, build: Callable[[], Any], threads: int) -> None:
    os.environ["KINETO_LOG_LEVEL"] = "5"  # PyTorch's profiler is chatty
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    built: Any = None
    while True:
        try:
            method = pipe.recv()
        except EOFError:  # closed by the parent
            return
        try:
            built = build() if built is None else built
            pipe.send((getattr(built, method)(), None, False))
        except Exception as e:
            # On a CPU, an allocation that fails is a plain RuntimeError.
            is_memory = isinstance(e, (MemoryError, torch.cuda.OutOfMemoryError)) or (
                isinstance(e, RuntimeError) and "allocate memory" in str(e)
            )
            pipe.send((None, traceback.format_exc(), is_memory))


def peak_allocated(run: Callable[[], Any], device: torch.device) -> int:
    """Most bytes that a call has allocated at once, beyond what there was before it.

    Counted by PyTorch's allocator (on a CPU: read off its profiler), so that unlike the process's
    resident memory it is the same number each time.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    # What earlier profiles saw allocated, and nobody saw freed, is still in the total.
    return max(accumulate((e["args"]["Bytes"] for e in changes), initial=0))


def peak_resident(run: Callable[[], Any]) -> Optional[int]:
    """Peak growth in bytes of the process's resident memory during a call.

    Includes what the allocator does not count, such as the lazy set-up of libraries.  Only true
    for a process's first large call: later ones live in memory that was freed but kept.

    Returns:
        None, without a call, where the system does not tell (other than Linux).
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far := what is used now
        before = _proc_bytes("/proc/self/status", "VmRSS")
    except (OSError, StopIteration):
        return None
    run()
    return _proc_bytes("/proc/self/status", "VmHWM") - before


def largest_size() -> Optional[int]:
    """Largest resident memory of this process so far, in bytes; None except on Linux."""
    try:
        return _proc_bytes("/proc/self/status", "VmHWM")
    except (OSError, StopIteration):
        return None


def available_bytes(device: str) -> Optional[int]:
    """Free memory of a device; None where the system does not tell."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return _proc_bytes("/proc/meminfo", "MemAvailable")
    except (OSError, StopIteration):
        return None


def processor_name(device: str) -> str:
    """Name of a device's hardware.

    Raises:
        ValueError: when PyTorch cannot use the device.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise ValueError(f"cannot use the device '{device}': {str(e).splitlines()[0]}") from e
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        return _proc_line("/proc/cpuinfo", "model name").strip()
    except (OSError, StopIteration):
        return platform.processor()


def _proc_line(path: str, key: str) -> str:
    lines = Path(path).read_text().splitlines()
    return next(line.partition(":")[2] for line in lines if line.startswith(key))


def _proc_bytes(path: str, key: str) -> int:
    return 1024 * int(_proc_line(path, key).split()[0])  # "VmRSS:   123 kB"


def versions() -> Dict[str, str]:
    """Of what the numbers of a benchmark depend on."""
    return {
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
        "python": platform.python_version(),
        "seg_every_thing": __version__,
    }
