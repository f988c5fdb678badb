"""Bilinear upsampling by transposed convolution."""

from typing import List

import pytest
import torch
from torch.nn import functional as F

from seg_every_thing.modeling.semantic import BilinearUpsample, bilinear_kernel


@pytest.mark.parametrize(
    "size, line",
    [
        (1, [1.0]),
        (2, [0.5, 0.5]),
        (3, [0.5, 1.0, 0.5]),
        (4, [0.25, 0.75, 0.75, 0.25]),
        (5, [1 / 3, 2 / 3, 1.0, 2 / 3, 1 / 3]),
    ],
)
def test_kernel(size: int, line: List[float]) -> None:
    expected = torch.outer(torch.tensor(line), torch.tensor(line))
    assert torch.allclose(bilinear_kernel(size), expected)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_equals_interpolation_but_for_the_border(factor: int, dense: bool) -> None:
    up = BilinearUpsample(3, factor, dense=dense).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    y = up(x)
    expected = F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    assert y.shape == expected.shape
    b = factor // 2
    assert torch.allclose(y[..., b:-b, b:-b], expected[..., b:-b, b:-b], rtol=0, atol=1e-14)
    assert not torch.allclose(y[..., 0, :], expected[..., 0, :])  # zeros around, not its edge


def test_not_trimmed() -> None:
    x = torch.randn(1, 2, 3, 4)
    whole, trimmed = BilinearUpsample(2, 4, same=False)(x), BilinearUpsample(2, 4)(x)
    assert whole.shape == (1, 2, 16, 20)
    assert torch.allclose(whole[..., 2:-2, 2:-2], trimmed, atol=1e-6)


def test_channels_do_not_mix_at_the_start_even_if_they_could() -> None:
    x = torch.zeros(1, 3, 4, 4)
    x[:, 1] = 1
    for dense, numel in ((False, 3 * 16), (True, 9 * 16)):
        up = BilinearUpsample(3, 2, dense=dense)
        assert up.weight.numel() == numel
        assert up(x)[:, [0, 2]].abs().max() == 0
        assert up(x)[:, 1].max() == 1


def test_learned_or_fixed() -> None:
    assert BilinearUpsample(2, 2, learned=True).weight.requires_grad
    assert not BilinearUpsample(2, 2).weight.requires_grad
    assert BilinearUpsample(2, 2).bias is None


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="even factor, got 3"):
        BilinearUpsample(2, 3)
    with pytest.raises(ValueError, match="size of at least 1, got 0"):
        bilinear_kernel(0)
