"""timm backbones: features, frozen layers, and settings that are refused."""

import subprocess
import sys

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from timm_helpers import config, with_random_statistics
from torch import nn

from seg_every_thing.modeling.timm_backbone import (
    FrozenBatchNormAct2d,
    TimmBackbone,
    build_timm_backbone,
    freeze_batch_norm,
)

# The tiny "test_*" models came with timm 1.0.9.
timm = pytest.importorskip("timm", minversion="1.0.9", reason="timm >= 1.0.9 is not installed")

ALL_LEVELS = {"test_convnext": 4, "test_mambaout": 4}


def all_levels(name):
    return tuple(range(ALL_LEVELS.get(name, 5)))


# --- features ---


@pytest.mark.parametrize(
    "name, stages",
    [
        ("test_resnet", ["stage1", "stage2", "stage3", "stage4", "stage5"]),
        ("test_efficientnet", ["stage1", "stage2", "stage3", "stage4", "stage5"]),
        ("test_convnext", ["stage2", "stage3", "stage4", "stage5"]),
        ("test_mambaout", ["stage2", "stage3", "stage4", "stage5"]),  # channels last inside
    ],
)
def test_names_and_shapes_follow_the_strides(name, stages):
    model = TimmBackbone(name=name, out_indices=all_levels(name)).eval()
    shapes = model.output_shape()
    assert list(shapes) == stages
    assert [shapes[s].stride for s in stages] == [2 ** int(s[5:]) for s in stages]
    assert model.size_divisibility == 32
    with torch.no_grad():
        features = model(torch.randn(2, 3, 64, 96))
    for stage, x in features.items():
        stride = shapes[stage].stride
        assert x.shape == (2, shapes[stage].channels, 64 // stride, 96 // stride)


def test_features_are_those_of_timm_at_the_asked_levels():
    model = TimmBackbone(name="test_mambaout", out_indices=(1, 3)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.body(x)
        features = model(x)
    assert list(features) == ["stage3", "stage5"]
    for ours, theirs in zip(features.values(), expected):
        torch.testing.assert_close(ours, theirs.movedim(-1, 1), rtol=0, atol=0)


def test_image_channels_come_from_the_input_shape():
    model = build_timm_backbone(config(), ShapeSpec(channels=5))
    assert model(torch.zeros(1, 5, 32, 32))["stage5"].shape[2:] == (1, 1)


def test_fpn_on_top():
    model = build_backbone(config())
    assert {k: v.stride for k, v in model.output_shape().items()} == {
        **{"p2": 4, "p3": 8, "p4": 16},
        **{"p5": 32, "p6": 64},
    }
    assert model.size_divisibility == 32
    features = model(torch.randn(1, 3, 96, 128))
    assert {k: tuple(v.shape) for k, v in features.items()} == {
        **{"p2": (1, 16, 24, 32), "p3": (1, 16, 12, 16), "p4": (1, 16, 6, 8)},
        **{"p5": (1, 16, 3, 4), "p6": (1, 16, 2, 2)},
    }
    sum(x.sum() for x in features.values()).backward()
    assert all(p.grad is not None for p in model.parameters())  # DDP hangs on unused ones


def test_fpn_from_stride_8_on():
    cfg = config(MODEL__TIMM__OUT_INDICES=(2, 3, 4))
    cfg.MODEL.FPN.IN_FEATURES = ["stage3", "stage4", "stage5"]
    assert list(build_backbone(cfg).output_shape()) == ["p3", "p4", "p5", "p6"]


@pytest.mark.parametrize(
    "wanted",
    [["res2", "res3"], ["stage2", "stage3"], ["stage3", "stage5"], ["stage1", "stage2"], []],
)
def test_fpn_inputs_that_cannot_work_are_named(wanted):
    cfg = config()
    cfg.MODEL.FPN.IN_FEATURES = wanted
    with pytest.raises(ValueError, match="IN_FEATURES.*gives stage2, stage3, stage4, stage5"):
        build_backbone(cfg)


# --- frozen batch normalisation ---


def test_frozen_layer_by_hand():
    layer = timm.layers.BatchNormAct2d(1, eps=1.0, act_layer=nn.ReLU6).eval()
    for tensor, value in (
        *((layer.running_mean, 1.0), (layer.running_var, 3.0)),
        *((layer.weight, 6.0), (layer.bias, 2.0)),
    ):
        tensor.data.fill_(value)
    net = nn.Sequential(layer)
    freeze_batch_norm(net)
    assert isinstance(net[0], FrozenBatchNorm2d)
    # (x - 1) / sqrt(3 + 1) * 6 + 2, held within [0, 6]
    x = torch.tensor([-1.0, 1.0, 2.0, 9.0]).view(1, 1, 2, 2)
    assert net(x).flatten().tolist() == [0.0, 2.0, 5.0, 6.0]


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "tf_efficientnet_lite0"])
def test_freezing_changes_no_output_and_no_name(name):
    body = with_random_statistics(timm.create_model(name, features_only=True)).eval()
    x = torch.randn(2, 3, 64, 64)
    keys = list(body.state_dict())
    with torch.no_grad():
        before = body(x)
        freeze_batch_norm(body)
        after = body(x)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in body.modules())
    assert any(isinstance(m, FrozenBatchNorm2d) for m in body.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    assert sorted(body.state_dict()) == sorted(keys)


def test_gradients_through_frozen_layers_are_those_of_eval_mode():
    torch.manual_seed(0)
    body = with_random_statistics(timm.create_model("test_efficientnet", features_only=True))
    body = body.double().eval()
    frozen = timm.create_model("test_efficientnet", features_only=True).double()
    frozen.load_state_dict(body.state_dict())
    freeze_batch_norm(frozen)
    frozen.train()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    for net in (body, frozen):
        sum((f**2).mean() for f in net(x)).backward()
    reference = dict(body.named_parameters())
    for name, parameter in frozen.named_parameters():
        assert parameter.grad.abs().sum() > 0
        torch.testing.assert_close(parameter.grad, reference[name].grad)


def test_without_freezing_statistics_move_and_with_it_they_do_not():
    x = torch.randn(2, 3, 64, 64) + 3
    for freeze_bn in (False, True):
        model = TimmBackbone(name="test_resnet", out_indices=(4,), freeze_bn=freeze_bn).train()
        before = model.body.bn1.running_mean.clone()
        model(x)
        assert torch.equal(model.body.bn1.running_mean, before) == freeze_bn


def test_frozen_activation_survives_a_checkpoint(tmp_path):
    model, other = build_backbone(config()).eval(), build_backbone(config()).eval()
    assert any(isinstance(m, FrozenBatchNormAct2d) for m in model.modules())
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    DetectionCheckpointer(other).load(str(tmp_path / "model.pth"))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x)["p2"], other(x)["p2"])


# --- FREEZE_AT ---


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_efficientnet", "test_byobnet", "test_nfnet", "test_convnext"]
)
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 4])
def test_freeze_at_freezes_what_the_first_levels_depend_on(name, freeze_at):
    levels = all_levels(name)
    reference = timm.create_model(name, features_only=True, out_indices=levels)
    strides = reference.feature_info.reduction()
    first = [
        f.sum()
        for f, stride in zip(reference(torch.randn(1, 3, 64, 64)), strides)
        if freeze_at > 0 and stride <= 2**freeze_at
    ]
    if first:
        sum(first).backward()
    expected = {k for k, p in reference.named_parameters() if p.grad is None}

    model = TimmBackbone(name=name, out_indices=levels, freeze_at=freeze_at, freeze_bn=False)
    assert {k for k, p in model.body.named_parameters() if p.requires_grad} == expected
    for stride, x in zip(strides, model.train()(torch.randn(2, 3, 64, 64)).values()):
        assert x.requires_grad == (freeze_at == 0 or stride > 2**freeze_at)


def test_freeze_at_needs_no_level_to_be_an_output():
    model = TimmBackbone(name="test_efficientnet", out_indices=(3, 4), freeze_at=2)
    trainable = {k for k, p in model.body.named_parameters() if p.requires_grad}
    assert {k.split(".")[1] for k in trainable} == {"2", "3", "4"}


def test_frozen_levels_keep_their_statistics_without_freeze_bn():
    model = TimmBackbone(name="test_efficientnet", out_indices=(4,), freeze_at=1, freeze_bn=False)
    assert isinstance(model.body.bn1, FrozenBatchNorm2d)
    kinds = [any(isinstance(m, nn.BatchNorm2d) for m in b.modules()) for b in model.body.blocks]
    assert kinds == [False, True, True, True, True]


def test_freeze_at_above_the_last_level_freezes_all():
    model = TimmBackbone(name="test_resnet", out_indices=(4,), freeze_at=9)
    assert not any(p.requires_grad for p in model.parameters())


def test_freeze_at_without_names_to_go_by_is_refused():
    with pytest.raises(ValueError, match="FREEZE_AT 1.*hrnet_w18_small.*use 0"):
        TimmBackbone(name="hrnet_w18_small", out_indices=(1, 2, 3, 4), freeze_at=1)


# --- bad input ---


def test_unknown_model_is_answered_with_the_nearest_name():
    with pytest.raises(ValueError, match="no model 'resnet1' .did you mean 'resnet"):
        TimmBackbone(name="resnet1", out_indices=(4,))


def test_levels_that_do_not_exist():
    with pytest.raises(ValueError, match="timm cannot build 'test_resnet'.*out_indices"):
        TimmBackbone(name="test_resnet", out_indices=(1, 9))
    with pytest.raises(ValueError, match="OUT_INDICES must name at least one"):
        TimmBackbone(name="test_resnet", out_indices=())


@pytest.mark.parametrize("name, indices", [("test_resnet", (4, 2)), ("test_vit", (0, 1))])
def test_levels_must_have_growing_strides(name, indices):
    with pytest.raises(ValueError, match=f"'{name}' have strides .* growing powers of two"):
        TimmBackbone(name=name, out_indices=indices)


def test_timm_is_optional():
    program = """
import sys
sys.modules["timm"] = None  # as if it were not installed
import seg_every_thing.modeling.timm_backbone as t
try:
    t.TimmBackbone(name="resnet18", out_indices=(4,))
except ValueError as e:
    print(e)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip().endswith('pip install "seg_every_thing[timm]"'), result.stderr


def test_both_builders_are_registered():
    assert "build_timm_backbone" in BACKBONE_REGISTRY
    assert "build_timm_fpn_backbone" in BACKBONE_REGISTRY
