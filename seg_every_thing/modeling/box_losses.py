"""Mask losses of objects that have a box and no mask.

A box says two things of the mask in it.  The mask reaches each side of the box and nothing beyond:
the projection loss.  Neighbouring pixels of one colour mostly belong together: the affinity loss.
Both are those of BoxInst (Tian et al., 2021), here on the RoIs of a mask head, where the box has an
exact projection, and where the image comes as a crop of the RoI.  The CRF loss looks further than
neighbours.
"""

from typing import Any, Dict, List, Sequence, Tuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, ImageList, pairwise_iou
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import roi_align

from .color_affinity import affinity_loss, rgb_to_lab
from .crf_loss import crf_loss
from .dice_loss import dice_loss
from .mask_geometry import box_coverage, cells_inside
from .projection_loss import projection_loss, tightness_loss


def filled_box_loss(logits: torch.Tensor, rois: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Cross-entropy plus dice against the whole box: what box losses have to beat.

    Args:
        logits: (R, H, W).
        rois: (R, 4), what the logits lie on.
        boxes: (R, 4), the boxes of the objects.

    Returns:
        (R,)
    """
    rows, columns = box_coverage(rois, boxes, logits.shape[1:])
    filled = (rows[:, :, None] * columns[:, None] >= 0.5).to(logits)
    entropy = binary_cross_entropy_with_logits(logits, filled, reduction="none")
    dice = dice_loss(logits.sigmoid().flatten(1), filled.flatten(1))
    return entropy.flatten(1).mean(1) + dice


def other_objects(
    rois: torch.Tensor,
    boxes: torch.Tensor,
    classes: torch.Tensor,
    gt_boxes: torch.Tensor,
    gt_classes: torch.Tensor,
    size: Sequence[int],
) -> torch.Tensor:
    """The pixels of RoIs of an image that lie in the box of another object of the same class.

    The object of a RoI itself is the one whose box overlaps ``boxes`` most, so a box that was
    jittered does as well, and an object that is listed twice does not hide itself.

    Args:
        rois: (R, 4).
        boxes: (R, 4), the boxes of the RoIs' objects.
        classes: (R,), their classes.
        gt_boxes: (n, 4), the boxes of all objects.
        gt_classes: (n,), their classes.
        size: height and width of the masks.

    Returns:
        (R, height, width) bool.
    """
    pairs = len(rois), len(gt_boxes)
    if 0 in pairs:
        return torch.zeros(len(rois), *size, dtype=torch.bool, device=rois.device)
    alike = classes[:, None] == gt_classes
    overlap = pairwise_iou(Boxes(boxes), Boxes(gt_boxes)).masked_fill(~alike, -1)
    others = alike & (overlap < overlap.amax(dim=1, keepdim=True))
    # Of all pairs, as to ask which of them overlap would be to wait for the device.
    rows, columns = box_coverage(
        rois[:, None].expand(*pairs, 4).flatten(0, 1), gt_boxes.repeat(pairs[0], 1), size
    )
    rows = ((rows >= 0.5).view(*pairs, -1) & others[:, :, None]).to(rois)
    return rows.transpose(1, 2) @ (columns >= 0.5).view(*pairs, -1).to(rois) > 0


PROJECTIONS = {"dice": projection_loss, "tightness": tightness_loss}


class BoxLosses(nn.Module):
    """Projection, affinity and CRF loss on the mask logits of the RoIs of a batch.

    Everything runs in float32 at least, also under autocast.
    """

    @configurable
    def __init__(
        self,
        *,
        projection: str = "dice",
        projection_weight: float = 1.0,
        affinity_weight: float = 1.0,
        affinity_threshold: float = 0.3,
        affinity_dilation: int = 2,
        warmup: float = 0.1,
        crf_weight: float = 0.0,
        margin: float = 0.0,
        fill_weight: float = 0.0,
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
        input_format: str = "RGB",
    ) -> None:
        """
        Args:
            projection: "dice" (:func:`projection_loss`) or "tightness" (:func:`tightness_loss`).
            projection_weight: of the projection loss; 0 = without.
            affinity_weight: of the affinity loss; 0 = without.
            affinity_threshold: similarity from which on two colours count as one, in (0, 1].
            affinity_dilation: distance of neighbours, in cells of the mask.
            warmup: share of the training over which affinity and CRF weight grow from 0.
            crf_weight: of :func:`crf_loss`; 0 = without.
            margin: of :func:`projection_loss`, in pixels of the image as the model sees it.
            fill_weight: of :func:`filled_box_loss`, a control; 0 = without.
            pixel_mean: what was subtracted from the images, in the order of their channels.
            pixel_std: by what they were divided after that.
            input_format: "RGB" or "BGR".

        Raises:
            ValueError: for a value out of range.
        """
        super().__init__()
        key = "MODEL.ROI_MASK_HEAD.BOX_LOSS"
        for name, value, fits in (
            ("PROJECTION_WEIGHT", projection_weight, projection_weight >= 0),
            ("AFFINITY_WEIGHT", affinity_weight, affinity_weight >= 0),
            ("AFFINITY_THRESHOLD", affinity_threshold, 0 < affinity_threshold <= 1),
            ("AFFINITY_DILATION", affinity_dilation, affinity_dilation >= 1),
            ("WARMUP", warmup, 0 <= warmup <= 1),
            ("CRF_WEIGHT", crf_weight, crf_weight >= 0),
            ("MARGIN", margin, margin >= 0),
            ("FILL_WEIGHT", fill_weight, fill_weight >= 0),
        ):
            if not fits:
                raise ValueError(f"{key}.{name} {value} is out of range")
        if projection not in PROJECTIONS:
            raise ValueError(f"{key}.PROJECTION '{projection}' is none of {', '.join(PROJECTIONS)}")
        if not (projection_weight or affinity_weight or fill_weight):
            raise ValueError(f"{key}: PROJECTION_WEIGHT and AFFINITY_WEIGHT are both 0")
        for name, weight in (("AFFINITY_WEIGHT", affinity_weight), ("CRF_WEIGHT", crf_weight)):
            if weight and input_format not in ("RGB", "BGR"):
                raise ValueError(
                    f"{key}.{name} above 0 needs INPUT.FORMAT 'BGR' or 'RGB', got '{input_format}'"
                )
        self.projection = projection
        self.projection_weight = projection_weight
        self.affinity_weight = affinity_weight
        self.affinity_threshold = affinity_threshold
        self.affinity_dilation = affinity_dilation
        self.warmup = warmup
        self.crf_weight = crf_weight
        self.margin = margin
        self.fill_weight = fill_weight
        self.input_format = input_format
        # Not persistent: a checkpoint holds what was learned, and the config knows these.
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        loss = cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS
        return {
            "projection": loss.PROJECTION,
            "projection_weight": loss.PROJECTION_WEIGHT,
            "affinity_weight": loss.AFFINITY_WEIGHT,
            "affinity_threshold": loss.AFFINITY_THRESHOLD,
            "affinity_dilation": loss.AFFINITY_DILATION,
            "warmup": loss.WARMUP,
            "crf_weight": loss.CRF_WEIGHT,
            "margin": loss.MARGIN,
            "fill_weight": loss.FILL_WEIGHT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
        }

    def forward(
        self,
        logits: torch.Tensor,
        rois: List[torch.Tensor],
        boxes: List[torch.Tensor],
        classes: List[torch.Tensor],
        images: ImageList,
        gt_boxes: List[torch.Tensor],
        gt_classes: List[torch.Tensor],
        progress: float,
    ) -> Dict[str, torch.Tensor]:
        """
        Args:
            logits: (R, 1, H, W) of the RoIs of all images, one image after the other; R may be 0.
            rois: for each image (r, 4) x0, y0, x1, y1 in pixels, what the logits lie on.
            boxes: for each image (r, 4), the boxes of the RoIs' objects.
            classes: for each image (r,), their classes.
            images: the batch as the model normalised it.
            gt_boxes: the boxes (n, 4) of all objects, for each image.
            gt_classes: their classes (n,), for each image.
            progress: share of the training that is over, from 0 to 1.

        Returns:
            ``loss_mask_projection``, ``loss_mask_affinity``, ``loss_mask_crf`` and
            ``loss_mask_filled``: means over the R RoIs times their weights, or 0 times the logits
            without RoIs.  A loss of weight 0 is left out.
        """
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
            losses = {}
            all_rois, all_boxes = torch.cat(rois), torch.cat(boxes)
            if self.projection_weight:
                loss = PROJECTIONS[self.projection](logits, all_rois, all_boxes, self.margin)
                losses["loss_mask_projection"] = self.projection_weight * loss
            if self.fill_weight:
                loss = filled_box_loss(logits, all_rois, all_boxes)
                losses["loss_mask_filled"] = self.fill_weight * loss
            grown = min(progress / self.warmup, 1.0) if self.warmup else 1.0
            if self.affinity_weight or self.crf_weight:
                size = logits.shape[1:]
                rows, columns = box_coverage(all_rois, all_boxes, size)
                inside = (rows >= 0.5)[:, :, None] & (columns >= 0.5)[:, None]
                of_images = zip(rois, boxes, classes, gt_boxes, gt_classes)
                hidden = torch.cat([other_objects(*image, size) for image in of_images])
                crops, shown = self.crop_images(images, rois, size)
                valid = shown & ~hidden
            if self.affinity_weight:
                loss = affinity_loss(
                    logits,
                    rgb_to_lab(crops),
                    inside,
                    valid,
                    threshold=self.affinity_threshold,
                    dilation=self.affinity_dilation,
                )
                losses["loss_mask_affinity"] = self.affinity_weight * grown * loss
            if self.crf_weight:
                loss = crf_loss(logits, crops, inside, valid)
                losses["loss_mask_crf"] = self.crf_weight * grown * loss
            return {name: loss.sum() / max(len(logits), 1) for name, loss in losses.items()}

    @torch.no_grad()
    def crop_images(
        self, images: ImageList, rois: List[torch.Tensor], size: Sequence[int]
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        """The images in RoIs, at the resolution of their masks.

        Args:
            images: the batch as the model normalised it.
            rois: for each image (r, 4) in pixels, R in all.
            size: height and width of the masks.

        Returns:
            (R, 3, height, width) RGB of 0 to 255, and (R, height, width) bool: the pixels that lie
            in the image as a whole.  The colours of others mean nothing.
        """
        crops, shown = [], []
        for i, (height, width) in enumerate(images.image_sizes):
            # One image at a time, so that padding cannot mix with the pixels at the border.
            image = images.tensor[i : i + 1, :, :height, :width]
            mine = rois[i].to(image.dtype)
            crops.append(roi_align(image, [mine], tuple(size), sampling_ratio=0, aligned=True))
            shown.append(cells_inside(rois[i], height, width, size))
        seen = torch.cat(crops)
        rgb = seen * self.pixel_std.to(seen) + self.pixel_mean.to(seen)
        return rgb if self.input_format == "RGB" else rgb.flip(1), torch.cat(shown)
