"""The hourglass trunk: Deep-MARC's sizes, any side, any number of RoIs."""

from typing import List, Tuple

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from torch import nn

from seg_every_thing import add_seg_every_thing_config
from seg_every_thing.modeling.mask_trunks import HourglassTrunk, ResidualBlock, ResizeConv

# Channels and blocks of each scale, as in the description of the original.
SIZES = {
    10: ((128, 128), (1, 1)),
    20: ((128, 128, 192), (1, 2, 2)),
    52: ((128, 128, 192, 192, 192, 256), (2, 2, 2, 2, 2, 4)),
}


def trunk_of(depth: int = 10, channels: int = 4, out: int = 6, norm: str = "GN") -> HourglassTrunk:
    return HourglassTrunk(ShapeSpec(channels=channels), out_channels=out, depth=depth, norm=norm)


def block_list(depth: int) -> List[Tuple[int, int, int]]:
    """(inputs, outputs, stride) of all residual blocks, scale after scale, without recursion."""
    channels, blocks = SIZES[depth]
    found = [(64, channels[0], 1)]
    for here, below, count in zip(channels, channels[1:], blocks):
        found += [(here, here, 1)] * count
        found += [(here, below, 2)] + [(below, below, 1)] * (count - 1)
        found += [(below, below, 1)] * (count - 1) + [(below, here, 1)]
    return found + [(channels[-1], channels[-1], 1)] * blocks[-1]


@pytest.mark.parametrize("depth, total", [(10, 1855360), (20, 5780736), (52, 23704704)])
def test_number_of_parameters(depth: int, total: int) -> None:
    """For 256 channels in and out.  A norm has two numbers a channel."""
    with torch.device("meta"):
        trunk = trunk_of(depth, 256, 256)
    expected = 9 * 256 * 64 + 2 * 64
    for inputs, outputs, stride in block_list(depth):
        expected += 9 * outputs * (inputs + outputs) + 4 * outputs
        if stride == 2 or inputs != outputs:
            expected += inputs * outputs + 2 * outputs
    expected += 9 * 128 * 128 + 2 * 128 + 4 * 128 * 256 + 2 * 256
    assert sum(p.numel() for p in trunk.parameters()) == expected == total


@pytest.mark.parametrize("depth", list(SIZES))
def test_the_longest_way_has_as_many_convolutions_as_the_name_says(depth: int) -> None:
    with torch.device("meta"):
        trunk = trunk_of(depth)
    longest = [
        name
        for name, module in trunk.named_modules()
        if isinstance(module, nn.Conv2d) and ".keep." not in name and "shortcut" not in name
    ]
    assert len(longest) == depth


@pytest.mark.parametrize("side", [14, 28, 32, 5])
@pytest.mark.parametrize("rois", [0, 1, 3])
def test_twice_the_side(side: int, rois: int) -> None:
    x = torch.randn(rois, 4, side, side)
    trunk = trunk_of(10)
    assert trunk(x).shape == (rois, 6, 2 * side, 2 * side)
    trunk(x).sum().backward()
    assert all(p.grad is not None for p in trunk.parameters())  # else DDP waits for ever


@pytest.mark.parametrize("depth", [20, 52])
def test_deep_ones_on_the_smallest_side(depth: int) -> None:
    """14 -> 7 -> 4 -> 2 -> 1 -> 1 and back."""
    out = trunk_of(depth)(torch.randn(1, 4, 14, 14))
    assert out.shape == (1, 6, 28, 28) and torch.isfinite(out).all()
    assert 0.1 < out.std() < 10


def test_a_roi_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    x, trunk = torch.randn(3, 4, 8, 8), trunk_of()
    together = trunk(x)
    assert torch.allclose(together[1:2], trunk(x[1:2]), atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    assert torch.equal(trunk.eval()(x), together)


def test_the_whole_roi_is_seen() -> None:
    """A change in one corner reaches the opposite one: through the coarse scales alone."""
    torch.manual_seed(0)
    trunk = trunk_of(20, norm="FrozenBN")  # group norms would carry it anyway
    x = torch.zeros(1, 4, 16, 16)
    y = x.clone()
    y[..., 0, 0] = 5
    assert (trunk(x) - trunk(y))[..., -1, -1].abs().max() > 1e-6


@pytest.mark.parametrize("stride, inputs, outputs", [(1, 4, 4), (2, 4, 4), (1, 4, 8), (2, 4, 8)])
def test_residual_block(stride: int, inputs: int, outputs: int) -> None:
    """With both convolutions at zero, what goes around them is left."""
    block = ResidualBlock(inputs, outputs, "", stride=stride)
    for conv in (block.conv1, block.conv2):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    x = torch.randn(2, inputs, 7, 7)
    around = block.shortcut(x)
    assert around.shape == (2, outputs, *((7, 7) if stride == 1 else (4, 4)))
    assert torch.equal(block(x), around.relu())
    assert isinstance(block.shortcut, nn.Identity) == (stride == 1 and inputs == outputs)


def test_from_config() -> None:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 24  # 32 groups do not divide it
    with torch.device("meta"):
        default, expected = HourglassTrunk(cfg, ShapeSpec(channels=4)), trunk_of(52, 4, 24)
    shapes = [{n: p.shape for n, p in t.named_parameters()} for t in (default, expected)]
    assert shapes[0] == shapes[1]
    cfg.MODEL.ROI_MASK_HEAD.HOURGLASS_DEPTH = 10
    cfg.MODEL.ROI_MASK_HEAD.NORM = "FrozenBN"
    trunk = HourglassTrunk(cfg, ShapeSpec(channels=4))
    assert trunk(torch.zeros(1, 4, 4, 4)).shape == (1, 24, 8, 8)
    assert not any(isinstance(m, nn.GroupNorm) for m in trunk.modules())
    assert isinstance(trunk.upsample[0], nn.ConvTranspose2d)
    cfg.MODEL.ROI_MASK_HEAD.UPSAMPLE = "resize"
    trunk = HourglassTrunk(cfg, ShapeSpec(channels=4))
    assert isinstance(trunk.upsample[0], ResizeConv)
    assert trunk(torch.zeros(0, 4, 5, 5)).shape == (0, 24, 10, 10)


def test_unknown_depth() -> None:
    with pytest.raises(ValueError, match="HOURGLASS_DEPTH 34 is not one of 10, 20, 52"):
        trunk_of(34)
