"""Time and memory of the mask branch against the number of classes, beside detectron2's."""

import logging
import platform
import statistics
import time
from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Tuple

import detectron2
import torch

from .. import __version__
from .mask_branch_step import MaskBranch, MaskBranchStep
from .measuring import (
    FreshProcess,
    OutOfMemoryError,
    available_bytes,
    processor_name,
)

logger = logging.getLogger(__name__)

NUM_CLASSES = (80, 1203, 3001, 20000)
"""COCO, LVIS, Visual Genome, and what the paper's title promises."""


def benchmark_mask_branch(
    num_classes: Sequence[int] = NUM_CLASSES,
    *,
    rois: int = 128,
    repeats: int = 5,
    device: str = "cpu",
    channels: int = 256,
    side: int = 14,
    box_features: int = 1024,
) -> Dict[str, Any]:
    """Measure our mask branch and detectron2's for each number of classes.

    Every row has a process of its own.  All of them take turns, a step each, and every other round
    goes the other way round, so that a busy machine slows all rows alike.  Each branch's first two
    steps are not timed: they measure memory and warm up.

    Args:
        num_classes: numbers of classes K; our branch with box losses, and with the MLP,
            is measured at the least only.
        rois: RoIs of the batch.
        repeats: timed steps of each row.
        device: a PyTorch device.
        channels, side, box_features: see :class:`MaskBranch`.

    Returns:
        ``{"rows", "versions", "device", "processor", "threads"}``.  A row has

        - ``name`` and ``num_classes``;
        - ``seconds`` (median of a step), ``seconds_min``, ``seconds_max``, ``repeats``;
        - ``cpu_seconds``: median processor time of all threads, which other programs on a busy
          machine disturb less;
        - ``peak_bytes``: see :meth:`MaskBranchStep.peak_bytes`;
        - ``resident_bytes``: growth of the process, a cross-check; None except on Linux and CPU;
        - ``parameters``, and ``detector_bytes`` of the box predictor, no part of the branch;
        - ``rois`` and ``distinct_classes`` of the batch;

        or ``name``, ``num_classes`` and ``skipped``: why nothing was measured.

    Raises:
        ValueError: for a number that is not positive, or a device that is not there.
    """
    counts = sorted(set(num_classes))
    if not counts:
        raise ValueError("the benchmark needs at least one number of classes")
    for what, value in (("classes", counts[0]), ("RoIs", rois), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"the number of {what} must be at least 1, got {value}")
    processor = processor_name(device)
    # Rows to be compared take their turns shortly after each other.
    kinds = [("ours", k) for k in counts] + [("stock", k) for k in counts]
    kinds += [("ours+boxes", counts[0]), ("ours+mlp", counts[0])]
    branches = [MaskBranch(*kind, rois, channels, side, box_features) for kind in kinds]
    return {
        "rows": _measure(branches, repeats, device),
        "versions": {
            "torch": torch.__version__,
            "detectron2": detectron2.__version__,
            "python": platform.python_version(),
            "seg_every_thing": __version__,
        },
        "device": device,
        "processor": processor,
        "threads": torch.get_num_threads(),
    }


def _measure(branches: List[MaskBranch], repeats: int, device: str) -> List[Dict[str, Any]]:
    rows: List[Dict[str, Any]] = [{"name": b.model, "num_classes": b.num_classes} for b in branches]
    times: List[List[Tuple[float, float]]] = [[] for _ in branches]
    workers: Dict[int, FreshProcess] = {}

    def skip(i: int, reason: str) -> None:
        name, num_classes = branches[i].model, branches[i].num_classes
        rows[i] = {"name": name, "num_classes": num_classes, "skipped": reason}
        logger.warning(f"{name}, {num_classes} classes: skipped, {reason}")

    def ask(i: int, method: str) -> Any:
        try:
            return workers[i].ask(method)
        except OutOfMemoryError as e:
            workers.pop(i).close()
            skip(i, str(e))
            return None

    try:
        for i, branch in enumerate(branches):
            reason = _too_large(branch, device)
            if reason:
                skip(i, reason)
                continue
            logger.info(f"{branch.model}, {branch.num_classes} classes: measuring memory")
            workers[i] = FreshProcess(partial(MaskBranchStep, branch, device))
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
    for i, row in enumerate(rows):
        if i in workers:
            seconds, cpu_seconds = zip(*times[i])
            row.update(
                seconds=statistics.median(seconds),
                seconds_min=min(seconds),
                seconds_max=max(seconds),
                cpu_seconds=statistics.median(cpu_seconds),
                repeats=repeats,
            )
    return rows


def _too_large(branch: MaskBranch, device: str) -> Optional[str]:
    free = available_bytes(device)
    if free is None or branch.expected_bytes < 0.9 * free:
        return None
    need = branch.expected_bytes / 2**30
    return f"needs about {need:.1f} GiB of memory, {free / 2**30:.1f} GiB are free"


def benchmark_table(result: Dict[str, Any]) -> str:
    """The rows of a result as a Markdown table; ratios are to our row with the fewest classes."""
    first = next((r for r in result["rows"] if r["name"] == "ours" and "skipped" not in r), None)
    lines = [
        "| branch | classes | seconds (min, max) | ratio | CPU s | peak MiB | ratio | parameters |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        start = f"| {row['name']} | {row['num_classes']} |"
        if "skipped" in row or first is None:
            lines.append(f"{start} {row.get('skipped', '')} | | | | | |")
            continue
        spread = f"{row['seconds_min']:.3f}, {row['seconds_max']:.3f}"
        seconds, size = row["seconds"], row["peak_bytes"]
        lines.append(
            f"{start} {seconds:.3f} ({spread}) | {seconds / first['seconds']:.2f} "
            f"| {row['cpu_seconds']:.3f} | {size / 2**20:.0f} | {size / first['peak_bytes']:.2f} "
            f"| {row['parameters']:,} |"
        )
    return "\n".join(lines) + "\n"
