"""Shift-and-stitch equals filter rarefaction."""

import itertools
from typing import Any, Callable, Dict

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import build_model
from fcn_helpers import fcn_config
from torch import nn
from torch.nn import functional as F

from seg_every_thing.modeling.semantic import rarefy, shift_and_stitch
from seg_every_thing.modeling.semantic.dense_inference import rarefied_kernel
from seg_every_thing.modeling.semantic.dense_segmentor import dense_segmentor


def one_pool() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3))


def two_pools() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Conv2d(4, 3, 2),
    )


def strided_convolutions() -> nn.Sequential:
    return nn.Sequential(
        Conv2d(2, 4, 3, stride=2, norm=FrozenBatchNorm2d(4), activation=F.relu),
        nn.Conv2d(4, 4, 3, dilation=2, groups=2),
        nn.AvgPool2d(2),
        nn.BatchNorm2d(4),
        nn.Dropout(0.5),
        nn.MaxPool2d(2, stride=1),
        nn.Conv2d(4, 3, 2),
    )


def overlapping_pool() -> nn.Sequential:
    return nn.Sequential(
        nn.MaxPool2d(3, stride=2, dilation=2), nn.Conv2d(2, 3, 3, stride=3), nn.Conv2d(3, 3, 2)
    )


NETS = [(one_pool, 2), (two_pools, 4), (strided_convolutions, 4), (overlapping_pool, 6)]


def made(make: Callable[[], nn.Sequential]) -> nn.Sequential:
    torch.manual_seed(0)
    return make().double().eval()


@pytest.mark.parametrize("make, stride", NETS, ids=lambda x: getattr(x, "__name__", x))
@torch.no_grad()
def test_rarefied_net_equals_shift_and_stitch(
    make: Callable[[], nn.Sequential], stride: int
) -> None:
    net = made(make)
    image = torch.randn(2, 2, 31, 29, dtype=torch.float64)
    stitched = shift_and_stitch(net, image, stride)
    rarefied = rarefy(net)(image)
    assert stitched.shape == rarefied.shape
    assert stitched.shape[-1] > stride * (net(image).shape[-1] - 1)
    assert torch.allclose(stitched, rarefied, rtol=0, atol=1e-12)
    assert stitched.std() > 0.01


@torch.no_grad()
def test_each_score_is_that_of_its_own_receptive_field() -> None:
    net = made(two_pools)  # a receptive field of 14 pixels, stride 4
    image = torch.randn(1, 2, 19, 17, dtype=torch.float64)
    stitched = shift_and_stitch(net, image, 4)
    assert stitched.shape[-2:] == (6, 4)
    for i, j in itertools.product(range(6), range(4)):
        alone = net(image[..., i : i + 14, j : j + 14])
        assert alone.shape[-2:] == (1, 1)
        assert torch.allclose(stitched[..., i, j], alone[..., 0, 0], rtol=0, atol=1e-12)


@torch.no_grad()
def test_with_padding_they_are_equal_inside() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(  # reaches 9 pixels to each side at most
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Conv2d(4, 2, 3, padding=1),
    ).double()
    image = torch.randn(1, 1, 44, 40, dtype=torch.float64)
    stitched, rarefied = shift_and_stitch(net, image, 4), rarefy(net)(image)
    height, width = rarefied.shape[-2:]
    a, b = stitched[..., :height, :width], rarefied
    inside = (..., slice(10, height - 12), slice(10, width - 12))
    assert b[inside].numel() > 200
    assert torch.allclose(a[inside], b[inside], rtol=0, atol=1e-12)
    assert not torch.allclose(a, b)


@torch.no_grad()
def test_without_strides_there_is_nothing_to_change() -> None:
    net = nn.Sequential(
        nn.MaxPool2d(3, stride=1, padding=1),
        nn.AvgPool2d(3, stride=1, padding=1),
        nn.Conv2d(2, 3, 3, padding=2, dilation=2),
    ).double()
    image = -1 - torch.rand(1, 2, 9, 8, dtype=torch.float64)  # a zero would win the maximum
    assert torch.allclose(rarefy(net)(image), net(image), rtol=0, atol=1e-12)
    assert net(image).shape[-2:] == (9, 8)


@torch.no_grad()
def test_rarefied_kernel_is_dilation() -> None:
    kernel = torch.tensor([[1.0, 2], [3, 4]])
    expected = torch.tensor([[1.0, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]])
    assert torch.equal(rarefied_kernel(kernel, 3), expected)
    torch.manual_seed(0)
    weight = torch.randn(4, 2, 3, 3, dtype=torch.float64)
    image = torch.randn(1, 2, 15, 14, dtype=torch.float64)
    for factor in (1, 2, 4):
        stuffed = F.conv2d(image, rarefied_kernel(weight, factor))
        assert torch.allclose(stuffed, F.conv2d(image, weight, dilation=factor), atol=1e-12)


def test_rarefied_net_shares_parameters_and_leaves_the_original_alone() -> None:
    net = two_pools()
    dense = rarefy(net)
    assert {id(p) for p in dense.parameters()} == {id(p) for p in net.parameters()}
    assert net[0][2].stride == 2
    assert net[1][0].dilation == (1, 1)
    assert net(torch.rand(1, 2, 18, 18)).shape[-1] == 2
    assert not rarefy(net.eval()).training
    net = made(strided_convolutions).train()
    rarefy(net).eval()
    assert all(layer.training for layer in net.modules())


@pytest.mark.parametrize(
    "layer, message",
    [
        (nn.ConvTranspose2d(1, 1, 2, stride=2), r"'1' \(ConvTranspose2d\)"),
        (nn.Conv2d(1, 1, 3, padding="same"), "convolution '1' must pad with a number"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "'1' must pad"),
        (nn.AvgPool2d(3, padding=1, count_include_pad=False), "'1' must divide"),
    ],
)
def test_layers_that_cannot_be_converted(layer: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rarefy(nn.Sequential(nn.ReLU(), layer))


# In detectron2


def config(mode: str, stride: int = 32, **vgg: Any) -> CfgNode:
    cfg = fcn_config(stride, 2, "DenseSemanticSegmentor")
    cfg.MODEL.SEM_SEG_HEAD.FCN.DENSE_INFERENCE = mode
    small: Dict[str, Any] = {
        "CHANNELS": (4,) * 5,
        "NUM_CONVS": (1,) * 5,
        "FC_DIM": 6,
        "FC6_KERNEL": 1,
    }
    cfg.MODEL.VGG.merge_from_other_cfg(CfgNode({**small, **vgg}))
    return cfg


def random_scores(model: nn.Module, feature: str = "fc7") -> nn.Module:
    nn.init.normal_(model.sem_seg_head.score[feature].weight)
    return model.double().eval()


@pytest.mark.parametrize("pad", [1, 100])
@torch.no_grad()
def test_modes_agree_inside_the_image(pad: int) -> None:
    torch.manual_seed(0)
    cfg = config("rarefy", stride=8, CONV1_PAD=pad, OUT_FEATURES=("pool3",))  # 64 runs, not 1024
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["pool3"]
    model = random_scores(build_model(cfg), "pool3")
    image = torch.rand(3, 70, 61, dtype=torch.float64) * 255
    batch = [{"image": image, "height": 70, "width": 61}]
    rarefied = model(batch)[0]["sem_seg"]
    model.dense_inference = "shift_and_stitch"
    stitched = model(batch)[0]["sem_seg"]
    assert rarefied.shape == stitched.shape == (2, 70, 61)
    # The receptive field of this net is 22 pixels: 3x3 at steps 1, 2, 4, and the pools.
    inside = (slice(None), slice(11, -11), slice(11, -11))
    assert rarefied[inside].std() > 0
    assert torch.allclose(rarefied[inside], stitched[inside], rtol=0, atol=1e-9)


@pytest.mark.parametrize("pad, fc6", [(1, 1), (1, 3), (100, 1), (100, 7)])
@torch.no_grad()
def test_scores_sit_on_their_pixels(pad: int, fc6: int) -> None:
    """A dense score is a coarse one where that has its centre, up to half a pixel."""
    torch.manual_seed(0)
    model = random_scores(build_model(config("rarefy", CONV1_PAD=pad, FC6_KERNEL=fc6)))
    image = torch.rand(3, 288, 288, dtype=torch.float64) * 255
    dense = model([{"image": image}])[0]["sem_seg"]
    coarse = model.sem_seg_head.scores(model.backbone((image - model.pixel_mean)[None]))[0]
    i, start = coarse.shape[-1] // 2, model.sem_seg_head.start
    pixel = int(32 * i + start + 0.5)
    assert 100 < pixel < 188
    assert torch.allclose(dense[:, pixel, pixel], coarse[:, i, i], rtol=0, atol=1e-9)


def test_training_is_as_without() -> None:
    torch.manual_seed(0)
    dense, plain = build_model(config("rarefy")), build_model(config("none"))
    assert dense.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(dense.state_dict())
    batch = [{"image": torch.rand(3, 40, 50), "sem_seg": torch.ones(40, 50, dtype=torch.long)}]
    torch.manual_seed(1)
    a = dense(batch)["loss_sem_seg"]
    torch.manual_seed(1)
    assert torch.equal(a, plain(batch)["loss_sem_seg"])
    with torch.no_grad():
        assert plain.eval()(batch)[0]["sem_seg"].shape == (2, 40, 50)


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="without skips"):
        build_model(config("rarefy", stride=16))
    with pytest.raises(ValueError, match="DENSE_INFERENCE 'atrous'"):
        build_model(config("atrous"))
    stock = config("rarefy")
    stock.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    with pytest.raises(ValueError, match="needs MODEL.META_ARCHITECTURE 'DenseSemanticSegmentor'"):
        build_model(stock)
    resnet = config("rarefy")
    resnet.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    resnet.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    with pytest.raises(ValueError, match="use 'shift_and_stitch' for ResNet"):
        build_model(resnet)
    model = build_model(config("none"))
    with pytest.raises(ValueError, match="unknown mode 'none'"):
        dense_segmentor(model, "none")
    with pytest.raises(ValueError, match="model.eval"):
        dense_segmentor(model, "rarefy")
