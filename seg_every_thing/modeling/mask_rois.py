"""What the mask branch looks at: which objects it learns from, and how much around a box it sees.

With ``BOX_SCALE`` above 1 a mask RoI is larger than its box, so that "outside the box" exists: box
losses need it, and a mask may then end where the object ends rather than where its RoI does.
"""

from typing import Any, Dict, List, Union

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, Instances

from .choosing import true_indices
from .mask_geometry import EnlargedROIMasks, box_coordinates, cropped_to_box, enlarged
from .mask_threshold import Threshold, checked_threshold, fitted_thresholds, moved_to_half

TRAIN_ON = ("proposals", "gt_boxes", "both")


def has_usable_mask(instances: Instances) -> torch.Tensor:
    """Which of N labelled instances have a mask to learn from, (N,) bool.

    ``gt_has_mask`` says so; without it (a stock mapper) all ``gt_masks`` count as usable.
    """
    if instances.has("gt_has_mask"):
        return instances.gt_has_mask
    return torch.full_like(instances.gt_classes, instances.has("gt_masks"), dtype=torch.bool)


def has_pseudo_mask(instances: Instances) -> torch.Tensor:
    """Which of N labelled instances have no mask but one of a teacher, (N,) bool."""
    if instances.has("gt_has_pseudo"):
        return instances.gt_has_pseudo & ~has_usable_mask(instances)
    return torch.zeros_like(instances.gt_classes, dtype=torch.bool)


def teaches_masks(instances: Instances) -> torch.Tensor:
    """Which of N labelled instances have a mask to learn from, be it a teacher's, (N,) bool."""
    return has_usable_mask(instances) | has_pseudo_mask(instances)


def select_proposals_with_masks(proposals: List[Instances], num_classes: int) -> List[Instances]:
    """Keep the foreground proposals whose object has a usable mask, or a teacher's.

    Args:
        proposals: sampled and labelled, one item an image.
        num_classes: K, which is also the label of background.

    Returns:
        As many items, some of them possibly empty.
    """
    keep = [
        (x.gt_classes >= 0) & (x.gt_classes < num_classes) & teaches_masks(x) for x in proposals
    ]
    return [x[index] for x, index in zip(proposals, true_indices(keep))]


def ground_truth_rois(targets: List[Instances], max_boxes: int, jitter: float) -> List[Instances]:
    """Ground-truth boxes as proposals, so that masks learn from boxes as good as they can be.

    Args:
        targets: one item an image, with ``gt_boxes``.
        max_boxes: an image with more of them gives so many, drawn at random.
        jitter: the centre moves by a normal deviate times this times the side, in each direction;
            the logarithm of each side changes by one times twice this.

    Returns:
        As many items, with ``proposal_boxes`` and the fields of the targets.
    """
    rois = []
    for x in targets:
        if len(x) > max_boxes:
            x = x[torch.randperm(len(x), device=x.gt_boxes.device)[:max_boxes]]
        boxes = x.gt_boxes.tensor
        if jitter > 0:
            side = boxes[:, 2:] - boxes[:, :2]
            centre = boxes[:, :2] + side / 2 + torch.randn_like(side) * jitter * side
            side = side * (torch.randn_like(side) * 2 * jitter).exp()
            boxes = torch.cat([centre - side / 2, centre + side / 2], dim=1)
        rois.append(Instances(x.image_size, **x.get_fields(), proposal_boxes=Boxes(boxes)))
    return rois


class MaskRoIs:
    """Which mask RoIs there are in training, and how they lie about their boxes at any time."""

    @configurable
    def __init__(
        self,
        *,
        scale: float = 1.0,
        clip: bool = True,
        coordinates: bool = False,
        threshold: Threshold = None,
        train_on: str = "proposals",
        max_gt_boxes: int = 100,
        jitter: float = 0.0,
    ) -> None:
        """
        Args:
            scale: side of a RoI / side of its box.
            clip: cut off at inference what lies outside the box.
            coordinates: give RoI features the channels of :func:`box_coordinates`.
            threshold: from which probability a pixel belongs to the mask, or "fit"; None = 0.5.
            train_on: "proposals", "gt_boxes" (ground-truth boxes) or "both".
            max_gt_boxes: an image; see :func:`ground_truth_rois`.
            jitter: of ground-truth boxes; see :func:`ground_truth_rois`.

        Raises:
            ValueError: for a value out of range.
        """
        if train_on not in TRAIN_ON:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.TRAIN_ON '{train_on}' is not one of {', '.join(TRAIN_ON)}"
            )
        if max_gt_boxes < 1:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.MAX_GT_BOXES must be at least 1, got {max_gt_boxes}"
            )
        if not 0 <= jitter < 1:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.BOX_JITTER must be at least 0 and below 1, got {jitter}"
            )
        if not 1 <= scale < float("inf"):
            raise ValueError(f"MODEL.ROI_MASK_HEAD.BOX_SCALE must be at least 1, got {scale}")
        self.scale = float(scale)
        self.clip = clip
        self.coordinates = coordinates
        self.threshold = checked_threshold(threshold)
        self.train_on = train_on
        self.max_gt_boxes = max_gt_boxes
        self.jitter = jitter

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            "scale": head.BOX_SCALE,
            "clip": head.CLIP_TO_BOX,
            "coordinates": head.COORDINATES,
            "threshold": cfg.TEST.MASK_THRESHOLD,
            "train_on": head.TRAIN_ON,
            "max_gt_boxes": head.MAX_GT_BOXES,
            "jitter": head.BOX_JITTER,
        }

    def with_ground_truth(
        self, proposals: List[Instances], targets: List[Instances]
    ) -> List[Instances]:
        """What the mask branch trains on where ``train_on`` is "gt_boxes" or "both".

        Args:
            proposals: sampled and labelled, one item an image; in it for "both".
            targets: the objects that it can learn from, one item an image.

        Returns:
            As many items, with ``proposal_boxes`` and the fields of the targets.
        """
        truth = ground_truth_rois(targets, self.max_gt_boxes, self.jitter)
        if self.train_on == "gt_boxes":
            return truth
        # Proposals of an image without objects lack the fields of objects.
        return [_joined(x, t) if len(t) else t for x, t in zip(proposals, truth)]

    def around(self, boxes: List[Boxes]) -> List[Boxes]:
        """The RoIs of boxes, one item an image."""
        return [Boxes(enlarged(x.tensor, self.scale)) for x in boxes]

    def with_coordinates(self, features: torch.Tensor, boxes: List[Boxes]) -> torch.Tensor:
        """RoI features (R, C, H, H), with 5 more channels where they are asked for."""
        if not self.coordinates:
            return features
        # Half precision has three digits, too few for the difference of two sides.
        kind = torch.promote_types(features.dtype, torch.float32)
        tensors = torch.cat([x.tensor for x in boxes]).to(features.device, kind)
        added = box_coordinates(tensors, self.scale, features.shape[-1])
        return torch.cat([features, added.to(features)], dim=1)

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


def _joined(proposals: Instances, truth: Instances) -> Instances:
    fields = {name: proposals.get(name) for name in truth.get_fields()}
    return Instances.cat([Instances(proposals.image_size, **fields), truth])


def refuse_mask_keys(cfg: CfgNode) -> None:
    """Where the mask head is another one, make sure that no key asks for what it does not know.

    Raises:
        ValueError: naming the key.
    """
    if not cfg.MODEL.MASK_ON:
        return
    head = cfg.MODEL.ROI_MASK_HEAD
    asked = [f"MODEL.ROI_MASK_HEAD.{k}" for k, v in _MASKX_KEYS.items() if head.get(k, v) != v]
    if head.get("BOX_LOSS", {}).get("ENABLED"):
        asked.append("MODEL.ROI_MASK_HEAD.BOX_LOSS.ENABLED")
    if cfg.DATASETS.get("PSEUDO_MASKS"):
        asked.append("DATASETS.PSEUDO_MASKS")
    if cfg.TEST.get("MASK_THRESHOLD") is not None:
        asked.append("TEST.MASK_THRESHOLD")
    if asked:
        raise ValueError(
            f"{asked[0]} needs MODEL.ROI_MASK_HEAD.NAME 'MaskXHead', got '{head.NAME}'"
        )


_MASKX_KEYS = {
    "BOX_SCALE": 1.0,
    "COORDINATES": False,
    "TRAIN_ON": "proposals",
    "LOSS": "bce",
    "TRUNK": "convs",
    "UPSAMPLE": "deconv",
}
