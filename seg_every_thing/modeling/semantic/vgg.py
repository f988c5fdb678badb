"""VGG16 as a fully convolutional backbone: fc6 and fc7 are convolutions (FCN paper, 3.1)."""

import re
from collections import OrderedDict
from typing import Any, Dict, List, Optional, Sequence, Tuple

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn

from ...config_semantic import semantic_config
from .geometry import IMAGE, Grid
from .vgg_weights import load_vgg_weights

_FEATURES = ("pool1", "pool2", "pool3", "pool4", "pool5", "fc6", "fc7")
IMAGE_FEATURE = "image"


class VGG16FCN(Backbone):
    """VGG16 with its fully connected layers turned into convolutions.

    The names of the layers are those of the original: conv1_1 ... conv5_3, fc6, fc7.  Features are
    the outputs of the pooling layers and of fc6 and fc7 (with dropout).

    With ``conv1_pad=1`` every convolution keeps the size of its input, fc6 too, and images must be
    padded to ``size_divisibility`` (detectron2 does that).  A larger value is the original
    geometry: the image gets that many zeros on each side, fc6 none, and :func:`feature_grids` says
    where the units of each feature are.  Then the image itself is among the features, under
    "image", as the head needs its size.
    """

    @configurable
    def __init__(
        self,
        *,
        out_features: Sequence[str],
        in_channels: int = 3,
        num_convs: Sequence[int] = (2, 2, 3, 3, 3),
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        fc_dim: int = 4096,
        fc6_kernel: int = 7,
        dropout: float = 0.5,
        norm: str = "",
        conv1_pad: int = 1,
        freeze_at: int = 0,
        weights: str = "",
        channel_order: str = "BGR",
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        """
        Args:
            out_features: names out of "pool1" ... "pool5", "fc6", "fc7".  Layers behind the last of
                them are not built.
            in_channels: channels of the image.
            num_convs: number of 3x3 convolutions in each of the five groups.
            channels: their channels, a group.
            fc_dim: channels of fc6 and fc7.
            fc6_kernel: kernel size of fc6, odd.
            dropout: probability behind fc6 and fc7.
            norm: normalisation after each convolution, as in ``detectron2.layers.get_norm``.
            conv1_pad: zeros around the image, see the class.
            freeze_at: freeze the first n of the groups 1 to 5, fc6 (6) and fc7 (7).
            weights: "" = random, or a file for :func:`load_vgg_weights`.
            channel_order: order of the image's channels, "BGR" or "RGB"; weights are adapted to it.
            pixel_std: what the image's channels were divided by; weights are adapted to it.

        Raises:
            ValueError: for arguments that make no VGG, and weights that do not fit.
        """
        super().__init__()
        _check(out_features, num_convs, channels, fc6_kernel, conv1_pad)
        self._padded_image = conv1_pad > 1
        self._layer_of: Dict[str, str] = {}  # feature -> the layer after which it is taken
        self._out_feature_channels: Dict[str, int] = {}
        self._out_feature_strides: Dict[str, int] = {}
        last = max(_FEATURES.index(name) for name in out_features)

        def conv(c_in: int, c_out: int, kernel: int, padding: int) -> Conv2d:
            layer = Conv2d(
                *(c_in, c_out, kernel),
                padding=padding,
                bias=not norm,
                norm=get_norm(norm, c_out),
                activation=torch.relu_,
            )
            weight_init.c2_msra_fill(layer)
            return layer

        width = in_channels
        for group in range(1, min(last, 4) + 2):
            for i in range(1, num_convs[group - 1] + 1):
                first = group == i == 1
                layer = conv(width, channels[group - 1], 3, conv1_pad if first else 1)
                self.add_module(f"conv{group}_{i}", layer)
                width = channels[group - 1]
            # Rounding up, as the original's pooling did; sizes divisible by 32 leave no rest.
            self.add_module(f"pool{group}", nn.MaxPool2d(2, ceil_mode=True))
            self._note(f"pool{group}", f"pool{group}", width, 2**group)
        for name, kernel in (("fc6", fc6_kernel), ("fc7", 1))[: max(last - 4, 0)]:
            padding = 0 if self._padded_image else (kernel - 1) // 2
            self.add_module(name, conv(width, fc_dim, kernel, padding))
            self.add_module(name.replace("fc", "drop"), nn.Dropout(dropout))
            self._note(name, name.replace("fc", "drop"), fc_dim, 32)
            width = fc_dim

        self._out_features = [name for name in _FEATURES if name in out_features]
        if self._padded_image:
            self._out_features.append(IMAGE_FEATURE)
            self._out_feature_channels[IMAGE_FEATURE] = in_channels
            self._out_feature_strides[IMAGE_FEATURE] = 1
        if weights:
            load_vgg_weights(self, weights, channel_order, pixel_std)
        self._freeze(freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> Dict[str, Any]:
        cfg = semantic_config(cfg)
        vgg = cfg.MODEL.VGG
        return {
            "out_features": vgg.OUT_FEATURES,
            "in_channels": input_shape.channels,
            "num_convs": vgg.NUM_CONVS,
            "channels": vgg.CHANNELS,
            "fc_dim": vgg.FC_DIM,
            "fc6_kernel": vgg.FC6_KERNEL,
            "dropout": vgg.DROPOUT,
            "norm": vgg.NORM,
            "conv1_pad": vgg.CONV1_PAD,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "weights": vgg.WEIGHTS,
            "channel_order": cfg.INPUT.FORMAT,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def _note(self, feature: str, layer: str, channels: int, stride: int) -> None:
        self._layer_of[feature] = layer
        self._out_feature_channels[feature] = channels
        self._out_feature_strides[feature] = stride

    def _freeze(self, freeze_at: int) -> None:
        for name, layer in list(self.named_children()):
            match = re.match(r"(?:conv|fc)(\d)", name)
            if match and int(match[1]) <= freeze_at:
                for parameter in layer.parameters():
                    parameter.requires_grad_(False)
                setattr(self, name, FrozenBatchNorm2d.convert_frozen_batchnorm(layer))

    def forward(self, x: torch.Tensor) -> Dict[str, torch.Tensor]:
        """(N, C, H, W) images -> one (N, C', H', W') map for each name of ``out_features``."""
        features = {IMAGE_FEATURE: x}
        wanted = {self._layer_of[f]: f for f in self._out_features if f != IMAGE_FEATURE}
        for name, layer in self.named_children():
            x = layer(x)
            if name in wanted:
                features[wanted[name]] = x
        return {name: features[name] for name in self._out_features}

    def sequential(self, feature: str) -> nn.Sequential:
        """The layers from the image to a feature, sharing their parameters with the backbone."""
        layers: List[Tuple[str, nn.Module]] = []
        for name, layer in self.named_children():
            layers.append((name, layer))
            if name == self._layer_of.get(feature):
                return nn.Sequential(OrderedDict(layers))
        raise ValueError(f"the backbone has no feature '{feature}', only {self._out_features}")

    @property
    def size_divisibility(self) -> int:
        """32, or 0 in the original geometry, where images of any size come out by crops."""
        return 0 if self._padded_image else 32


@BACKBONE_REGISTRY.register()
def build_vgg16_fcn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> VGG16FCN:
    """The VGG of ``MODEL.VGG``; ``MODEL.BACKBONE.FREEZE_AT`` freezes its first groups."""
    return VGG16FCN(cfg, input_shape)


def feature_grids(conv1_pad: int = 100, fc6_kernel: int = 7) -> Dict[str, Grid]:
    """Where the units of each feature are in the original geometry (unpadded fc6).

    Args:
        conv1_pad: zeros around the image in conv1_1.
        fc6_kernel: kernel size of fc6.
    """
    grid = IMAGE.after(3, 1, conv1_pad)
    grids = {IMAGE_FEATURE: IMAGE}
    for group in range(1, 6):
        grid = grid.after(2, 2, 0)
        grids[f"pool{group}"] = grid
    grids["fc6"] = grids["fc7"] = grid.after(fc6_kernel, 1, 0)
    return grids


def _check(
    out_features: Sequence[str],
    num_convs: Sequence[int],
    channels: Sequence[int],
    fc6_kernel: int,
    conv1_pad: int,
) -> None:
    problem: Optional[str] = None
    if not out_features or not set(out_features) <= set(_FEATURES):
        problem = f"OUT_FEATURES {tuple(out_features)}: name some of {', '.join(_FEATURES)}"
    elif len(num_convs) != 5 or min(num_convs) < 1:
        problem = f"NUM_CONVS {tuple(num_convs)}: give five numbers, each at least 1"
    elif len(channels) != 5 or min(channels) < 1:
        problem = f"CHANNELS {tuple(channels)}: give five numbers, each at least 1"
    elif fc6_kernel < 1 or fc6_kernel % 2 == 0:
        problem = f"FC6_KERNEL {fc6_kernel}: must be odd"
    elif conv1_pad < 1:
        problem = f"CONV1_PAD {conv1_pad}: must be 1 (same size) or more (100 in the original)"
    if problem:
        raise ValueError(f"MODEL.VGG.{problem}")
