"""Boxes and the larger RoIs about them: where one lies in the other, and masks of either."""

from typing import Any, Sequence, Tuple

import torch
from detectron2.structures import Boxes, ROIMasks

NUM_COORDINATES = 5


def enlarged(boxes: torch.Tensor, scale: float) -> torch.Tensor:
    """Boxes (R, 4) about the same centres, with ``scale`` times the sides."""
    if scale == 1.0:
        return boxes
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * scale
    return torch.cat([centre - half, centre + half], dim=1)


def box_coordinates(boxes: torch.Tensor, scale: float, side: int) -> torch.Tensor:
    """Where the box lies in its RoI, and how large it is.

    Args:
        boxes: (R, 4) in pixels.
        scale: side of a RoI / side of its box.
        side: cells of a RoI in each direction.

    Returns:
        (R, 5, side, side): x and y of the cells, which are -1 and 1 at the sides of the box;
        whether a cell lies in the box; log2 of the box's width and of its height, 0 for 224 pixels.
    """
    along = 2 * (torch.arange(side, device=boxes.device, dtype=boxes.dtype) + 0.5) / side - 1
    y, x = torch.meshgrid(along * scale, along * scale, indexing="ij")
    inside = (torch.maximum(x.abs(), y.abs()) <= 1).to(x)
    position = torch.stack([x, y, inside]).expand(
        boxes.shape[0], 3, side, side
    )  # len() is no tensor in a trace
    size = ((boxes[:, 2:] - boxes[:, :2]).clamp(min=1) / 224).log2()
    return torch.cat([position, size[:, :, None, None].expand(-1, -1, side, side)], dim=1)


def cropped_to_box(masks: torch.Tensor, scale: float) -> torch.Tensor:
    """Masks of RoIs -> what of them lies in the box, by bilinear interpolation.

    The result has twice the side: detectron2 fades a mask out over the outer half of its outermost
    cells when it pastes it, and interpolates once more; both weigh less the finer the cells are.

    Args:
        masks: (R, 1, M, M) on RoIs of ``scale`` times the side of their boxes.
        scale: at least 1.

    Returns:
        (R, 1, 2M, 2M), on the boxes.
    """
    side = masks.shape[-1]
    cells = torch.arange(side, dtype=masks.dtype, device=masks.device)
    fine = (torch.arange(2 * side, dtype=masks.dtype, device=masks.device) + 0.5) / (2 * side)
    position = ((fine - 0.5) / scale + 0.5) * side - 0.5  # in cells of the RoI
    weights = (1 - (position[:, None] - cells).abs()).clamp(min=0)
    weights = weights / weights.sum(dim=1, keepdim=True)  # at the border, the outermost cell alone
    return (weights @ masks @ weights.T).clamp(0, 1)


class EnlargedROIMasks(ROIMasks):
    """Masks of RoIs larger than the boxes that they are pasted by; they may leave their boxes."""

    def __init__(self, tensor: torch.Tensor, scale: float) -> None:
        """
        Args:
            tensor: (N, M, M) probabilities.
            scale: side of a RoI / side of its box.
        """
        super().__init__(tensor)
        self.scale = scale

    def to(self, *args: Any, **kwargs: Any) -> "EnlargedROIMasks":
        """As for a tensor."""
        return EnlargedROIMasks(self.tensor.to(*args, **kwargs), self.scale)

    def __getitem__(self, item: Any) -> "EnlargedROIMasks":
        return EnlargedROIMasks(super().__getitem__(item).tensor, self.scale)

    def to_bitmasks(self, boxes: Boxes, height: int, width: int, threshold: float = 0.5) -> Any:
        """As in the parent; ``boxes`` are those of the objects."""
        rois = Boxes(enlarged(boxes.tensor, self.scale))
        return super().to_bitmasks(rois, height, width, threshold)


def box_coverage(
    rois: torch.Tensor, boxes: torch.Tensor, size: Sequence[int]
) -> Tuple[torch.Tensor, torch.Tensor]:
    """How much of each row and of each column of a RoI's cells lies within a box.

    Args:
        rois: (R, 4) x0, y0, x1, y1 in pixels, each divided into height x width equal cells.
        boxes: (R, 4), the box of each RoI, in the same coordinates.
        size: height and width.

    Returns:
        Shares from 0 to 1 of the rows, (R, height), and the columns, (R, width).
    """
    rows = _interval_coverage(rois[:, 1::2], boxes[:, 1::2], size[0])
    columns = _interval_coverage(rois[:, 0::2], boxes[:, 0::2], size[1])
    return rows, columns


def cells_inside(rois: torch.Tensor, height: int, width: int, size: Sequence[int]) -> torch.Tensor:
    """Which cells of RoIs lie in an image as a whole.

    Args:
        rois: (R, 4), divided as in :func:`box_coverage`.
        height: of the image, in pixels.
        width: of the image, in pixels.
        size: height and width of a RoI, in cells.

    Returns:
        (R, *size) bool.
    """
    image = torch.zeros_like(rois)
    image[:, 2].fill_(width)
    image[:, 3].fill_(height)
    rows, columns = box_coverage(rois, image, size)
    return (rows > 0.999)[:, :, None] & (columns > 0.999)[:, None]


def _interval_coverage(rois: torch.Tensor, boxes: torch.Tensor, count: int) -> torch.Tensor:
    """(R, 2) and (R, 2) starts and ends on one axis -> (R, count)."""
    ends = torch.linspace(0, 1, count + 1, dtype=rois.dtype, device=rois.device)
    ends = rois[:, :1] + (rois[:, 1:] - rois[:, :1]) * ends
    left, right = ends[:, :-1], ends[:, 1:]
    covered = torch.minimum(right, boxes[:, 1:]) - torch.maximum(left, boxes[:, :1])
    return covered.clamp(min=0) / (right - left).clamp(min=1e-6)
