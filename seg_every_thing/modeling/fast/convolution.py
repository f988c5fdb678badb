"""Convolutions with their batch normalisation folded in, by Winograd's algorithm where it pays."""

from typing import List, Optional

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn import functional

_CHANNELS = 64  # fewer, or fewer pixels, and transforming the filters costs more than it saves
_PIXELS = 700


class FastConv2d(Conv2d):
    """detectron2's convolution for inference.

    Convolutions of 3x3 go through NNPACK, which PyTorch brings along: Winograd's F(6x6, 3x3) takes
    a fifth of the multiplications.  Where it is not there, or does not apply, as in the parent.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        if self.takes_nnpack(x):
            x = torch._nnpack_spatial_convolution(
                x, self.weight, self.bias, self.padding, self.stride
            )
        else:
            x = functional.conv2d(
                *(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)
            )
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is functional.relu or isinstance(self.activation, nn.ReLU):
            return x.relu_()
        return x if self.activation is None else self.activation(x)

    def takes_nnpack(self, x: torch.Tensor) -> bool:
        """Whether NNPACK can do the convolution of (N, C, H, W), and faster."""
        return (
            x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and self.kernel_size == (3, 3)
            and self.stride == self.dilation == (1, 1)
            and self.padding == (1, 1)
            and self.groups == 1
            and min(self.weight.shape[:2]) >= _CHANNELS
            and len(x) * x.shape[2] * x.shape[3] >= _PIXELS
            and torch._nnpack_available()
        )


def fold_norm(conv: nn.Conv2d, norm: nn.Module) -> None:
    """Give a convolution the weights with which it does what the normalisation after it does.

    Args:
        conv: changed in place.
        norm: of :func:`is_foldable`.
    """
    variance = norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    bias = -norm.running_mean.double()
    if conv.bias is not None:
        bias = bias + conv.bias.double()
    bias = bias * scale
    if norm.bias is not None:
        bias = bias + norm.bias.double()
    weight = conv.weight.double() * scale.view(-1, 1, 1, 1)
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)


def is_foldable(norm: Optional[nn.Module]) -> bool:
    """Whether a module normalises by statistics that stay as they are."""
    frozen = isinstance(norm, FrozenBatchNorm2d)
    kept = isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)) and norm.track_running_stats
    return frozen or kept


def speed_up_convolution(conv: nn.Conv2d) -> None:
    """Fold the norm of a convolution, and make it a :class:`FastConv2d`, in place.

    It stays the same object, as other modules hold on to it in plain lists.
    """
    norm = getattr(conv, "norm", None)
    if norm is not None and is_foldable(norm):
        fold_norm(conv, norm)
        conv.norm = None
    if type(conv) in (nn.Conv2d, Conv2d) and conv.padding_mode == "zeros":
        for name in ("norm", "activation"):
            if not hasattr(conv, name):
                setattr(conv, name, None)
        conv.__class__ = FastConv2d


def speed_up_deconvolution(deconv: nn.ConvTranspose2d) -> None:
    """Make a deconvolution whose outputs do not overlap a :class:`FastDeconv2d`, in place."""
    if (
        type(deconv) is nn.ConvTranspose2d
        and deconv.kernel_size == deconv.stride == (2, 2)
        and deconv.padding == deconv.output_padding == (0, 0)
        and deconv.groups == 1
        and deconv.dilation == (1, 1)
    ):
        deconv.__class__ = FastDeconv2d


class FastDeconv2d(nn.ConvTranspose2d):
    """Deconvolution of 2x2 with stride 2, as a convolution of 1x1 to all four sub-pixels."""

    def forward(self, x: torch.Tensor, output_size: Optional[List[int]] = None) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', 2H, 2W)."""
        if x.device.type != "cpu" or output_size is not None:
            return super().forward(x, output_size)
        weight = self.weight.permute(1, 2, 3, 0).reshape(-1, x.shape[1], 1, 1)
        bias = None if self.bias is None else self.bias.repeat_interleave(4)
        return functional.pixel_shuffle(functional.conv2d(x, weight, bias), 2)


def fold_neighbours(body: nn.Module) -> None:
    """Fold, in place, each norm into the convolution registered just before it.

    That is how timm's models lay out their layers; the caller checks that these run in that order.
    """
    for module in body.modules():
        children = list(module.named_children())
        for (_, conv), (name, norm) in zip(children, children[1:]):
            width = getattr(norm, "num_features", None)
            if isinstance(conv, nn.Conv2d) and is_foldable(norm) and width == conv.out_channels:
                fold_norm(conv, norm)
                rest = [x for x in (getattr(norm, k, None) for k in ("drop", "act")) if x]
                setattr(module, name, nn.Sequential(*rest))
