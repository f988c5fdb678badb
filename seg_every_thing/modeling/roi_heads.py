"""RoI heads that learn boxes from all objects and masks from those that have one."""

import logging
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    StandardROIHeads,
    select_foreground_proposals,
)
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage

from ..data.partial import set_a_of
from .all_levels_pooler import with_pooler_levels
from .box_losses import BoxLosses
from .choosing import in_batch, true_indices
from .class_vectors import class_vectors_of
from .mask_heads import MaskXHead, instance_classes
from .mask_rois import (
    MaskRoIs,
    has_usable_mask,
    refuse_mask_keys,
    select_proposals_with_masks,
    teaches_masks,
)
from .predicted_filters import PredictedFilters
from .pseudo_mask_loss import PseudoMaskLoss
from .weight_transfer import WeightTransfer, class_embedding

logger = logging.getLogger(__name__)

Losses = Dict[str, torch.Tensor]


@ROI_HEADS_REGISTRY.register()
class PartiallySupervisedROIHeads(PredictedFilters, StandardROIHeads):
    """StandardROIHeads for classes with masks (set A) and classes with boxes alone (set B).

    Boxes learn from every object.  The mask branch learns from the objects that have a mask, and
    with box losses from the boxes of the others; with the predictor "transfer" its last layer's
    weights are predicted by T from what describes a class (paper, section 3.2), so it segments the
    classes that never had one.
    """

    @configurable
    def __init__(
        self,
        *,
        weight_transfer: Optional[WeightTransfer] = None,
        transfer_input: str = "cls+box",
        class_vectors: Optional[torch.Tensor] = None,
        stop_gradient: bool = True,
        normalize_over: Optional[torch.Tensor] = None,
        freeze_detector: bool = False,
        mask_rois: Optional[MaskRoIs] = None,
        box_losses: Optional[BoxLosses] = None,
        box_losses_for_all: bool = False,
        pseudo_mask_loss: Optional[PseudoMaskLoss] = None,
        max_iter: int = 1,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            weight_transfer: T; None for mask heads whose predictor is not "transfer".
            transfer_input: "cls+box", "cls", "box" or "embedding".
            class_vectors: (K, D) fixed class vectors for "embedding".
            stop_gradient: keep the mask loss from changing the box predictor through T.
            normalize_over: (n,) indices of the classes on which class vectors are centred before
                they are scaled to unit length; None = leave them as they are.
            freeze_detector: no detection losses; see :func:`seg_every_thing.freeze_detector`.
            mask_rois: which they are, and how they lie about boxes; None = as in Mask R-CNN.
            box_losses: for objects without a usable mask; None = they train boxes only.
            box_losses_for_all: for objects with a mask, too.
            pseudo_mask_loss: for objects with the mask of a teacher; None = there are none.
            max_iter: iterations of the training, over which box losses grow.
            kwargs: as for :class:`StandardROIHeads`.
        """
        super().__init__(**kwargs)
        self.weight_transfer = weight_transfer
        self.transfer_input = transfer_input
        self.stop_gradient = stop_gradient
        self.freeze_detector = freeze_detector
        self.mask_rois = mask_rois or MaskRoIs()
        self.box_losses = box_losses
        self.box_losses_for_all = box_losses_for_all
        self.pseudo_mask_loss = pseudo_mask_loss
        self.max_iter = max_iter
        self.register_buffer("class_vectors", class_vectors)
        self.register_buffer("normalize_over", normalize_over, persistent=False)
        self._cached_weights: Optional[Tuple[Any, torch.Tensor]] = None

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Dict[str, ShapeSpec]) -> Dict[str, Any]:
        ret = super().from_config(cfg, input_shape)
        ret["freeze_detector"] = cfg.MODEL.FREEZE_DETECTOR
        if cfg.MODEL.FREEZE_DETECTOR and not cfg.MODEL.MASK_ON:
            raise ValueError(
                "MODEL.FREEZE_DETECTOR True leaves nothing to train: set MODEL.MASK_ON"
            )
        if cfg.MODEL.FREEZE_DETECTOR and cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES:
            raise ValueError(
                "MODEL.FREEZE_DETECTOR and MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES exclude each "
                "other: with a frozen detector the box head does not run in training"
            )
        head = ret.get("mask_head")
        if not isinstance(head, MaskXHead):
            refuse_mask_keys(cfg)
            return ret
        ret["mask_rois"] = MaskRoIs(cfg)
        ret.update(_box_losses_from_config(cfg))
        if cfg.DATASETS.PSEUDO_MASKS:
            ret["pseudo_mask_loss"] = PseudoMaskLoss(cfg)
        if head.predictor_kind != "transfer":
            return ret
        transfer = cfg.MODEL.WEIGHT_TRANSFER
        if transfer.INPUT not in ("cls+box", "cls", "box", "embedding"):
            raise ValueError(
                f"MODEL.WEIGHT_TRANSFER.INPUT '{transfer.INPUT}' is not one of "
                f"cls+box, cls, box, embedding"
            )
        if "box" in transfer.INPUT and cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG:
            raise ValueError(
                f"MODEL.WEIGHT_TRANSFER.INPUT '{transfer.INPUT}' needs box regression weights for "
                f"each class: set MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG False, or INPUT 'cls'"
            )
        if transfer.INPUT == "embedding":
            ret["class_vectors"] = class_vectors_of(cfg)
            width = ret["class_vectors"].shape[1]
        else:
            width = class_embedding(ret["box_predictor"], transfer.INPUT).shape[1]
        if transfer.NORMALIZE:
            set_a = set_a_of(cfg)
            indices = range(cfg.MODEL.ROI_HEADS.NUM_CLASSES) if set_a is None else set_a
            if not indices:
                key = "MODEL.WEIGHT_TRANSFER.NORMALIZE"
                raise ValueError(f"{key} True needs a set A, and DATASETS.MASK_CLASSES names none")
            ret["normalize_over"] = torch.tensor(list(indices))
        ret.update(
            weight_transfer=WeightTransfer(cfg, width),
            transfer_input=transfer.INPUT,
            stop_gradient=transfer.STOP_GRADIENT,
        )
        return ret

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: Dict[str, ShapeSpec]) -> Dict[str, Any]:
        return with_pooler_levels(super()._init_mask_head, cfg, input_shape)

    def label_and_sample_proposals(
        self, proposals: List[Instances], targets: List[Instances]
    ) -> List[Instances]:
        """As in the parent; with a frozen detector only what masks learn from is worth a sample.

        The original's stage two does the same with annotation files that hold set A alone.
        """
        if self.freeze_detector:
            targets = self._useful_for_masks(targets)
        return super().label_and_sample_proposals(proposals, targets)

    def _useful_for_masks(self, objects: List[Instances]) -> List[Instances]:
        """The labelled objects of images that a loss of the mask branch is for."""
        if self.box_losses is not None:
            return objects
        return [x[teaches_masks(x)] for x in objects]

    def forward(
        self,
        images: ImageList,
        features: Dict[str, torch.Tensor],
        proposals: List[Instances],
        targets: Optional[List[Instances]] = None,
    ) -> Tuple[List[Instances], Losses]:
        """As in the parent, but the mask branch may train on other RoIs, and sees the images."""
        if not self.training or targets is None:
            return super().forward(images, features, proposals, targets)
        sampled = self.label_and_sample_proposals(proposals, targets)
        losses: Losses = {}
        losses.update(self._forward_box(features, sampled))
        mask_rois = sampled
        if self.mask_rois.train_on != "proposals":
            mask_rois = self.mask_rois.with_ground_truth(sampled, self._useful_for_masks(targets))
        losses.update(self._forward_mask(features, mask_rois, images, targets))
        losses.update(self._forward_keypoint(features, sampled))
        return sampled, losses

    def _forward_mask(
        self,
        features: Dict[str, torch.Tensor],
        instances: List[Instances],
        images: Optional[ImageList] = None,
        targets: Optional[List[Instances]] = None,
    ) -> Union[Losses, List[Instances]]:
        """All of Mask^X R-CNN.  Arguments and result as in :class:`StandardROIHeads`.

        Box losses need the ``images``, and all objects in them, the ``targets``.
        """
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            if self.box_losses is None:
                instances = select_proposals_with_masks(instances, self.num_classes)
            else:
                instances, _ = select_foreground_proposals(instances, self.num_classes)
        if not isinstance(self.mask_head, MaskXHead):
            return super()._forward_mask(features, instances)

        boxes = [x.proposal_boxes if self.training else x.pred_boxes for x in instances]
        rois = self.mask_rois.around(boxes)
        roi_features = self.mask_pooler([features[f] for f in self.mask_in_features], rois)
        roi_features = self.mask_rois.with_coordinates(roi_features, boxes)

        classes, class_weights = instance_classes(instances, self.training), None
        if self.weight_transfer is not None and self.training:
            # T runs once for each class of the batch, whatever the number of classes and RoIs.
            present, row = classes.unique(return_inverse=True)
            class_weights = self.weight_transfer(self.describe_classes(present))[row]
        elif self.weight_transfer is not None:
            class_weights = self.mask_weights()[classes]

        logits = self.mask_head.logits(roi_features, classes, class_weights)
        if not self.training:
            return self.mask_rois.finish(self.mask_head.masks(logits, instances))
        for x, roi in zip(instances, rois):
            x.proposal_boxes = roi  # what the targets of the mask loss are cut from
        losses = self.mask_head.losses(logits, instances)
        if self.pseudo_mask_loss is not None:
            losses.update(self.pseudo_mask_loss(logits, instances))
        if self.box_losses is not None:
            losses.update(self._losses_of_boxes(logits, instances, images, targets))
        return losses

    def _losses_of_boxes(
        self,
        logits: torch.Tensor,
        instances: List[Instances],
        images: Optional[ImageList],
        targets: Optional[List[Instances]],
    ) -> Losses:
        """What boxes say of (R, 1, M, M) logits, as losses divided by the number of their RoIs."""
        if self.box_losses is None or images is None or targets is None:
            raise ValueError("box losses need the images and all of their objects")
        rois = [x.proposal_boxes.tensor for x in instances]
        boxes = [x.gt_boxes.tensor if x.has("gt_boxes") else r for x, r in zip(instances, rois)]
        classes = [x.gt_classes for x in instances]
        if not self.box_losses_for_all:
            use = true_indices([~has_usable_mask(x) for x in instances])
            logits = logits[in_batch(use, [len(x) for x in instances])]
            rois, boxes, classes = (
                [each[index] for each, index in zip(of_images, use)]
                for of_images in (rois, boxes, classes)
            )
        return self.box_losses(
            logits,
            rois,
            boxes,
            classes,
            images,
            [x.gt_boxes.tensor for x in targets],
            [x.gt_classes for x in targets],
            progress=get_event_storage().iter / self.max_iter,
        )

    def _forward_box(
        self, features: Dict[str, torch.Tensor], proposals: List[Instances]
    ) -> Union[Losses, List[Instances]]:
        if self.training and self.freeze_detector:
            return {}
        return super()._forward_box(features, proposals)

    def _forward_keypoint(
        self, features: Dict[str, torch.Tensor], instances: List[Instances]
    ) -> Union[Losses, List[Instances]]:
        if self.training and self.freeze_detector:
            return {}
        return super()._forward_keypoint(features, instances)


def _box_losses_from_config(cfg: CfgNode) -> Dict[str, Any]:
    head = cfg.MODEL.ROI_MASK_HEAD
    if head.BOX_LOSS.APPLY_TO not in ("box_only", "all"):
        raise ValueError(
            f"MODEL.ROI_MASK_HEAD.BOX_LOSS.APPLY_TO '{head.BOX_LOSS.APPLY_TO}' is not one of "
            f"box_only, all"
        )
    if not head.BOX_LOSS.ENABLED:
        return {}
    if head.TRAIN_ON == "gt_boxes" and head.BOX_SCALE == 1 and head.BOX_JITTER == 0:
        logger.warning(
            "Box losses on RoIs that are the ground-truth boxes: a mask that fills its RoI has no "
            "projection loss.  Set MODEL.ROI_MASK_HEAD.BOX_SCALE above 1 (1.25)"
        )
    return {
        "box_losses": BoxLosses(cfg),
        "box_losses_for_all": head.BOX_LOSS.APPLY_TO == "all",
        "max_iter": cfg.SOLVER.MAX_ITER,
    }
