"""Time and memory of the mask branch against the number of classes, beside detectron2's."""

import logging
from functools import partial
from typing import Any, Dict, List, Optional, Sequence

import torch

from .mask_branch_step import MaskBranch, MaskBranchStep
from .measuring import available_bytes, processor_name, versions
from .turns import Row, measure_in_turns

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

    Every row has a process of its own, and all of them take turns, a step each.  Each branch's
    first two steps are not timed: they measure memory and warm up.

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
        "versions": versions(),
        "device": device,
        "processor": processor,
        "threads": torch.get_num_threads(),
    }


def _measure(branches: List[MaskBranch], repeats: int, device: str) -> List[Row]:
    rows: List[Row] = [{"name": b.model, "num_classes": b.num_classes} for b in branches]
    for branch, row in zip(branches, rows):
        reason = _too_large(branch, device)
        if reason:
            row["skipped"] = reason
            logger.warning(f"{branch.model}, {branch.num_classes} classes: skipped, {reason}")
    measure_in_turns(rows, [partial(MaskBranchStep, b, device) for b in branches], repeats)
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
