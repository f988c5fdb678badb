"""The head of fully convolutional networks: scores, upsampling and skips (Long, Shelhamer, Darrell,
"Fully Convolutional Networks for Semantic Segmentation", CVPR 2015)."""

import logging
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from torch import nn
from torch.nn import functional as F

from ...config_semantic import semantic_config
from .bilinear import BilinearUpsample
from .geometry import IMAGE, Grid, crop_offset
from .loss_sampling import check_probability, sample_targets
from .vgg import IMAGE_FEATURE, feature_grids

logger = logging.getLogger(__name__)

_UPSAMPLE = ("paper", "fixed", "learned")
_LOSS_NORM = ("sum", "valid", "batch")
_SCORE_INIT = ("zero", "msra")


@SEM_SEG_HEADS_REGISTRY.register()
class FCNHead(nn.Module):
    """FCN-32s, 16s, 8s on any backbone that has features of strides 32, 16, 8.

    The coarsest feature is scored by a 1x1 convolution.  Towards ``stride``, the scores are
    upsampled twice at a time, and the scores of the feature of that stride are added (section 4.2
    of the paper).  A last upsampling makes them as large as the image.

    Its parameters are called ``score.<feature>`` and ``upsample.<from>to<to>`` (strides), so that a
    checkpoint of a coarser net gives a finer one all that both have.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        *,
        num_classes: int,
        stride: int = 32,
        ignore_value: int = 255,
        loss_weight: float = 1.0,
        skip_scales: Sequence[float] = (),
        upsample: str = "paper",
        upsample_dense: bool = False,
        score_init: str = "zero",
        loss_norm: str = "valid",
        loss_sample_p: float = 1.0,
        loss_sample_cell: int = 0,
        grids: Optional[Mapping[str, Grid]] = None,
    ) -> None:
        """
        Args:
            input_shape: channels and strides of the features; one a stride.
            num_classes: number of classes.
            stride: of the finest feature to score.
            ignore_value: target of void pixels.
            loss_weight: factor on the loss.
            skip_scales: constant factor on the features of each skip, coarse to fine; () = 1.
            upsample: "fixed" bilinear, "learned" from bilinear, or "paper": only the last is fixed.
            upsample_dense: upsampling kernels between all pairs of classes instead of one a class.
            score_init: "zero" or "msra".
            loss_norm: "sum", "valid" (mean over the pixels that are not void) or "batch" (sum over
                the pixels, mean over the images).
            loss_sample_p: probability of each cell of the loss to count.
            loss_sample_cell: side of a cell in pixels; 0 = ``stride``.
            grids: where the units of each feature are, if the maps are to be cropped onto each
                other and the image; the features then include the image.  None: unit i covers
                pixels from ``stride * i`` on, and maps start at the same pixel.

        Raises:
            ValueError: for unknown options, and features that do not make the chain of strides.
        """
        super().__init__()
        _check_choice("UPSAMPLE", upsample, _UPSAMPLE)
        _check_choice("LOSS_NORM", loss_norm, _LOSS_NORM)
        _check_choice("SCORE_INIT", score_init, _SCORE_INIT)
        check_probability(loss_sample_p)
        self.levels = _chain(input_shape, stride)
        self.strides = [_stride(input_shape[name]) for name in self.levels]
        if skip_scales and len(skip_scales) != len(self.levels) - 1:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.FCN.SKIP_SCALES {tuple(skip_scales)}: with STRIDE {stride} "
                f"there are {len(self.levels) - 1} skips ({', '.join(self.levels[1:])})"
            )
        self.scales = [1.0, *(skip_scales or [1.0] * (len(self.levels) - 1))]
        self.ignore_value = ignore_value
        self.loss_weight = loss_weight
        self.loss_norm = loss_norm
        self.loss_sample_p = loss_sample_p
        self.loss_sample_cell = loss_sample_cell or stride

        self.score = nn.ModuleDict()
        for name in self.levels:
            self.score[name] = Conv2d(input_shape[name].channels, num_classes, 1)
            if score_init == "msra":
                weight_init.c2_msra_fill(self.score[name])
            else:
                nn.init.zeros_(self.score[name].weight)
                nn.init.zeros_(self.score[name].bias)
        self.upsample = nn.ModuleDict()
        for coarse, fine in zip(self.strides, [*self.strides[1:], 1]):
            self.upsample[f"{coarse}to{fine}"] = BilinearUpsample(
                num_classes,
                coarse // fine,
                learned=upsample == "learned" or (upsample == "paper" and fine != 1),
                dense=upsample_dense,
                same=grids is None,
            )
        self._offsets = None if grids is None else self._crop_offsets(grids)
        first = self.levels[0]
        self.start = (self.strides[0] - 1) / 2 if grids is None else grids[first].start

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> Dict[str, Any]:
        cfg = semantic_config(cfg)
        head, fcn = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.SEM_SEG_HEAD.FCN
        if fcn.DENSE_INFERENCE != "none" and cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
            raise ValueError(
                "MODEL.SEM_SEG_HEAD.FCN.DENSE_INFERENCE needs MODEL.META_ARCHITECTURE "
                "'DenseSemanticSegmentor'"
            )
        grids = None
        if IMAGE_FEATURE in input_shape:
            grids = feature_grids(cfg.MODEL.VGG.CONV1_PAD, cfg.MODEL.VGG.FC6_KERNEL)
        return {
            "input_shape": _named_features(input_shape, head.IN_FEATURES),
            "num_classes": head.NUM_CLASSES,
            "stride": fcn.STRIDE,
            "ignore_value": head.IGNORE_VALUE,
            "loss_weight": head.LOSS_WEIGHT,
            "skip_scales": fcn.SKIP_SCALES,
            "upsample": fcn.UPSAMPLE,
            "upsample_dense": fcn.UPSAMPLE_DENSE,
            "score_init": fcn.SCORE_INIT,
            "loss_norm": fcn.LOSS_NORM,
            "loss_sample_p": fcn.LOSS_SAMPLE_P,
            "loss_sample_cell": fcn.LOSS_SAMPLE_CELL,
            "grids": grids,
        }

    def _crop_offsets(self, grids: Mapping[str, Grid]) -> List[int]:
        """Rows to drop from the scores of each skip and, last, from the final map."""
        offsets, grid = [], grids[self.levels[0]]
        for name, module in zip([*self.levels[1:], ""], self.upsample.values()):
            factor = module.stride[0]
            grid = grid.upsampled(2 * factor, factor, 0)
            if name:
                offsets.append(crop_offset(grids[name], grid))
        return [*offsets, crop_offset(grid, IMAGE)]

    def forward(
        self, features: Mapping[str, torch.Tensor], targets: Optional[torch.Tensor] = None
    ) -> Tuple[Optional[torch.Tensor], Dict[str, torch.Tensor]]:
        """
        Args:
            features: maps (N, C', H', W') by name.
            targets: (N, H, W) class indices; used in training only.

        Returns:
            In training ``(None, {"loss_sem_seg": ...})``, else the logits (N, K, H, W), of the
            image's size as the backbone saw it or a little larger, and ``{}``.
        """
        logits = self.layers(features)
        if not self.training:
            return logits, {}
        if targets is None:
            raise ValueError("FCNHead needs targets in training: no 'sem_seg' in the batch")
        return None, self.losses(logits, targets)

    def scores(self, features: Mapping[str, torch.Tensor], level: int = 0) -> torch.Tensor:
        """Scores (N, K, H', W') of one level, 0 being the coarsest."""
        name, scale = self.levels[level], self.scales[level]
        feature = features[name]
        return self.score[name](feature if scale == 1 else feature * scale)

    def layers(self, features: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits (N, K, H, W) of a dict of features; nothing is rescaled to an image size."""
        x = self.scores(features)
        for level, up in enumerate(self.upsample.values(), start=1):
            x = up(x)
            if level == len(self.levels):
                break
            skip = self.scores(features, level)
            if self._offsets is None:
                x = self._trimmed(x, skip)
            else:
                skip = _crop(skip, self._offsets[level - 1], x.shape[-2:])
            x = x + skip
        if self._offsets is None:
            return x
        return _crop(x, self._offsets[-1], features[IMAGE_FEATURE].shape[-2:])

    def _trimmed(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Upsampled scores without the rest that rounding up the sizes of features leaves."""
        if x.shape[-2] < skip.shape[-2] or x.shape[-1] < skip.shape[-1]:
            raise ValueError(
                f"FCNHead: the coarser scores, upsampled to {tuple(x.shape[-2:])}, do not cover a "
                f"feature of {tuple(skip.shape[-2:])}: the backbone must round sizes up, or have a "
                f"size_divisibility of {self.strides[0]}"
            )
        return _crop(x, 0, skip.shape[-2:])

    def losses(self, logits: torch.Tensor, targets: torch.Tensor) -> Dict[str, torch.Tensor]:
        """The cross-entropy of logits (N, K, H', W'), at least as large as the targets (N, H, W).

        Cells that the sampling drops count as void.  A batch without a valid pixel has loss 0.
        """
        logits = _crop(logits.float(), 0, targets.shape[-2:])
        targets = sample_targets(
            targets, self.loss_sample_p, self.loss_sample_cell, self.ignore_value
        )
        loss = F.cross_entropy(logits, targets, reduction="sum", ignore_index=self.ignore_value)
        if self.loss_norm == "valid":
            loss = loss / (targets != self.ignore_value).sum().clamp(min=1)
        elif self.loss_norm == "batch":
            loss = loss / len(targets)
        return {"loss_sem_seg": loss * self.loss_weight}


def _crop(x: torch.Tensor, offset: int, size: Sequence[int]) -> torch.Tensor:
    return x[..., offset : offset + size[0], offset : offset + size[1]]


def _stride(shape: ShapeSpec) -> int:
    assert shape.stride is not None
    return shape.stride


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.FCN.{key} '{value}': must be one of {', '.join(choices)}"
        )


def _named_features(
    input_shape: Mapping[str, ShapeSpec], names: Sequence[str]
) -> Dict[str, ShapeSpec]:
    """The features that IN_FEATURES names; all of them where it names none of this backbone."""
    given = {name: shape for name, shape in input_shape.items() if name != IMAGE_FEATURE}
    missing = [name for name in names if name not in given]
    if len(missing) == len(names):
        # detectron2's default is the levels of an FPN.
        logger.info("MODEL.SEM_SEG_HEAD.IN_FEATURES: all of the backbone's (%s)", ", ".join(given))
        return given
    if missing:
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.IN_FEATURES: the backbone has no {', '.join(missing)}, only "
            f"{', '.join(given)}"
        )
    return {name: given[name] for name in given if name in names}


def _chain(input_shape: Mapping[str, ShapeSpec], stride: int) -> List[str]:
    """Names of the features from the coarsest to ``stride``, each half the stride of the last."""
    by_stride: Dict[int, str] = {}
    for name, shape in input_shape.items():
        if _stride(shape) >= stride and _stride(shape) in by_stride:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.IN_FEATURES: '{by_stride[_stride(shape)]}' and '{name}' both "
                f"have the stride {shape.stride}; name one of them"
            )
        by_stride[_stride(shape)] = name
    wanted = [max(by_stride, default=0)]
    while wanted[-1] > max(stride, 1):
        wanted.append(wanted[-1] // 2)
    if wanted[-1] != stride or stride < 2 or not set(wanted) <= set(by_stride):
        have = ", ".join(f"{name} {s}" for s, name in sorted(by_stride.items(), reverse=True))
        raise ValueError(
            f"MODEL.SEM_SEG_HEAD.FCN.STRIDE {stride} needs features of every stride from the "
            f"coarsest down, each half the one before; IN_FEATURES gives: {have or 'none'}"
        )
    return [by_stride[s] for s in wanted]
