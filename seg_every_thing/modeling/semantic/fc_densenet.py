"""FC-DenseNet, "The One Hundred Layers Tiramisu" (arXiv 1611.09326), as a backbone and a head.

Dense blocks on a way down and a way up, with skips that join equal resolutions by concatenation.
On the way up only the maps that a block has made anew go on; what it was given stays behind, or the
number of maps would explode (section 3.2).
"""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, SEM_SEG_HEADS_REGISTRY, Backbone
from torch import nn
from torch.nn import functional as F

from ...config_semantic import fc_densenet_defaults
from .dense_blocks import DenseBlock, NormReluConv, he_uniform_

_FEATURE = "fcdn"


class FCDenseNet(Backbone):
    """FC-DenseNet up to its last stack of maps: one feature, "fcdn", of the size of the image.

    Images may have any size of at least ``2 ** len(down)`` pixels a side.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        stem_channels: int,
        growth_rate: int,
        down: Sequence[int],
        bottleneck: int,
        up: Sequence[int],
        dropout: float = 0.2,
        skips: bool = True,
        bn_stats: str = "batch",
    ) -> None:
        """
        Args:
            in_channels: channels of the image.
            stem_channels: maps of the first 3x3 convolution.
            growth_rate: new maps of each layer.
            down: layers of each dense block on the way down; a pooling follows each block.
            bottleneck: layers of the block at the lowest resolution.
            up: layers of each dense block on the way up, coarse to fine.
            dropout: rate, in [0, 1).
            skips: concatenate the maps of the way down on the way up.  Without, maps on the way up
                are still cut to the sizes of the way down.
            bn_stats: batch normalisation at test time, "batch" or "running".

        Raises:
            ValueError: for sizes that make no network; the message names the config key.
        """
        super().__init__()
        _check_sizes(stem_channels, growth_rate, down, bottleneck, up, dropout)
        self.skips = skips
        self.stem = nn.Conv2d(in_channels, stem_channels, 3, padding=1)

        channels = stem_channels
        skip_channels: List[int] = []
        self.down_blocks, self.transitions_down = nn.ModuleList(), nn.ModuleList()
        for num_layers in down:
            block = DenseBlock(channels, num_layers, growth_rate, dropout, bn_stats)
            channels = block.out_channels
            skip_channels.append(channels)
            self.down_blocks.append(block)
            transition = NormReluConv(channels, channels, 1, dropout, bn_stats)
            transition.append(nn.MaxPool2d(2))
            self.transitions_down.append(transition)

        self.bottleneck = DenseBlock(channels, bottleneck, growth_rate, dropout, bn_stats)

        below = self.bottleneck
        self.transitions_up, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        for num_layers, skip in zip(up, reversed(skip_channels)):
            new = below.new_channels
            self.transitions_up.append(nn.ConvTranspose2d(new, new, 3, stride=2))
            below = DenseBlock(new + skip * skips, num_layers, growth_rate, dropout, bn_stats)
            self.up_blocks.append(below)
        he_uniform_(self)
        self._out_features = [_FEATURE]
        self._out_feature_channels = {_FEATURE: below.out_channels}
        self._out_feature_strides = {_FEATURE: 1}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> Dict[str, Any]:
        node = cfg.MODEL.get("FC_DENSENET") or fc_densenet_defaults()
        return {
            "in_channels": input_shape.channels,
            "stem_channels": node.STEM_CHANNELS,
            "growth_rate": node.GROWTH_RATE,
            "down": node.DOWN,
            "bottleneck": node.BOTTLENECK,
            "up": node.UP,
            "dropout": node.DROPOUT,
            "skips": node.SKIPS,
            "bn_stats": node.BN_STATS,
        }

    def forward(self, x: torch.Tensor) -> Dict[str, torch.Tensor]:
        """
        Args:
            x: images, (N, C, H, W), normalised.

        Returns:
            "fcdn": (N, D, H, W).

        Raises:
            ValueError: when the images are too small for the poolings.
        """
        self._check_image_size(x)
        maps = self.stem(x)
        before_pooling = []
        for block, transition in zip(self.down_blocks, self.transitions_down):
            maps = block(maps)
            before_pooling.append(maps)
            maps = transition(maps)
        maps = self.bottleneck(maps)
        new = self.bottleneck.new_maps(maps)
        for transition, block in zip(self.transitions_up, self.up_blocks):
            skip = before_pooling.pop()
            new = _centre_crop(transition(new), skip.shape[-2:])
            maps = block(torch.cat((new, skip), dim=1) if self.skips else new)
            new = block.new_maps(maps)
        return {_FEATURE: maps}

    def _check_image_size(self, x: torch.Tensor) -> None:
        images, _, height, width = x.shape
        poolings = len(self.down_blocks)
        values = images * (height >> poolings) * (width >> poolings)
        if values == 0:
            raise ValueError(
                f"FC-DenseNet with {poolings} poolings needs images of at least {2**poolings} "
                f"pixels a side, got {height}x{width}: use larger images or fewer DOWN blocks"
            )
        if values == 1 and self.bottleneck.layers[0][0].uses_batch:
            raise ValueError(
                f"one image of {height}x{width} leaves a single pixel behind {poolings} poolings, "
                f"which has no variance for batch normalisation: use larger images, more images at "
                f"a time, or at test time BN_STATS 'running'"
            )


def _check_sizes(
    stem: int, growth: int, down: Sequence[int], bottleneck: int, up: Sequence[int], dropout: float
) -> None:
    if len(down) != len(up):
        raise ValueError(
            f"MODEL.FC_DENSENET.DOWN {tuple(down)} and UP {tuple(up)} must have equally many blocks"
        )
    if not down or min(stem, growth, bottleneck, *down, *up) < 1:
        raise ValueError(
            f"MODEL.FC_DENSENET: STEM_CHANNELS, GROWTH_RATE and the layers of each block must be "
            f"1 or more, got {stem}, {growth}, {tuple(down)}, {bottleneck}, {tuple(up)}"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"MODEL.FC_DENSENET.DROPOUT is {dropout}, expected 0 <= DROPOUT < 1")


def _centre_crop(x: torch.Tensor, size: Tuple[int, int]) -> torch.Tensor:
    """The middle of (N, C, H, W) in a smaller size (height, width)."""
    top, left = (x.shape[-2] - size[0]) // 2, (x.shape[-1] - size[1]) // 2
    return x[..., top : top + size[0], left : left + size[1]]


@BACKBONE_REGISTRY.register()
def build_fc_densenet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FCDenseNet:
    """FC-DenseNet as ``MODEL.FC_DENSENET`` describes it; its one feature is "fcdn", stride 1."""
    return FCDenseNet(cfg, input_shape)


@SEM_SEG_HEADS_REGISTRY.register()
class FCDenseNetHead(nn.Module):
    """A 1x1 convolution to the classes, and the mean cross-entropy of pixels that are not void."""

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        in_channels: int,
        num_classes: int,
        ignore_value: int = 255,
        loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            in_feature: name of the feature to classify, of stride 1.
            in_channels: its channels.
            num_classes: number of classes, void not counted.
            ignore_value: label of void pixels.
            loss_weight: factor on the loss.
        """
        super().__init__()
        self.in_feature = in_feature
        self.ignore_value = ignore_value  # SemanticSegmentor pads labels with it
        self.loss_weight = loss_weight
        self.score = nn.Conv2d(in_channels, num_classes, 1)
        he_uniform_(self)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Dict[str, ShapeSpec]) -> Dict[str, Any]:
        head = cfg.MODEL.SEM_SEG_HEAD
        names = [name for name in head.IN_FEATURES if name in input_shape]
        if len(names) != 1 or input_shape[names[0]].stride != 1:
            raise ValueError(
                f"FCDenseNetHead needs one feature of stride 1, but MODEL.SEM_SEG_HEAD.IN_FEATURES "
                f"is {list(head.IN_FEATURES)} and the backbone has "
                f"{ {name: shape.stride for name, shape in input_shape.items()} } (name: stride)"
            )
        return {
            "in_feature": names[0],
            "in_channels": input_shape[names[0]].channels,
            "num_classes": head.NUM_CLASSES,
            "ignore_value": head.IGNORE_VALUE,
            "loss_weight": head.LOSS_WEIGHT,
        }

    def forward(
        self, features: Dict[str, torch.Tensor], targets: Optional[torch.Tensor] = None
    ) -> Tuple[Optional[torch.Tensor], Dict[str, torch.Tensor]]:
        """
        Args:
            features: maps by name, (N, C, H, W).
            targets: labels, (N, H, W) int64; only read in training.

        Returns:
            In training None and the loss, else the logits (N, classes, H, W) and no loss.
        """
        logits = self.score(features[self.in_feature])
        if self.training:
            return None, self.losses(logits, targets)
        return logits, {}

    def losses(
        self, logits: torch.Tensor, targets: Optional[torch.Tensor]
    ) -> Dict[str, torch.Tensor]:
        """Mean cross-entropy over the labelled pixels; zero when all are void.

        Raises:
            ValueError: without labels.
        """
        if targets is None:
            raise ValueError("training needs labels: the data set gives no 'sem_seg'")
        total = F.cross_entropy(
            logits.float(), targets, ignore_index=self.ignore_value, reduction="sum"
        )
        labelled = (targets != self.ignore_value).sum().clamp(min=1)
        return {"loss_sem_seg": self.loss_weight * total / labelled}
