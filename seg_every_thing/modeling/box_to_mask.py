"""A model without a detector: boxes in, masks out."""

from typing import Any, Dict, List, Optional, Union

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, build_backbone
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage

from .kept_features import KeptFeatures
from .mask_heads import MaskXHead
from .roi_heads import Losses, PartiallySupervisedROIHeads

BODY_TIME = "body_time"
"""Metric: seconds that an iteration spends on images whose features are not kept."""

_BOX_FIELDS = ("pred_boxes", "proposal_boxes", "gt_boxes")
_CLASS_FIELDS = ("pred_classes", "gt_classes")


class GivenBoxROIHeads(PartiallySupervisedROIHeads):
    """The mask branch of :class:`PartiallySupervisedROIHeads`, with the names of its parameters.

    It trains on ground-truth boxes, whatever proposals there are.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Dict[str, ShapeSpec]) -> Dict[str, Any]:
        if not cfg.MODEL.MASK_ON:
            raise ValueError(
                "MODEL.META_ARCHITECTURE 'BoxToMask' predicts masks: set MODEL.MASK_ON"
            )
        head, source = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.WEIGHT_TRANSFER.INPUT
        if head.NAME == "MaskXHead" and head.PREDICTOR == "transfer" and source != "embedding":
            raise ValueError(
                f"MODEL.WEIGHT_TRANSFER.INPUT '{source}' needs the box predictor that "
                f"MODEL.META_ARCHITECTURE 'BoxToMask' lacks: set it to 'embedding' (with "
                f"EMBEDDING_FILE), or MODEL.ROI_MASK_HEAD.PREDICTOR to 'class_agnostic'"
            )
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.KEYPOINT_ON = False
        cfg.MODEL.ROI_MASK_HEAD.TRAIN_ON = "gt_boxes"
        ret = super().from_config(cfg, input_shape)
        if not isinstance(ret["mask_head"], MaskXHead):
            raise ValueError(
                f"MODEL.META_ARCHITECTURE 'BoxToMask' needs MODEL.ROI_MASK_HEAD.NAME 'MaskXHead', "
                f"got '{head.NAME}'"
            )
        return ret

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: Dict[str, ShapeSpec]) -> Dict[str, Any]:
        return {
            "box_in_features": [],
            "box_pooler": None,
            "box_head": None,
            "box_predictor": None,
        }

    def label_and_sample_proposals(
        self, proposals: List[Instances], targets: List[Instances]
    ) -> List[Instances]:
        """Proposals as they are: nothing trains on them."""
        return proposals

    def _forward_box(
        self, features: Dict[str, torch.Tensor], proposals: List[Instances]
    ) -> Union[Losses, List[Instances]]:
        return {} if self.training else proposals


@META_ARCH_REGISTRY.register()
class BoxToMask(GeneralizedRCNN):
    """Backbone and mask branch alone, for boxes that the caller gives.

    It trains on ground-truth boxes: with the masks of objects that have one, and with box losses
    (``MODEL.ROI_MASK_HEAD.BOX_LOSS``) of those that have none.  Its parameters have the names that
    they have in a ``GeneralizedRCNN`` with :class:`PartiallySupervisedROIHeads`, so weights load
    from either into the other.
    """

    @configurable
    def __init__(self, *, kept_features: Optional[KeptFeatures] = None, **kwargs: Any) -> None:
        """
        Args:
            kept_features: where a frozen backbone's features are kept during training; None = they
                are computed each time.
            **kwargs: of ``GeneralizedRCNN``.
        """
        super().__init__(**kwargs)
        self.kept_features = kept_features
        self.register_load_state_dict_post_hook(_forget_features)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        backbone = build_backbone(cfg)
        return {
            "kept_features": _kept_features(cfg),
            "backbone": backbone,
            "proposal_generator": None,
            "roi_heads": GivenBoxROIHeads(cfg, backbone.output_shape()),
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def forward(self, batched_inputs: List[Dict[str, Any]]) -> Any:
        """As in ``GeneralizedRCNN``; at inference the inputs carry boxes, see :meth:`inference`."""
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        return self.roi_heads(images, self._features(batched_inputs, images), [], targets)[1]

    def _features(
        self, batched_inputs: List[Dict[str, Any]], images: ImageList
    ) -> Dict[str, torch.Tensor]:
        if self.kept_features is None or self.backbone.training:
            return self.backbone(images.tensor)
        before = self.kept_features.seconds
        found = self.kept_features.of(self.backbone, images, [x["image"] for x in batched_inputs])
        get_event_storage().put_scalar(BODY_TIME, self.kept_features.seconds - before)
        return found

    def inference(
        self,
        batched_inputs: List[Dict[str, Any]],
        detected_instances: Optional[List[Instances]] = None,
        do_postprocess: bool = True,
    ) -> Any:
        """As in ``GeneralizedRCNN``.

        Args:
            batched_inputs: with "image", and without ``detected_instances`` with "instances" or
                "proposals" that have boxes in pixels of that image (``pred_boxes``,
                ``proposal_boxes`` or ``gt_boxes``) and ``pred_classes`` or ``gt_classes``.
            detected_instances: boxes and classes of each image, as in ``GeneralizedRCNN``.
            do_postprocess: bring boxes and masks to the "height" and "width" of the inputs.

        Raises:
            ValueError: where there are no boxes, or no classes for them.
        """
        if detected_instances is None:
            detected_instances = [boxes_of(x) for x in batched_inputs]
        return super().inference(batched_inputs, detected_instances, do_postprocess)


def _kept_features(cfg: CfgNode) -> Optional[KeptFeatures]:
    if not cfg.MODEL.KEEP_FEATURES_GB:
        return None
    normalization = repr((cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    return KeptFeatures(cfg.MODEL.KEEP_FEATURES_GB, cfg.OUTPUT_DIR, normalization)


def _forget_features(model: BoxToMask, _: Any) -> None:
    if model.kept_features is not None:
        model.kept_features.clear()


def boxes_of(sample: Dict[str, Any]) -> Instances:
    """The boxes that an input carries, as if a detector had found them.

    Raises:
        ValueError: when it carries none, or no classes for them.
    """
    name = sample.get("file_name", "the input")
    given = sample.get("instances", sample.get("proposals"))
    fields = {} if given is None else given.get_fields()
    boxes = next((fields[key] for key in _BOX_FIELDS if key in fields), None)
    classes = next((fields[key] for key in _CLASS_FIELDS if key in fields), None)
    if given is None or boxes is None or classes is None:
        raise ValueError(
            f"{name}: MODEL.META_ARCHITECTURE 'BoxToMask' finds no boxes: give 'instances' with "
            f"pred_boxes and pred_classes (demo: --boxes; evaluation: TEST.GIVEN_BOXES)"
        )
    scores = fields.get("scores", torch.ones(len(boxes)))
    found = Instances(given.image_size, pred_classes=classes, scores=scores)
    found.pred_boxes = Boxes(boxes.tensor.clone())  # postprocessing scales boxes in place
    return found
