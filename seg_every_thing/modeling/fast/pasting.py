"""Masks brought into the image, each computed inside its box alone."""

from typing import Any, Dict, List, Optional, Union

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import BitMasks, Boxes, Instances, ROIMasks

from ..mask_geometry import EnlargedROIMasks, enlarged


def paste_masks(
    masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int, threshold: float = 0.5
) -> torch.Tensor:
    """As detectron2's ``paste_masks_in_image``, on a CPU, up to rounding at the threshold.

    Bilinear interpolation on a grid is a product of two small matrices with the mask.

    Args:
        masks: (N, M, M) probabilities on the boxes.
        boxes: (N, 4) in pixels of the image.
        height, width: of the image.
        threshold: from which probability a pixel belongs to the mask.

    Returns:
        (N, height, width) bool.
    """
    pasted = torch.zeros(len(masks), height, width, dtype=torch.bool)
    masks, side = masks.float(), masks.shape[-1]
    for mask, (x0, y0, x1, y1), into in zip(masks, boxes.tolist(), pasted):
        left, columns = _weights(x0, x1, side, width)
        top, rows = _weights(y0, y1, side, height)
        window = into[top : top + len(rows), left : left + len(columns)]
        window.copy_(rows @ mask @ columns.T >= threshold)
    return pasted


def _weights(start: float, end: float, cells: int, limit: int) -> Any:
    """The first pixel that the mask can reach, and how much of each cell each pixel gets."""
    first = min(max(int(start // 1) - 1, 0), limit)
    last = max(min(int(-(-end // 1)) + 1, limit), first)
    centres = torch.arange(first, last, dtype=torch.float32) + 0.5
    position = (centres - start) / max(end - start, 1e-6) * cells - 0.5
    distance = position[:, None] - torch.arange(cells, dtype=torch.float32)
    return first, (1 - distance.abs()).clamp(min=0)


class FastROIMasks(EnlargedROIMasks):
    """Masks that :func:`paste_masks` brings into the image."""

    @classmethod
    def of(cls, masks: Union[torch.Tensor, ROIMasks]) -> "FastROIMasks":
        """From masks (N, 1, M, M) on boxes, or :class:`EnlargedROIMasks`."""
        if isinstance(masks, ROIMasks):
            return cls(masks.tensor, getattr(masks, "scale", 1.0))
        return cls(masks[:, 0], 1.0)

    def __getitem__(self, item: Any) -> "FastROIMasks":
        return FastROIMasks(super().__getitem__(item).tensor, self.scale)

    def to_bitmasks(self, boxes: Boxes, height: int, width: int, threshold: float = 0.5) -> Any:
        """As in the parent."""
        if self.tensor.device.type != "cpu":
            return super().to_bitmasks(boxes, height, width, threshold)
        rois = enlarged(boxes.tensor, self.scale)
        return BitMasks(paste_masks(self.tensor, rois, height, width, threshold))


def inference_with_fast_pasting(
    inference: Any,
    batched_inputs: List[Dict[str, Any]],
    detected_instances: Optional[List[Instances]] = None,
    do_postprocess: bool = True,
) -> Any:
    """As ``GeneralizedRCNN.inference``, which is the first argument."""
    found = inference(batched_inputs, detected_instances, do_postprocess=False)
    if not do_postprocess:
        return found
    for x in found:
        if x.has("pred_masks"):
            x.pred_masks = FastROIMasks.of(x.pred_masks)
    return GeneralizedRCNN._postprocess(found, batched_inputs, [x.image_size for x in found])
