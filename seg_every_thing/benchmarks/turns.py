"""Things measured beside each other: all take turns, so that a busy machine slows them alike."""

import logging
import math
import statistics
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from .measuring import FreshProcess, OutOfMemoryError

logger = logging.getLogger(__name__)

Row = Dict[str, Any]


def measure_in_turns(
    rows: List[Row],
    builds: Sequence[Callable[[], Any]],
    repeats: int,
    compared_with: Optional[Sequence[int]] = None,
) -> None:
    """Fill rows with what ``sizes`` and ``seconds`` of objects say, each in a process of its own.

    Every other round goes the other way round.  Rows that are ``skipped`` already are left out; one
    whose process dies, or runs out of memory, becomes one.

    Args:
        rows: get what ``sizes()`` returns, a dict, and ``seconds`` (median), ``seconds_min``,
            ``seconds_max``, ``seconds_p95`` (95th percentile), ``cpu_seconds`` (median processor
            time of all threads, which other programs on a busy machine disturb less) and
            ``repeats``.
        builds: make the objects; picklable.  ``seconds()`` gives wall and processor time of a turn.
        repeats: timed turns of each.
        compared_with: for each row the index of the one that it is compared with: rows also get
            ``ratio`` and ``cpu_ratio``, the medians over the rounds of its time / the other's.
    """
    names = [", ".join(str(v) for v in row.values()) for row in rows]
    times: List[List[Tuple[float, float]]] = [[] for _ in rows]
    workers: Dict[int, FreshProcess] = {}

    def ask(i: int, method: str) -> Any:
        try:
            return workers[i].ask(method)
        except OutOfMemoryError as e:
            workers.pop(i).close()
            for key in set(rows[i]) - {"name", "num_classes"}:
                del rows[i][key]
            rows[i]["skipped"] = str(e)
            logger.warning(f"{names[i]}: skipped, {e}")
            return None

    try:
        for i, build in enumerate(builds):
            if "skipped" in rows[i]:
                continue
            logger.info(f"{names[i]}: measuring memory")
            workers[i] = FreshProcess(build)
            rows[i].update(ask(i, "sizes") or {})
        start = time.perf_counter()
        for round_index in range(repeats):
            for i in sorted(workers, reverse=bool(round_index % 2)):
                times[i].append(ask(i, "seconds"))
            passed = time.perf_counter() - start
            left = passed / (round_index + 1) * (repeats - round_index - 1)
            logger.info(f"round {round_index + 1} of {repeats}: {left / 60:.1f} minutes left")
    finally:
        for worker in workers.values():
            worker.close()
    for i in workers:
        rows[i].update(_summary(times[i]))
        other = i if compared_with is None else compared_with[i]
        if compared_with is not None and other in workers:
            rows[i].update(_ratios(times[i], times[other]))


def _summary(times: List[Tuple[float, float]]) -> Row:
    seconds, cpu_seconds = zip(*times)
    return {
        "seconds": statistics.median(seconds),
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "seconds_p95": sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1],
        "cpu_seconds": statistics.median(cpu_seconds),
        "repeats": len(times),
    }


def _ratios(times: List[Tuple[float, float]], others: List[Tuple[float, float]]) -> Row:
    pairs = list(zip(times, others))
    return {
        "ratio": statistics.median(mine[0] / other[0] for mine, other in pairs),
        "cpu_ratio": statistics.median(mine[1] / other[1] for mine, other in pairs),
    }
