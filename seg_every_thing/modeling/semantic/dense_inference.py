"""Scores at every pixel without upsampling: shift-and-stitch, and filter rarefaction, which is the
same (FCN paper, section 3.2).

A net of output stride f scores every f-th position.  Shift-and-stitch runs it on all f x f shifts
of the image and interlaces the results.  Rarefaction sets each stride to 1 and spreads the filters
behind it (the "a trous" trick), and computes nothing twice.  Both work on any net;
``dense_segmentor`` applies them to a detectron2 model.
"""

import copy
import math
from typing import Any, Callable, List, Sequence, Tuple

import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn
from torch.nn import functional as F

# Layers that treat every position alike, so that spreading them changes nothing.
_POINTWISE = (
    *(nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Identity),
    *(nn.Dropout, nn.Dropout2d, nn.BatchNorm2d, FrozenBatchNorm2d),
)

Score = Callable[[torch.Tensor], torch.Tensor]


def shift_and_stitch(net: Score, images: torch.Tensor, stride: int) -> torch.Tensor:
    """Run a net on all shifts of the images up to its stride, and interlace the outputs.

    Args:
        net: maps (N, C, H, W) to (N, K, H', W'), every ``stride`` pixels.
        images: (N, C, H, W), at least ``stride - 1`` pixels larger than the receptive field.
        stride: the net's output stride f; f x f runs are made, with shifts 0 <= x, y < f.

    Returns:
        (N, K, H'', W''); entry (i, j) is what the net gives for its receptive field moved by (i, j)
        pixels from that of its first output.
    """
    rows = []
    for y in range(stride):
        row = [net(images[..., y:, x:]) for x in range(stride)]
        rows.append(_interlace(row, dim=-1))
    return _interlace(rows, dim=-2)


def _interlace(parts: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    """Entry i of part k becomes entry ``i * len(parts) + k``.  Later parts may be one shorter."""
    longest = parts[0].shape[dim]
    total = sum(part.shape[dim] for part in parts)
    size = list(parts[0].shape)
    size[dim] = longest * len(parts)
    out = parts[0].new_zeros(size)
    for k, part in enumerate(parts):
        rest = [slice(None)] * out.dim()
        rest[dim] = slice(k, k + len(parts) * part.shape[dim], len(parts))
        out[tuple(rest)] = part
    return out.narrow(dim, 0, total)


def rarefied_kernel(kernel: torch.Tensor, factor: int) -> torch.Tensor:
    """The filter f'[i, j] = f[i / s, j / s] where s divides i and j, else 0.

    Args:
        kernel: (..., k, k).
        factor: the stride s that was removed in front of the filter.

    Returns:
        (..., s (k - 1) + 1, s (k - 1) + 1).  A convolution with it is one with dilation s.
    """
    height, width = (factor * (size - 1) + 1 for size in kernel.shape[-2:])
    out = kernel.new_zeros((*kernel.shape[:-2], height, width))
    out[..., ::factor, ::factor] = kernel
    return out


def rarefy(net: nn.Sequential) -> nn.Sequential:
    """A net of stride 1 that computes what shift-and-stitch of the given one does.

    Strides become 1, and everything behind them is dilated.  The result shares the parameters of
    the original.  Where filters reach beyond the image, padding inside the net (and the rounding
    up of pooling layers) makes the two differ; without padding they are equal everywhere.

    Args:
        net: convolutions, pooling layers and pointwise layers in sequence, possibly nested.

    Returns:
        The new net, flat.

    Raises:
        ValueError: for a layer that cannot be converted; the message names it.
    """
    step = (1, 1)
    layers: List[nn.Module] = []
    for name, layer in _leaves(net):
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
            converted, stride = _dilated(layer, name, step)
            layers.append(converted)
            step = (step[0] * stride[0], step[1] * stride[1])
        elif isinstance(layer, _POINTWISE):
            layers.append(_tied_copy(layer))
        else:
            raise ValueError(
                f"rarefy: the layer '{name}' ({type(layer).__name__}) is neither a convolution, a "
                f"pooling layer nor pointwise; use shift_and_stitch"
            )
    return nn.Sequential(*layers).train(net.training)


def _leaves(net: nn.Sequential, prefix: str = "") -> List[Tuple[str, nn.Module]]:
    leaves = []
    for name, child in net.named_children():
        if isinstance(child, nn.Sequential):
            leaves.extend(_leaves(child, f"{prefix}{name}."))
        else:
            leaves.append((prefix + name, child))
    return leaves


def _tied_copy(layer: nn.Module) -> nn.Module:
    """A layer with the same parameters and buffers, but a geometry and a mode of its own."""
    twin = copy.copy(layer)
    twin._modules = {name: child and _tied_copy(child) for name, child in layer._modules.items()}
    return twin


def _pair(value: Any) -> Tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _times(a: Tuple[int, int], b: Tuple[int, int]) -> Tuple[int, int]:
    return a[0] * b[0], a[1] * b[1]


def _dilated(
    layer: nn.Module, name: str, step: Tuple[int, int]
) -> Tuple[nn.Module, Tuple[int, int]]:
    """A layer at stride 1 and dilated by ``step``, and the stride that it had."""
    kernel = _pair(layer.kernel_size)
    stride = _pair(kernel if layer.stride is None else layer.stride)
    if isinstance(layer, nn.Conv2d):
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise ValueError(f"rarefy: the convolution '{name}' must pad with a number of zeros")
        spread = _tied_copy(layer)
        spread.stride = (1, 1)
        spread.dilation = _times(_pair(layer.dilation), step)
        spread.padding = _times(_pair(layer.padding), step)
        return spread, stride
    padding = _times(_pair(layer.padding), step)
    if isinstance(layer, nn.MaxPool2d):
        return _DilatedMaxPool(kernel, _times(_pair(layer.dilation), step), padding), stride
    if layer.divisor_override is not None or (padding != (0, 0) and not layer.count_include_pad):
        raise ValueError(f"rarefy: the pooling layer '{name}' must divide by its kernel's area")
    return _DilatedAvgPool(kernel, step, padding), stride


class _DilatedPool(nn.Module):
    """Pooling of stride 1."""

    def __init__(
        self, kernel: Tuple[int, int], dilation: Tuple[int, int], padding: Tuple[int, int]
    ) -> None:
        super().__init__()
        self.kernel, self.dilation, self.padding = kernel, dilation, padding


class _DilatedMaxPool(_DilatedPool):
    """Max-pooling.  torch's own limits the padding to half of the undilated kernel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        rows, columns = self.padding
        x = F.pad(x, (columns, columns, rows, rows), value=-math.inf)
        return F.max_pool2d(x, self.kernel, stride=1, dilation=self.dilation)


class _DilatedAvgPool(_DilatedPool):
    """Average pooling, as a convolution of each channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        channels = x.shape[1]
        weight = x.new_full((channels, 1, *self.kernel), 1 / (self.kernel[0] * self.kernel[1]))
        return F.conv2d(x, weight, padding=self.padding, dilation=self.dilation, groups=channels)
