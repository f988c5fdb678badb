"""FC-DenseNet: sizes, counts, arithmetic, initial weights, loss, and what it refuses."""

import subprocess
import sys
from typing import Any, Dict, List

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tiramisu_helpers import TINY_NET, tiramisu_config
from torch import nn
from torch.nn import functional as F

from seg_every_thing.modeling.semantic.fc_densenet import FCDenseNet, FCDenseNetHead

SMALL: Dict[str, Any] = {
    "in_channels": 3,
    "stem_channels": 5,
    "growth_rate": 3,
    "down": (1, 2),
    "bottleneck": 2,
    "up": (2, 1),
    "dropout": 0.0,
    "bn_stats": "running",
}


def built(variant: int, *opts: Any) -> nn.Module:
    return build_model(tiramisu_config(f"fc_densenet{variant}_camvid", *opts))


@pytest.mark.parametrize(
    "variant, learned, with_statistics, extra_class, stacks",
    [
        (56, 1_376_795, 1_397_963, 193, [96, 144, 192, 240, 288, 336, 384, 336, 288, 240, 192]),
        (67, 3_463_243, 3_502_923, 289, [128, 208, 288, 368, 448, 528, 608, 528, 448, 368, 288]),
        (103, 9_322_091, 9_425_163, 257, [112, 192, 304, 464, 656, 896, 1088, 816, 576, 384, 256]),
    ],
)
def test_counts(
    variant: int, learned: int, with_statistics: int, extra_class: int, stacks: List[int]
) -> None:
    model = built(variant)
    statistics = [
        b for n, b in model.named_buffers() if n.endswith(("running_mean", "running_var"))
    ]
    assert sum(p.numel() for p in model.parameters()) == learned
    assert learned + sum(b.numel() for b in statistics) == with_statistics
    convolutions = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(convolutions) == variant
    net = model.backbone
    blocks = [*net.down_blocks, net.bottleneck, *net.up_blocks]
    assert [block.out_channels for block in blocks] == stacks
    more = built(variant, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 12)
    assert sum(p.numel() for p in more.parameters()) == learned + extra_class


def plain_forward(net: FCDenseNet, x: torch.Tensor) -> torch.Tensor:
    """The network again, from its weights, with lists of maps instead of modules."""

    def layer(parts: List[torch.Tensor], module: nn.Sequential, padding: int) -> torch.Tensor:
        norm, conv = module[0], module[2]
        stack = torch.cat(parts, 1)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - norm.running_mean * scale
        stack = (stack * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
        return F.conv2d(stack, conv.weight, conv.bias, padding=padding)

    def block(parts: List[torch.Tensor], module: nn.Module) -> List[torch.Tensor]:
        new: List[torch.Tensor] = []
        for part in module.layers:
            new.append(layer([*parts, *new], part, 1))
        return new

    parts = [F.conv2d(x, net.stem.weight, net.stem.bias, padding=1)]
    skips = []
    for dense, transition in zip(net.down_blocks, net.transitions_down):
        parts = [torch.cat([*parts, *block(parts, dense)], 1)]
        skips.append(parts[0])
        parts = [F.max_pool2d(layer(parts, transition, 0), 2, 2)]
    new = block(parts, net.bottleneck)
    for transition, dense, skip in zip(net.transitions_up, net.up_blocks, skips[::-1]):
        up = F.conv_transpose2d(torch.cat(new, 1), transition.weight, transition.bias, stride=2)
        high, wide = skip.shape[2:]
        top, left = (up.shape[2] - high) // 2, (up.shape[3] - wide) // 2
        up = up[:, :, top : top + high, left : left + wide]
        parts = [up, skip] if net.skips else [up]
        new = block(parts, dense)
    return torch.cat([*parts, *new], 1)


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("size", [(8, 12), (13, 15), (4, 7)])
def test_equals_a_plain_reference(skips: bool, size: Any) -> None:
    torch.manual_seed(0)
    net = FCDenseNet(**SMALL, skips=skips).double().eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 2)
            nn.init.normal_(m.bias)
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2)
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(m.bias)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    out = net(x)["fcdn"]
    assert out.shape == (2, net.output_shape()["fcdn"].channels, *size)
    torch.testing.assert_close(out, plain_forward(net, x), rtol=1e-10, atol=1e-10)


def test_count_of_four_poolings_of_five_layers() -> None:
    """55 convolutions: the likely source of the 1.5 M that the paper gives for FC-DenseNet56."""
    net = f"{(5,) * 4}"
    opts = ("MODEL.FC_DENSENET.DOWN", net, "MODEL.FC_DENSENET.UP", net)
    model = built(56, *opts, "MODEL.FC_DENSENET.BOTTLENECK", 5)
    statistics = [b for n, b in model.named_buffers() if "running_" in n]
    assert sum(p.numel() for p in model.parameters()) == 1_459_835
    assert 1_459_835 + sum(b.numel() for b in statistics) == 1_482_299


def test_sizes_that_nothing_divides() -> None:
    net = FCDenseNet(**{**SMALL, "down": (1,) * 5, "up": (1,) * 5}).eval()
    with torch.no_grad():
        for size in ((97, 131), (32, 33), (360, 480)):
            assert net(torch.zeros(1, 3, *size))["fcdn"].shape[2:] == size


def test_without_skips_everything_passes_the_bottleneck() -> None:
    x = torch.rand(2, 3, 16, 16)
    for skips in (True, False):
        net = FCDenseNet(**SMALL, skips=skips).eval()
        nn.init.zeros_(net.transitions_down[0][2].weight)  # the only other way is a skip
        with torch.no_grad():
            differ = (net(x)["fcdn"] - net(1 - x)["fcdn"]).abs().max() > 1e-6
        assert bool(differ) == skips


def test_initial_weights_are_he_uniform() -> None:
    net = FCDenseNet(**{**SMALL, "stem_channels": 48, "growth_rate": 16, "down": (4, 4)})
    for m in net.modules():
        if not isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
            continue
        fan_in = m.in_channels * m.kernel_size[0] ** 2
        assert m.weight.abs().max() <= (6 / fan_in) ** 0.5
        if m.weight.numel() > 1000:  # uniform in +-sqrt(6 / n): variance 2 / n
            assert m.weight.var().item() == pytest.approx(2 / fan_in, rel=0.1)
        assert (m.bias == 0).all()


def test_dropout_in_training_only() -> None:
    torch.manual_seed(0)
    net = FCDenseNet(**{**SMALL, "dropout": 0.5})
    x = torch.rand(2, 3, 16, 16)
    assert not torch.equal(net(x)["fcdn"], net(x)["fcdn"])
    net.eval()
    assert torch.equal(net(x)["fcdn"], net(x)["fcdn"])
    quiet = FCDenseNet(**SMALL)
    assert torch.equal(quiet(x)["fcdn"], quiet(x)["fcdn"])


def head() -> FCDenseNetHead:
    """Scores are the features themselves."""
    module = FCDenseNetHead(in_feature="f", in_channels=2, num_classes=2, ignore_value=11)
    nn.init.zeros_(module.score.weight)
    module.score.weight.data[[0, 1], [0, 1]] = 1
    return module


def test_loss_is_the_mean_over_labelled_pixels() -> None:
    features = torch.zeros(1, 2, 1, 3)
    features[0, 0, 0] = torch.tensor([0.0, 2.0, 5.0])
    none, losses = head()({"f": features}, torch.tensor([[[0, 1, 11]]]))
    assert none is None
    # -log softmax: log 2 for the first pixel, log(1 + e^2) for the second; void for the third.
    expected = (torch.tensor(2.0).log() + torch.tensor(2.0).exp().log1p()) / 2
    assert losses["loss_sem_seg"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_all_void_is_no_loss_and_no_nan() -> None:
    module = head()
    _, losses = module({"f": torch.randn(1, 2, 2, 2)}, torch.full((1, 2, 2), 11))
    losses["loss_sem_seg"].backward()
    assert losses["loss_sem_seg"].item() == 0
    assert (module.score.weight.grad == 0).all()


def test_head_gives_logits_in_evaluation_even_with_labels() -> None:
    features = torch.randn(1, 2, 3, 4)
    logits, losses = head().eval()({"f": features}, torch.zeros(1, 3, 4, dtype=torch.long))
    assert losses == {}
    assert torch.equal(logits, features)
    with pytest.raises(ValueError, match="needs labels"):
        head()({"f": features})


def test_segmentor_trains_and_answers_in_any_size() -> None:
    model = build_model(tiramisu_config("fc_densenet56_camvid", *TINY_NET))
    batch = []
    for height, width in ((21, 33), (30, 17)):  # padded to a common size by detectron2
        batch.append(
            {
                "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
                "sem_seg": torch.randint(0, 12, (height, width)),
                **{"height": 2 * height, "width": 3 * width},
            }
        )
    with EventStorage(0):
        loss = model(batch)["loss_sem_seg"]
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    outputs = model.eval()(batch)
    assert [tuple(o["sem_seg"].shape) for o in outputs] == [(11, 42, 99), (11, 60, 51)]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"up": (2,)}, "DOWN .* and UP"),
        ({"down": (), "up": ()}, "1 or more"),
        ({"growth_rate": 0}, "GROWTH_RATE"),
        ({"down": (0, 2)}, "1 or more"),
        ({"dropout": 1.0}, "DROPOUT"),
        ({"bn_stats": "both"}, "BN_STATS is 'both'"),
    ],
)
def test_bad_sizes(change: Dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FCDenseNet(**{**SMALL, **change})


def test_images_too_small() -> None:
    net = FCDenseNet(**SMALL).eval()
    with pytest.raises(ValueError, match="at least 4 pixels a side, got 3x9"):
        net(torch.zeros(1, 3, 3, 9))
    tiny = torch.zeros(1, 3, 4, 4)
    assert net(tiny)["fcdn"].shape[2:] == (4, 4)
    with pytest.raises(ValueError, match="single pixel"):
        net.train()(tiny)
    with pytest.raises(ValueError, match="BN_STATS 'running'"):
        FCDenseNet(**{**SMALL, "bn_stats": "batch"}).eval()(tiny)


def test_head_wants_one_feature_of_stride_1() -> None:
    cfg = get_cfg()
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["fcdn"]
    with pytest.raises(ValueError, match="'fcdn': 4"):
        FCDenseNetHead(cfg, {"fcdn": ShapeSpec(channels=8, stride=4)})
    with pytest.raises(ValueError, match="one feature of stride 1"):
        FCDenseNetHead(cfg, {"p2": ShapeSpec(channels=8, stride=1)})


def test_foreign_project_builds_it_by_name() -> None:
    script = """
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
import seg_every_thing.modeling.semantic
cfg = get_cfg()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
cfg.MODEL.BACKBONE.NAME = "build_fc_densenet_backbone"
cfg.MODEL.SEM_SEG_HEAD.NAME = "FCDenseNetHead"
cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["fcdn"]
cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 11
print(sum(p.numel() for p in build_model(cfg).parameters()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "9322091"  # without our keys: FC-DenseNet103
