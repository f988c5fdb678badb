"""RoI heads that learn boxes from all objects and masks from those that have one."""

from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Instances

from ..data.partial import class_names_of, set_a_of
from .class_vectors import load_class_vectors
from .mask_heads import MaskXHead, instance_classes
from .mask_rois import (
    MaskRoIs,
    has_usable_mask,
    refuse_mask_keys,
    select_proposals_with_masks,
)
from .weight_transfer import WeightTransfer, class_embedding

Losses = Dict[str, torch.Tensor]

_CHUNK = 4096  # classes a step when T runs over all classes: bounds the memory of (K, 5120) rows


@ROI_HEADS_REGISTRY.register()
class PartiallySupervisedROIHeads(StandardROIHeads):
    """StandardROIHeads for classes with masks (set A) and classes with boxes alone (set B).

    Boxes learn from every object.  The mask branch learns from the objects that have a mask; with
    the predictor "transfer" its last layer's weights are predicted by T from what describes a class
    (paper, section 3.2), so it segments the classes that never had one.
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
            mask_rois: how mask RoIs lie about boxes; None = they are the boxes.
            kwargs: as for :class:`StandardROIHeads`.
        """
        super().__init__(**kwargs)
        self.weight_transfer = weight_transfer
        self.transfer_input = transfer_input
        self.stop_gradient = stop_gradient
        self.freeze_detector = freeze_detector
        self.mask_rois = mask_rois or MaskRoIs()
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
            ret["class_vectors"] = _vectors_from_config(cfg)
            width = ret["class_vectors"].shape[1]
        else:
            width = class_embedding(ret["box_predictor"], transfer.INPUT).shape[1]
        if transfer.NORMALIZE:
            set_a = set_a_of(cfg)
            indices = range(cfg.MODEL.ROI_HEADS.NUM_CLASSES) if set_a is None else set_a
            ret["normalize_over"] = torch.tensor(list(indices))
        ret.update(
            weight_transfer=WeightTransfer(cfg, width),
            transfer_input=transfer.INPUT,
            stop_gradient=transfer.STOP_GRADIENT,
        )
        return ret

    def label_and_sample_proposals(
        self, proposals: List[Instances], targets: List[Instances]
    ) -> List[Instances]:
        """As in the parent; with a frozen detector only objects with a mask are worth a sample.

        The original's stage two does the same with annotation files that hold set A alone.
        """
        if self.freeze_detector:
            targets = [x[has_usable_mask(x)] for x in targets]
        return super().label_and_sample_proposals(proposals, targets)

    def _forward_mask(
        self, features: Dict[str, torch.Tensor], instances: List[Instances]
    ) -> Union[Losses, List[Instances]]:
        """All of Mask^X R-CNN.  Arguments and result as in :class:`StandardROIHeads`."""
        if not self.mask_on:
            return {} if self.training else instances
        if self.training:
            instances = select_proposals_with_masks(instances, self.num_classes)
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

        if not self.training:
            return self.mask_rois.finish(self.mask_head(roi_features, instances, class_weights))
        for x, roi in zip(instances, rois):
            x.proposal_boxes = roi  # what the targets of the mask loss are cut from
        return self.mask_head(roi_features, instances, class_weights)

    def describe_classes(self, classes: torch.Tensor) -> torch.Tensor:
        """Class vectors, the input of T, for (n,) class indices: (n, D)."""
        vectors = self._raw_class_vectors(classes)
        if self.normalize_over is not None:
            centre = self._raw_class_vectors(self.normalize_over).mean(0)
            vectors = torch.nn.functional.normalize(vectors - centre)
        return vectors

    def _raw_class_vectors(self, classes: torch.Tensor) -> torch.Tensor:
        if self.transfer_input == "embedding":
            return self.class_vectors[classes]
        vectors = class_embedding(self.box_predictor, self.transfer_input, classes)
        return vectors.detach() if self.stop_gradient else vectors

    @torch.no_grad()
    def mask_weights(self) -> torch.Tensor:
        """Predicted mask filters of all classes, (K, C), without gradient.

        They are kept until a weight that they depend on changes, or training starts.  (A write
        through ``.data`` goes unseen by PyTorch; call ``train()`` or ``eval()`` after one.)

        Raises:
            ValueError: when the mask head's predictor is not "transfer".
        """
        transfer = self.weight_transfer
        if transfer is None:
            raise ValueError("only the predictor 'transfer' predicts mask filters")
        state = self._transfer_state(transfer)
        if self._cached_weights is None or state is None or self._cached_weights[0] != state:
            device = next(transfer.parameters()).device
            classes = torch.arange(self.num_classes, device=device).split(_CHUNK)
            # Autocast would leave filters of its low precision behind for runs without it.
            with torch.autocast(device.type, enabled=False):
                filters = torch.cat([transfer(self.describe_classes(part)) for part in classes])
            self._cached_weights = (state, filters)
        return self._cached_weights[1]

    def _transfer_state(self, transfer: WeightTransfer) -> Optional[List[Tuple[int, int]]]:
        """Changes with each write to what decides the filters; None when writes cannot be seen."""
        sources = list(transfer.parameters())
        if self.transfer_input == "embedding":
            sources.append(self.class_vectors)
        else:
            predictor = self.box_predictor
            sources += [predictor.cls_score.weight, predictor.bbox_pred.weight]
        if any(x.is_inference() for x in sources):
            return None
        return [(x.data_ptr(), x._version) for x in sources]

    def train(self, mode: bool = True) -> "PartiallySupervisedROIHeads":
        """Set the mode; the kept mask filters are dropped, as training changes the weights."""
        self._cached_weights = None
        return super().train(mode)

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


def _vectors_from_config(cfg: CfgNode) -> torch.Tensor:
    path = cfg.MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE
    has_words = bool(path) and not path.endswith(".npy") and not path.startswith("random:")
    names = class_names_of(cfg.DATASETS.TRAIN[0]) if has_words else None
    return load_class_vectors(path, cfg.MODEL.ROI_HEADS.NUM_CLASSES, names)
