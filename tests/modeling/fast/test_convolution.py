"""Folded and Winograd convolutions against plain ones in float64."""

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn import functional

from seg_every_thing.modeling.fast.convolution import (
    FastConv2d,
    FastDeconv2d,
    fold_neighbours,
    speed_up_convolution,
    speed_up_deconvolution,
)


def _random_norm(width: int, kind: type = FrozenBatchNorm2d) -> nn.Module:
    norm = kind(width).eval()
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(norm, name).data.copy_(torch.rand(width) + 0.5)
    return norm


@pytest.mark.parametrize("kind", (FrozenBatchNorm2d, nn.BatchNorm2d))
@pytest.mark.parametrize("bias", (True, False))
@pytest.mark.parametrize("width", (4, 64))
def test_folded_norm(width: int, bias: bool, kind: type) -> None:
    torch.manual_seed(0)
    conv = Conv2d(
        *(width, width, 3),
        padding=1,
        bias=bias,
        norm=_random_norm(width, kind),
        activation=functional.relu,
    )
    x = torch.randn(1, width, 30, 31)
    with torch.no_grad():
        want = conv.double()(x.double())
        speed_up_convolution(conv.float())
        assert isinstance(conv, FastConv2d) and conv.norm is None
        assert conv.takes_nnpack(x) == (width == 64 and torch._nnpack_available())
        torch.testing.assert_close(conv(x).double(), want, rtol=0, atol=2e-3 * float(want.max()))


def test_what_nnpack_does_not_take() -> None:
    conv = Conv2d(64, 64, 3, padding=1)
    speed_up_convolution(conv)
    x = torch.randn(1, 64, 30, 30)
    assert not conv.takes_nnpack(x[:, :, :5, :5]) and not conv.takes_nnpack(x.double())
    strided = Conv2d(64, 64, 3, padding=1, stride=2, norm=nn.GroupNorm(8, 64))
    with torch.no_grad():
        want = strided(x)
        speed_up_convolution(strided)
        assert not strided.takes_nnpack(x)
        torch.testing.assert_close(strided(x), want)
    assert conv(x[:0]).shape == (0, 64, 30, 30)


def test_deconvolution() -> None:
    deconv = nn.ConvTranspose2d(6, 5, 2, stride=2)
    x = torch.randn(3, 6, 4, 7)
    with torch.no_grad():
        want = deconv(x)
        speed_up_deconvolution(deconv)
        assert isinstance(deconv, FastDeconv2d)
        torch.testing.assert_close(deconv(x), want)
        assert deconv(x[:0]).shape == (0, 5, 8, 14)
    other = nn.ConvTranspose2d(6, 5, 3, stride=2)
    speed_up_deconvolution(other)
    assert type(other) is nn.ConvTranspose2d


def test_neighbours() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 1), _random_norm(4), nn.ReLU(), _random_norm(4))
    x = torch.randn(1, 3, 5, 5)
    with torch.no_grad():
        want = body(x)
        fold_neighbours(body)
        torch.testing.assert_close(body(x), want, rtol=1e-5, atol=1e-5)
    assert isinstance(body[3], FrozenBatchNorm2d)  # no convolution before it
    assert not isinstance(body[1], FrozenBatchNorm2d)
