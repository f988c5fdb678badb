"""Masks that lie on boxes as grids of cells: seen through other boxes, and after augmentation."""

from typing import Any, Sequence

import numpy as np
import torch


def resampled(
    masks: torch.Tensor, boxes: torch.Tensor, rois: torch.Tensor, size: Sequence[int]
) -> torch.Tensor:
    """The mean of a mask over each cell of a RoI; beyond its box a mask is 0.

    Args:
        masks: (R, H, W), each divides its box into H x W equal cells.
        boxes: (R, 4) x0, y0, x1, y1.
        rois: (R, 4) in the same coordinates.
        size: height and width of the result, in cells of the RoIs.

    Returns:
        (R, height, width)
    """
    boxes, rois = boxes.to(masks), rois.to(masks)
    rows = _overlap(rois[:, 1::2], boxes[:, 1::2], size[0], masks.shape[1])
    columns = _overlap(rois[:, 0::2], boxes[:, 0::2], size[1], masks.shape[2])
    return rows @ masks @ columns.transpose(1, 2)


def _overlap(
    rois: torch.Tensor, boxes: torch.Tensor, num_cells: int, num_box_cells: int
) -> torch.Tensor:
    """(R, 2) and (R, 2) starts and ends on an axis -> shares (R, cells, box cells) of cells."""
    ends, box_ends = _ends(rois, num_cells), _ends(boxes, num_box_cells)
    left = torch.maximum(ends[:, :-1, None], box_ends[:, None, :-1])
    right = torch.minimum(ends[:, 1:, None], box_ends[:, None, 1:])
    cell = (rois[:, 1:] - rois[:, :1]) / num_cells
    return (right - left).clamp(min=0) / cell.clamp(min=1e-6)[:, :, None]


def _ends(intervals: torch.Tensor, count: int) -> torch.Tensor:
    """(R, 2) -> (R, count + 1), where the equal parts of each interval end."""
    share = torch.linspace(0, 1, count + 1, dtype=intervals.dtype, device=intervals.device)
    return intervals[:, :1] + (intervals[:, 1:] - intervals[:, :1]) * share


def moved_with_box(
    mask: np.ndarray, box: np.ndarray, transforms: Any, moved_box: np.ndarray
) -> np.ndarray:
    """A mask on a box -> the mask on that box after augmentation.

    Args:
        mask: (M, M) uint8.
        box: (4,) in pixels of the image before.
        transforms: with ``apply_coords``.
        moved_box: (4,) after augmentation and clipping to the new image.

    Returns:
        (M, M) uint8

    Raises:
        ValueError: when the augmentation did more than to flip, resize, crop or pad.
    """
    x, y = np.meshgrid(np.linspace(box[0], box[2], 3), np.linspace(box[1], box[3], 3))
    points = transforms.apply_coords(np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(3, 3, 2)
    (x0, y0), (x1, y1) = points[0, 0], points[2, 2]
    x, y = np.meshgrid(np.linspace(x0, x1, 3), np.linspace(y0, y1, 3))
    if not np.allclose(points, np.stack([x, y], axis=-1), atol=0.05):
        raise ValueError(
            f"pseudo-masks bear augmentation that flips, resizes, crops or pads, and the box "
            f"{np.round(box, 1).tolist()} was turned or bent: train without that augmentation"
        )
    mask = mask[:: -1 if y1 < y0 else 1, :: -1 if x1 < x0 else 1]
    whole = np.array([min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)])
    if np.abs(whole - moved_box).max() < 1:  # detectron2 moves boxes of integers to whole pixels
        return np.ascontiguousarray(mask)
    grid, a, b = (torch.from_numpy(np.array(x, float))[None] for x in (mask, whole, moved_box))
    cut = resampled(grid, a, b, mask.shape)[0]
    return cut.round().clamp(0, 255).numpy().astype(np.uint8)
