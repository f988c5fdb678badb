"""A deep trunk for mask heads: the hourglass of Deep-MARC.

Birodkar et al., "The surprising impact of mask-head architecture on novel class segmentation"
(2021): masks of classes that never had one gain far more from a deep mask head than others do.
"""

import math
from typing import Any, Callable, Dict, List, Sequence, Tuple, Union

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ConvTranspose2d, ShapeSpec, get_norm
from fvcore.nn import weight_init
from torch import nn
from torch.nn import functional

Norm = Union[str, Callable[[int], nn.Module]]

HOURGLASSES: Dict[int, Tuple[Tuple[int, ...], Tuple[int, ...]]] = {
    # convolutions on the longest way -> channels, and residual blocks, of each scale
    10: ((128, 128), (1, 1)),
    20: ((128, 128, 192), (1, 2, 2)),
    52: ((128, 128, 192, 192, 192, 256), (2, 2, 2, 2, 2, 4)),
}
_STEM_CHANNELS = 64


def _conv(inputs: int, outputs: int, size: int, norm: Norm, *, stride: int = 1) -> Conv2d:
    """A convolution that keeps the size, divided by ``stride`` and rounded up, and its norm."""
    conv = Conv2d(
        *(inputs, outputs, size),
        stride=stride,
        padding=size // 2,
        bias=not norm,
        norm=get_norm(norm, outputs),
    )
    weight_init.c2_msra_fill(conv)
    return conv


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a way around them."""

    def __init__(self, inputs: int, outputs: int, norm: Norm, *, stride: int = 1) -> None:
        """
        Args:
            inputs: channels.
            outputs: channels.
            norm: see :class:`HourglassTrunk`.
            stride: of the first convolution.
        """
        super().__init__()
        self.conv1 = _conv(inputs, outputs, 3, norm, stride=stride)
        self.conv2 = _conv(outputs, outputs, 3, norm)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, 1, norm, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, inputs, H, W) -> (R, outputs, H', W'), H' and W' being H / stride, rounded up."""
        return functional.relu(self.conv2(functional.relu(self.conv1(x))) + self.shortcut(x))


class ResizeConv(Conv2d):
    """A 1x1 convolution, then bilinear resizing to twice the side.

    In place of a deconvolution of stride 2, which is four 1x1 convolutions, one for each sub-pixel:
    where filters are predicted for classes that had no mask, those four come to disagree, and masks
    get holes at their period.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        """
        Args:
            inputs: channels.
            outputs: channels.
            bias: whether the convolution has one.
        """
        super().__init__(inputs, outputs, 1, bias=bias)
        weight_init.c2_msra_fill(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, inputs, H, W) -> (R, outputs, 2H, 2W)."""
        # Resizing and a 1x1 convolution commute, and this order takes a quarter of the work.
        return functional.interpolate(
            super().forward(x), scale_factor=2.0, mode="bilinear", align_corners=False
        )


def _blocks(widths: Sequence[int], norm: Norm, *, stride: int = 1) -> nn.Sequential:
    """Residual blocks from each width to the next; the first one has the stride."""
    pairs = zip(widths, widths[1:])
    return nn.Sequential(
        *(
            ResidualBlock(a, b, norm, stride=stride if i == 0 else 1)
            for i, (a, b) in enumerate(pairs)
        )
    )


class Hourglass(nn.Module):
    """One scale of an hourglass: blocks as they are, plus what comes back from half the size."""

    def __init__(self, channels: Sequence[int], blocks: Sequence[int], norm: Norm) -> None:
        """
        Args:
            channels: of this scale and of those below it, at least 2.
            blocks: numbers of residual blocks of the same scales.
            norm: see :class:`HourglassTrunk`.
        """
        super().__init__()
        here, below, count = channels[0], channels[1], blocks[0]
        self.keep = _blocks([here] * (count + 1), norm)
        self.down = _blocks([here] + [below] * count, norm, stride=2)
        self.inner: nn.Module
        if len(channels) > 2:
            self.inner = Hourglass(channels[1:], blocks[1:], norm)
        else:
            self.inner = _blocks([below] * (blocks[1] + 1), norm)
        self.up = _blocks([below] * count + [here], norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) -> the same shape, C being the first of the channels."""
        coarse = self.up(self.inner(self.down(x)))
        # To this size rather than by a factor of 2: 7 comes back from 4.
        return self.keep(x) + functional.interpolate(coarse, size=x.shape[-2:], mode="nearest")


class HourglassTrunk(nn.Module):
    """An hourglass and an upsampling layer, in the place of convolutions and a deconvolution.

    Deep-MARC normalises with batch statistics over all devices.  The default here is group
    normalisation: the batch of a mask head is its RoIs, of which a step may have one or none, and
    the ranks of a job different numbers.  docs/decisions/hourglass-norm.md
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        out_channels: int,
        depth: int = 52,
        norm: Norm = "GN",
        upsample: str = "deconv",
    ) -> None:
        """
        Args:
            input_shape: of the pooled RoI features; their side is 14, 28 or 32, or any other.
            out_channels: of the result.
            depth: 10, 20 or 52 convolutions on the longest way.
            norm: as for :func:`detectron2.layers.get_norm`; "" = none.
            upsample: "deconv", or "resize" (:class:`ResizeConv`).

        Raises:
            ValueError: for another depth.
        """
        super().__init__()
        if depth not in HOURGLASSES:
            raise ValueError(
                f"MODEL.ROI_MASK_HEAD.HOURGLASS_DEPTH {depth} is not one of "
                f"{', '.join(map(str, HOURGLASSES))}"
            )
        if norm == "GN":
            norm = _group_norm
        channels, blocks = HOURGLASSES[depth]
        self.stem = nn.Sequential(
            _conv(input_shape.channels, _STEM_CHANNELS, 3, norm),
            nn.ReLU(),
            ResidualBlock(_STEM_CHANNELS, channels[0], norm),
        )
        self.hourglass = Hourglass(channels, blocks, norm)
        self.last = nn.Sequential(_conv(channels[0], channels[0], 3, norm), nn.ReLU())
        upsampling: List[nn.Module]
        if upsample == "resize":
            upsampling = [ResizeConv(channels[0], out_channels, bias=not norm), nn.ReLU()]
        else:
            deconv = ConvTranspose2d(channels[0], out_channels, 2, stride=2, bias=not norm)
            weight_init.c2_msra_fill(deconv)
            upsampling = [deconv, nn.ReLU()]
        if norm:
            upsampling.insert(1, get_norm(norm, out_channels))
        self.upsample = nn.Sequential(*upsampling)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> Dict[str, Any]:
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            "input_shape": input_shape,
            "out_channels": head.CONV_DIM,
            "depth": head.HOURGLASS_DEPTH,
            # "", the default of the trunk of convolutions, is no choice at this depth.
            "norm": head.NORM or "GN",
            "upsample": head.UPSAMPLE,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(R, C, S, S) RoI features -> (R, out_channels, 2S, 2S); R may be 0."""
        return self.upsample(self.last(self.hourglass(self.stem(x))))


def _group_norm(channels: int) -> nn.Module:
    """At most 32 groups, as detectron2's "GN", and fewer where those do not divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)
