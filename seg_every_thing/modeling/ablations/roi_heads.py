"""RoI heads whose ``POOLER_TYPE`` may also be one of :data:`POOLER_TYPES`."""

from typing import Any, Dict, List, Optional, Tuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, Res5ROIHeads
from detectron2.structures import Instances
from torch import nn

from ...config_ablations import ablation_config
from ..mask_rois import has_usable_mask
from ..roi_heads import PartiallySupervisedROIHeads
from .roi_pooling import set_pooler_type, with_stock_pooler


@ROI_HEADS_REGISTRY.register()
class AblationROIHeads(PartiallySupervisedROIHeads):
    """RoI heads for FPN and C5, with poolers of any type for boxes and masks.

    Reads ``MODEL.ROI_BOX_HEAD.POOLER_TYPE``, ``MODEL.ROI_MASK_HEAD.POOLER_TYPE`` and
    ``MODEL.ROI_MASK_HEAD.IN_FEATURES``; the config of a project without our keys will do.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Dict[str, ShapeSpec]) -> Dict[str, Any]:
        return super().from_config(ablation_config(cfg), input_shape)

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: Dict[str, ShapeSpec]) -> Dict[str, Any]:
        ret = super()._init_box_head(with_stock_pooler(cfg, "ROI_BOX_HEAD"), input_shape)
        set_pooler_type(ret["box_pooler"], cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE)
        return ret

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: Dict[str, ShapeSpec]) -> Dict[str, Any]:
        if not cfg.MODEL.MASK_ON:
            return {}
        pooler_type = cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE
        cfg = with_stock_pooler(_with_mask_features(cfg, input_shape), "ROI_MASK_HEAD")
        ret = super()._init_mask_head(cfg, input_shape)
        set_pooler_type(ret["mask_pooler"], pooler_type)
        return ret


def _with_mask_features(cfg: CfgNode, input_shape: Dict[str, ShapeSpec]) -> CfgNode:
    """A config whose ``MODEL.ROI_HEADS.IN_FEATURES`` are those for masks."""
    levels = cfg.MODEL.ROI_MASK_HEAD.IN_FEATURES
    if not levels:
        return cfg
    unknown = sorted(set(levels) - set(input_shape))
    if unknown:
        raise ValueError(
            f"MODEL.ROI_MASK_HEAD.IN_FEATURES: the backbone has no feature {', '.join(unknown)}; "
            f"choose from {', '.join(input_shape)}"
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.IN_FEATURES = list(levels)
    return cfg


@ROI_HEADS_REGISTRY.register()
class AblationRes5ROIHeads(Res5ROIHeads):
    """RoI heads for C4, where boxes and masks share pooler and res5.

    ``MODEL.ROI_BOX_HEAD.POOLER_TYPE`` is that of both.  Masks learn from the objects that have one.
    """

    @configurable
    def __init__(self, **kwargs: Any) -> None:
        """
        Args:
            kwargs: as for :class:`Res5ROIHeads`.
        """
        super().__init__(**kwargs)
        if self.mask_on:
            # The parent's forward passes all foreground on; a box-only object would train as empty.
            self.mask_head.register_forward_pre_hook(_leave_out_box_only)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Dict[str, ShapeSpec]) -> Dict[str, Any]:
        if ablation_config(cfg).MODEL.ROI_MASK_HEAD.IN_FEATURES:
            raise ValueError(
                "MODEL.ROI_MASK_HEAD.IN_FEATURES must be () for AblationRes5ROIHeads: boxes and "
                "masks share their features"
            )
        ret = super().from_config(with_stock_pooler(cfg, "ROI_BOX_HEAD"), input_shape)
        set_pooler_type(ret["pooler"], cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE)
        return ret


def _leave_out_box_only(
    head: nn.Module, inputs: Tuple[torch.Tensor, List[Instances]]
) -> Optional[Tuple[torch.Tensor, List[Instances]]]:
    if not head.training:
        return None
    features, instances = inputs
    usable = [has_usable_mask(x) for x in instances]
    return features[cat(usable)], [x[keep] for x, keep in zip(instances, usable)]
