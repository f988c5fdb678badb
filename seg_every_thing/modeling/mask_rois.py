"""What the mask branch looks at: which objects it learns from, and how much around a box it sees.

With ``BOX_SCALE`` above 1 a mask RoI is larger than its box, so that "outside the box" exists: box
losses need it, and a mask may then end where the object ends rather than where its RoI does.
"""

from typing import Any, Dict, List, Union

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, Instances, ROIMasks

from .mask_threshold import Threshold, checked_threshold, fitted_thresholds, moved_to_half

NUM_COORDINATES = 5


def has_usable_mask(instances: Instances) -> torch.Tensor:
    """Which of N labelled instances have a mask to learn from, (N,) bool.

    ``gt_has_mask`` says so; without it (a stock mapper) all ``gt_masks`` count as usable.
    """
    if instances.has("gt_has_mask"):
        return instances.gt_has_mask
    return torch.full_like(instances.gt_classes, instances.has("gt_masks"), dtype=torch.bool)


def select_proposals_with_masks(proposals: List[Instances], num_classes: int) -> List[Instances]:
    """Keep the foreground proposals whose object has a usable mask.

    Args:
        proposals: sampled and labelled, one item an image.
        num_classes: K, which is also the label of background.

    Returns:
        As many items, some of them possibly empty.
    """
    return [
        x[(x.gt_classes >= 0) & (x.gt_classes < num_classes) & has_usable_mask(x)]
        for x in proposals
    ]


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
    position = torch.stack([x, y, inside]).expand(len(boxes), 3, side, side)
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


class MaskRoIs:
    """The geometry of mask RoIs, in training and at inference."""

    @configurable
    def __init__(
        self,
        *,
        scale: float = 1.0,
        clip: bool = True,
        coordinates: bool = False,
        threshold: Threshold = None,
    ) -> None:
        """
        Args:
            scale: side of a RoI / side of its box.
            clip: cut off at inference what lies outside the box.
            coordinates: give RoI features the channels of :func:`box_coordinates`.
            threshold: from which probability a pixel belongs to the mask, or "fit"; None = 0.5.

        Raises:
            ValueError: for a scale below 1, or an unknown threshold.
        """
        if not 1 <= scale < float("inf"):
            raise ValueError(f"MODEL.ROI_MASK_HEAD.BOX_SCALE must be at least 1, got {scale}")
        self.scale = float(scale)
        self.clip = clip
        self.coordinates = coordinates
        self.threshold = checked_threshold(threshold)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            "scale": head.BOX_SCALE,
            "clip": head.CLIP_TO_BOX,
            "coordinates": head.COORDINATES,
            "threshold": cfg.TEST.MASK_THRESHOLD,
        }

    def around(self, boxes: List[Boxes]) -> List[Boxes]:
        """The RoIs of boxes, one item an image."""
        return [Boxes(enlarged(x.tensor, self.scale)) for x in boxes]

    def with_coordinates(self, features: torch.Tensor, boxes: List[Boxes]) -> torch.Tensor:
        """RoI features (R, C, H, H), with 5 more channels where they are asked for."""
        if not self.coordinates:
            return features
        tensors = torch.cat([x.tensor for x in boxes]).to(features)
        added = box_coordinates(tensors, self.scale, features.shape[-1])
        return torch.cat([features, added], dim=1)

    def finish(self, instances: List[Instances]) -> List[Instances]:
        """Turn predicted masks of RoIs into masks of boxes that 0.5 is the threshold of.

        Args:
            instances: with ``pred_masks`` (N, 1, M, M), probabilities on RoIs; changed in place.

        Returns:
            ``instances``; ``pred_masks`` are (N, 1, M', M') on the boxes, or
            :class:`EnlargedROIMasks` where masks may leave their boxes.
        """
        if self.scale == 1 and self.threshold is None:
            return instances
        for x in instances:
            # Autocast would place the thresholds, and the cells, with three digits.
            with torch.autocast(x.pred_masks.device.type, enabled=False):
                x.pred_masks = self._finished(x.pred_masks)
        return instances

    def _finished(self, on_rois: torch.Tensor) -> Union[torch.Tensor, EnlargedROIMasks]:
        on_rois = on_rois.to(torch.promote_types(on_rois.dtype, torch.float32))
        on_boxes = cropped_to_box(on_rois, self.scale) if self.scale > 1 else on_rois
        masks = on_boxes if self.clip else on_rois
        if self.threshold is not None:
            fit = self.threshold == "fit"
            masks = moved_to_half(masks, fitted_thresholds(on_boxes) if fit else self.threshold)
        free = self.scale > 1 and not self.clip
        return EnlargedROIMasks(masks[:, 0], self.scale) if free else masks


def refuse_mask_keys(cfg: CfgNode) -> None:
    """Where the mask head is another one, make sure that no key asks for what it does not know.

    Raises:
        ValueError: naming the key.
    """
    head = cfg.MODEL.ROI_MASK_HEAD
    asked = {key: head.get(key, default) != default for key, default in _MASKX_KEYS.items()}
    asked["BOX_LOSS.ENABLED"] = head.get("BOX_LOSS", {}).get("ENABLED", False)
    for key in (key for key, is_set in asked.items() if is_set and cfg.MODEL.MASK_ON):
        raise ValueError(
            f"MODEL.ROI_MASK_HEAD.{key} needs MODEL.ROI_MASK_HEAD.NAME 'MaskXHead', got "
            f"'{head.NAME}'"
        )


_MASKX_KEYS = {
    "BOX_SCALE": 1.0,
    "COORDINATES": False,
    "TRAIN_ON": "proposals",
    "LOSS": "bce",
    "TRUNK": "convs",
}
