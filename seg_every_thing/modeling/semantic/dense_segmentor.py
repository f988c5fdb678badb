"""detectron2 models that score every pixel by itself at inference, in place of upsampling."""

import math
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, SemanticSegmentor
from torch import nn
from torch.nn import functional as F

from ...config_semantic import semantic_config
from .dense_inference import rarefy, shift_and_stitch
from .fcn_head import FCNHead
from .vgg import IMAGE_FEATURE

_MODES = ("none", "shift_and_stitch", "rarefy")


class _WholeImage(Backbone):
    """Hands the images on to :class:`_DenseHead`, padded as the real backbone wants them."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self._size_divisibility = backbone.size_divisibility
        self._padding_constraints = backbone.padding_constraints

    def forward(self, x: torch.Tensor) -> Dict[str, torch.Tensor]:
        return {IMAGE_FEATURE: x}

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    @property
    def padding_constraints(self) -> Dict[str, int]:
        return self._padding_constraints


class _DenseHead(nn.Module):
    """Scores every pixel of an image with the trunk and the score layer of another model."""

    def __init__(self, model: SemanticSegmentor, mode: str) -> None:
        super().__init__()
        head = model.sem_seg_head
        self.ignore_value = head.ignore_value
        self.stride, self.start = head.strides[0], head.start
        if mode == "rarefy":
            (name,) = head.levels
            net = nn.Sequential(model.backbone.sequential(name), head.score[name])
            self.dense: Callable[[torch.Tensor], torch.Tensor] = rarefy(net)
        else:
            self.dense = lambda images: shift_and_stitch(
                lambda x: head.scores(model.backbone(x)), images, self.stride
            )

    def forward(
        self, features: Mapping[str, torch.Tensor], targets: Optional[torch.Tensor] = None
    ) -> Tuple[torch.Tensor, Dict[str, torch.Tensor]]:
        """Images (N, 3, H, W) -> scores (N, K, H, W)."""
        images = features[IMAGE_FEATURE]
        height, width = images.shape[-2:]
        # In front, as many zeros as the shifts cut off and as the first unit is inside the image.
        # Receptive fields have an even size, so their centres are half a pixel off.
        first = math.ceil(self.start)
        front = max(first, 0) + self.stride
        scores = self.dense(F.pad(images, (front, self.stride) * 2))
        skip = front - first
        return scores[..., skip : skip + height, skip : skip + width], {}


def dense_segmentor(model: SemanticSegmentor, mode: str) -> SemanticSegmentor:
    """A model for inference that scores each pixel by itself, with the weights of a trained one.

    Args:
        model: SemanticSegmentor with an :class:`FCNHead` without skips.
        mode: "shift_and_stitch" (any backbone; stride squared runs an image) or "rarefy" (VGG; one
            run, but all features at full resolution: for fc6 of 4096 channels, 16 KB a pixel).

    Returns:
        A SemanticSegmentor that shares all parameters with ``model``.  The two modes agree where
        the receptive field lies inside the image.

    Raises:
        ValueError: for an unknown mode, models that do not fit it, and models in training mode.
    """
    _check(model, mode)
    if model.training:
        raise ValueError("dense inference is for trained models: call model.eval() first")
    dense = SemanticSegmentor(
        backbone=_WholeImage(model.backbone),
        sem_seg_head=_DenseHead(model, mode),
        pixel_mean=(0.0,),
        pixel_std=(1.0,),
    )
    dense.pixel_mean, dense.pixel_std = model.pixel_mean, model.pixel_std
    return dense.eval()


def _check(model: SemanticSegmentor, mode: str) -> None:
    head = model.sem_seg_head
    if mode not in _MODES[1:]:
        raise ValueError(f"dense inference: unknown mode '{mode}', not one of {_MODES[1:]}")
    if not isinstance(head, FCNHead) or len(head.levels) != 1:
        raise ValueError(
            "dense inference needs an FCNHead without skips (MODEL.SEM_SEG_HEAD.FCN.STRIDE as "
            "coarse as the backbone's features): a net with skips has no single stride"
        )
    if mode == "rarefy" and not hasattr(model.backbone, "sequential"):
        raise ValueError(
            f"DENSE_INFERENCE 'rarefy' needs a backbone that is a sequence of layers, as VGG16FCN; "
            f"use 'shift_and_stitch' for {type(model.backbone).__name__}"
        )


@META_ARCH_REGISTRY.register()
class DenseSemanticSegmentor(SemanticSegmentor):
    """SemanticSegmentor whose inference is dense, by ``MODEL.SEM_SEG_HEAD.FCN.DENSE_INFERENCE``.

    Training and checkpoints are those of SemanticSegmentor.
    """

    @configurable
    def __init__(self, *, dense_inference: str, **kwargs: Any) -> None:
        """
        Args:
            dense_inference: "none", "shift_and_stitch" or "rarefy".
            kwargs: as in SemanticSegmentor.

        Raises:
            ValueError: for an unknown mode, or one that the model does not allow.
        """
        super().__init__(**kwargs)
        if dense_inference not in _MODES:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.FCN.DENSE_INFERENCE '{dense_inference}': must be one of "
                f"{', '.join(_MODES)}"
            )
        self.dense_inference = dense_inference
        if dense_inference != "none":
            _check(self, dense_inference)  # now, not after the training

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        mode = semantic_config(cfg).MODEL.SEM_SEG_HEAD.FCN.DENSE_INFERENCE
        return {**super().from_config(cfg), "dense_inference": mode}

    def forward(self, batched_inputs: List[Dict[str, Any]]) -> Any:
        """As in SemanticSegmentor."""
        if self.training or self.dense_inference == "none":
            return super().forward(batched_inputs)
        return dense_segmentor(self, self.dense_inference)(batched_inputs)
