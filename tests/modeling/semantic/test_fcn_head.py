"""FCN-32s, 16s, 8s: counts, geometry, skips, upsampling modes and the loss."""

import math
from typing import Any, Dict, List, Optional, Tuple

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from fcn_helpers import fcn_config
from torch import nn
from torch.nn import functional as F

from seg_every_thing.modeling.semantic import FCNHead, add_semantic_config
from seg_every_thing.modeling.semantic.geometry import Grid, crop_offset
from seg_every_thing.modeling.semantic.vgg import feature_grids

VOID = 255
SHAPES = {
    "pool3": ShapeSpec(channels=256, stride=8),
    "pool4": ShapeSpec(channels=512, stride=16),
    "fc7": ShapeSpec(channels=4096, stride=32),
}
SMALL = {
    name: ShapeSpec(channels=c, stride=SHAPES[name].stride) for c, name in enumerate(SHAPES, 2)
}


def head(shapes: Optional[Dict[str, ShapeSpec]] = None, **kwargs: Any) -> FCNHead:
    return FCNHead(SMALL if shapes is None else shapes, **{"num_classes": 3, **kwargs})


def features(height: int = 2, width: int = 3, n: int = 2) -> Dict[str, torch.Tensor]:
    """Features of an image of 32 height x 32 width pixels."""
    torch.manual_seed(0)
    return {
        name: torch.randn(n, s.channels, height * 32 // s.stride, width * 32 // s.stride)
        for name, s in SMALL.items()
    }


def filled(module: FCNHead) -> FCNHead:
    """Random weights in place of zeros."""
    torch.manual_seed(1)
    for parameter in module.score.parameters():
        nn.init.normal_(parameter)
    return module


def segmentor(stride: int, **vgg: Any) -> Tuple[CfgNode, nn.Module]:
    cfg = fcn_config(stride, 3)
    cfg.MODEL.VGG.CHANNELS, cfg.MODEL.VGG.FC_DIM = (2, 2, 3, 3, 4), 5
    cfg.MODEL.VGG.merge_from_other_cfg(CfgNode(vgg))
    return cfg, build_model(cfg)


# Counts


@pytest.mark.parametrize(
    "stride, classes, scores, per_class, dense",
    [
        (32, 21, 134_346_581, 86_016, 1_806_336),
        (16, 21, 134_357_354, 21_840, 458_640),
        (8, 21, 134_362_751, 6_048, 127_008),
        (32, 11, 134_305_611, 11 * 64**2, 11**2 * 64**2),
        (16, 11, 134_311_254, 11 * (4**2 + 32**2), 11**2 * (4**2 + 32**2)),
        (8, 11, 134_314_081, 11 * (2 * 4**2 + 16**2), 11**2 * (2 * 4**2 + 16**2)),
    ],
)
def test_parameter_counts(
    stride: int, classes: int, scores: int, per_class: int, dense: int
) -> None:
    trunk = 134_260_544  # see test_vgg
    with torch.device("meta"):
        for is_dense, upsampling in ((False, per_class), (True, dense)):
            net = head(SHAPES, num_classes=classes, stride=stride, upsample_dense=is_dense)
            assert trunk + sum(p.numel() for p in net.score.parameters()) == scores
            assert sum(p.numel() for p in net.upsample.parameters()) == upsampling


# Geometry


def test_grid_algebra() -> None:
    pooled = Grid(1, 0).after(3, 1, 1).after(2, 2, 0)
    assert pooled == (2, 0.5)
    assert pooled.upsampled(4, 2, 1) == (1, 0)  # trimmed: pixel on pixel
    assert pooled.upsampled(4, 2, 0) == (1, -1)
    assert crop_offset(Grid(1, -1), Grid(1, 0)) == 1
    for larger, target in (
        (Grid(1, 1), Grid(1, 0)),
        (Grid(1, -0.5), Grid(1, 0)),
        (Grid(2, 0), Grid(1, 0)),
    ):
        with pytest.raises(ValueError, match="cannot be cropped"):
            crop_offset(larger, target)


@pytest.mark.parametrize(
    "stride, offsets, map_of_224", [(32, [19], 288), (16, [5, 27], 304), (8, [5, 9, 31], 312)]
)
def test_crops_of_the_original_geometry(stride: int, offsets: List[int], map_of_224: int) -> None:
    net = head(stride=stride, grids=feature_grids())
    assert net._offsets == offsets
    maps = []
    list(net.upsample.values())[-1].register_forward_hook(lambda m, i, o: maps.append(o))
    sizes = {"pool3": 53, "pool4": 27, "fc7": 8}
    given = {k: torch.rand(1, SMALL[k].channels, n, n) for k, n in sizes.items()}
    logits = net.layers({**given, "image": torch.rand(1, 3, 224, 224)})
    assert maps[0].shape[-2:] == (map_of_224, map_of_224)
    assert logits.shape[-2:] == (224, 224)


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_original_geometry_covers_images_of_any_size(stride: int) -> None:
    net = segmentor(stride, CONV1_PAD=100)[1].to("meta")
    for height in range(1, 70):
        image = torch.rand(1, 3, height, 131 - height, device="meta")
        logits = net.sem_seg_head.layers(net.backbone(image))
        assert logits.shape == (1, 3, height, 131 - height)


def test_padding_too_small_for_the_crops() -> None:
    head(stride=32, grids=feature_grids(conv1_pad=81))
    with pytest.raises(ValueError, match="CONV1_PAD is too small"):
        head(stride=32, grids=feature_grids(conv1_pad=80))


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_both_geometries_share_their_weights_and_alignment(stride: int) -> None:
    """A blob in the middle comes out in the middle of the scores of both."""
    few = {"NUM_CONVS": (1,) * 5}
    same = segmentor(stride, **few)[1].double()
    padded = segmentor(stride, CONV1_PAD=100, **few)[1].double()
    for name, parameter in same.named_parameters():
        if "upsample" not in name:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 0.1)
    assert padded.load_state_dict(same.state_dict(), strict=True)
    image = torch.zeros(1, 3, 448, 512, dtype=torch.float64)
    image[..., 160:256, 192:288] = 1.0  # its middle is at (207.5, 239.5)
    for net in (same.eval(), padded.eval()):
        for group in range(1, 6):  # max-pooling is not symmetric where its windows cut the blob
            setattr(net.backbone, f"pool{group}", nn.AvgPool2d(2, ceil_mode=True))
        with torch.no_grad():
            features = net.backbone(image)
        for level in net.sem_seg_head.levels:  # the scores of each level alone
            alone = {k: f * (k in (level, "image")) for k, f in features.items()}
            scores = net.sem_seg_head(alone)[0][0, 0]
            for dim, size, middle in ((1, 448, 207.5), (0, 512, 239.5)):
                profile = scores.sum(dim) / scores.sum()
                assert abs((profile * torch.arange(size)).sum().item() - middle) < 1.0


def test_images_of_any_size_with_same_padding() -> None:
    for stride in (32, 16, 8):
        model = segmentor(stride)[1].eval()
        images = [{"image": torch.rand(3, h, w) * 255} for h, w in ((1, 1), (33, 47), (64, 20))]
        with torch.no_grad():
            outputs = model(images)
        sizes = [o["sem_seg"].shape for o in outputs]
        assert sizes == [(3, 1, 1), (3, 33, 47), (3, 64, 20)]


@pytest.mark.parametrize("size", [(64, 96), (65, 33), (50, 71)])
def test_resnet_trunk_of_detectron2(size: Tuple[int, int]) -> None:
    """It has no size_divisibility: features round up, and rests are cut off."""
    cfg = get_cfg()
    add_semantic_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 18, 64
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.SEM_SEG_HEAD.NAME = "FCNHead"
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 4
    cfg.MODEL.SEM_SEG_HEAD.FCN.STRIDE = 8
    model = build_model(cfg)
    assert model.sem_seg_head.levels == ["res5", "res4", "res3"]
    height, width = size
    targets = torch.randint(0, 4, size)
    batch = [{"image": torch.rand(3, height, width) * 255, "sem_seg": targets}]
    losses = model(batch)
    assert math.isclose(losses["loss_sem_seg"].item(), math.log(4), rel_tol=1e-5)
    with torch.no_grad():
        assert model.eval()(batch)[0]["sem_seg"].shape == (4, height, width)


# Scores, skips and upsampling


def test_zero_initialised_scores_learn() -> None:
    net = head(stride=8)
    given = {name: f.requires_grad_() for name, f in features().items()}
    assert net.layers(given).abs().max() == 0
    targets = torch.randint(0, 3, (2, 64, 96))
    _, losses = net(given, targets)
    assert math.isclose(losses["loss_sem_seg"].item(), math.log(3), rel_tol=1e-6)
    losses["loss_sem_seg"].backward()
    for level in net.levels:
        assert net.score[level].weight.grad.abs().max() > 0
        assert given[level].grad.abs().max() == 0  # nothing to pass down before the first step
    assert head(score_init="msra").score["fc7"].weight.abs().max() > 0


@pytest.mark.parametrize("stride", [16, 8])
def test_equals_the_sum_of_upsampled_scores(stride: int) -> None:
    net = filled(head(stride=stride, skip_scales=(0.5, 3.0)[: {16: 1, 8: 2}[stride]]))
    given = features()

    def twice(x: torch.Tensor, factor: int) -> torch.Tensor:
        kernel = net.upsample[{2: "32to16"}.get(factor, f"{stride}to1")].weight[:1]
        return F.conv_transpose2d(
            x, kernel.expand(3, -1, -1, -1), stride=factor, padding=factor // 2, groups=3
        )

    def score(name: str, scale: float) -> torch.Tensor:
        layer = net.score[name]
        weight = layer.weight.flatten(1)
        return torch.einsum("kc,nchw->nkhw", weight, scale * given[name]) + layer.bias.view(3, 1, 1)

    x = twice(score("fc7", 1), 2) + score("pool4", 0.5)
    if stride == 8:
        x = twice(x, 2) + score("pool3", 3.0)
    assert torch.allclose(net.layers(given), twice(x, stride), atol=1e-5)


@pytest.mark.parametrize("stride", [16, 8])
def test_new_skip_changes_nothing_at_first(stride: int) -> None:
    """A finer net begins with what the coarser one computes, upsampled in one step more."""
    coarse, fine = filled(head(stride=stride * 2)), head(stride=stride)
    result = fine.load_state_dict(coarse.state_dict(), strict=False)
    new = {16: "pool4", 8: "pool3"}[stride]
    assert set(result.missing_keys) == {
        f"score.{new}.weight",
        f"score.{new}.bias",
        f"upsample.{2 * stride}to{stride}.weight",
        f"upsample.{stride}to1.weight",
    }
    given = features()
    before = fine.layers(given)
    expected = coarse.scores(given)
    if stride == 8:
        expected = coarse.upsample["32to16"](expected) + coarse.scores(given, 1)
    expected = fine.upsample[f"{2 * stride}to{stride}"](expected)
    assert torch.equal(before, fine.upsample[f"{stride}to1"](expected))


def test_stages_chain_through_checkpoints(tmp_path: Any) -> None:
    previous = None
    for stride in (32, 16, 8):
        model = segmentor(stride)[1]
        checkpointer = DetectionCheckpointer(model, str(tmp_path))
        if previous is not None:
            checkpointer.load(str(tmp_path / "model_final.pth"))
            for name, value in previous.items():
                if name in model.state_dict():
                    assert torch.equal(model.state_dict()[name], value), name
            shared = previous.keys() & model.state_dict().keys()
            assert {"backbone.fc6.weight", "sem_seg_head.score.fc7.weight"} <= shared
        filled(model.sem_seg_head)
        checkpointer.save("model_final")
        previous = {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    "mode, learned",
    [("fixed", set()), ("learned", {"32to16", "16to8", "8to1"}), ("paper", {"32to16", "16to8"})],
)
def test_upsampling_modes(mode: str, learned: set) -> None:
    net = head(stride=8, upsample=mode)
    assert list(net.upsample) == ["32to16", "16to8", "8to1"]
    assert {k for k, m in net.upsample.items() if m.weight.requires_grad} == learned
    filled(net)
    _, losses = net(features(), torch.randint(0, 3, (2, 64, 96)))
    losses["loss_sem_seg"].backward()
    assert {k for k, m in net.upsample.items() if m.weight.grad is not None} == learned


def test_fixed_variant_trains_the_score_layer_alone() -> None:
    cfg, _ = segmentor(32)
    cfg.MODEL.BACKBONE.FREEZE_AT = 7
    model = build_model(cfg)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"sem_seg_head.score.fc7.weight", "sem_seg_head.score.fc7.bias"}
    batch = [{"image": torch.rand(3, 40, 50), "sem_seg": torch.ones(40, 50, dtype=torch.long)}]
    model(batch)["loss_sem_seg"].backward()
    assert model.sem_seg_head.score["fc7"].weight.grad.abs().max() > 0


# The loss


def test_loss_normalisations_by_hand() -> None:
    logits = torch.zeros(2, 2, 2, 2)
    logits[0, 0] = math.log(3)  # class 0 has probability 3/4 in the first image, 1/2 in the second
    targets = torch.tensor([[[0, 0], [1, VOID]], [[0, VOID], [VOID, VOID]]])
    total = 2 * math.log(4 / 3) + math.log(4) + math.log(2)
    for norm, divisor in (("sum", 1), ("valid", 4), ("batch", 2)):
        net = head(num_classes=2, loss_norm=norm, loss_weight=3.0)
        loss = net.losses(logits, targets)["loss_sem_seg"].item()
        assert math.isclose(loss, 3 * total / divisor, rel_tol=1e-6), norm


@pytest.mark.parametrize("norm", ["sum", "valid", "batch"])
def test_nothing_but_void(norm: str) -> None:
    net = filled(head(stride=8, loss_norm=norm))
    _, losses = net(features(), torch.full((2, 64, 96), VOID))
    losses["loss_sem_seg"].backward()
    assert losses["loss_sem_seg"].item() == 0
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() == 0, name


def test_sampled_cells_are_those_of_the_finest_level() -> None:
    net = filled(head(stride=8, loss_norm="sum", loss_sample_p=0.5))
    logits = net.layers(features()).detach().requires_grad_()
    net.losses(logits, torch.randint(0, 3, (2, 64, 96)))["loss_sem_seg"].backward()
    used = (logits.grad.abs().sum(1) > 0).reshape(2, 8, 8, 12, 8)
    cells = used.float().mean(dim=(2, 4))
    assert set(cells.unique().tolist()) == {0.0, 1.0}
    assert 0.25 < cells.mean() < 0.75  # of 192: 7 standard deviations
    blocks = cells.reshape(2, 2, 4, 3, 4).mean(dim=(2, 4))
    assert blocks.min() > 0  # of 32x32 pixels, each with 16 cells: none all kept or all dropped
    assert blocks.max() < 1
    assert head(stride=8, loss_sample_cell=1).loss_sample_cell == 1


def test_loss_of_kept_pixels_is_not_scaled() -> None:
    net = filled(head(stride=32, loss_norm="valid", loss_sample_p=0.3, loss_sample_cell=1))
    logits = torch.zeros(2, 3, 64, 96)
    loss = net.losses(logits, torch.ones(2, 64, 96, dtype=torch.long))["loss_sem_seg"]
    assert math.isclose(loss.item(), math.log(3), rel_tol=1e-5)


def test_targets_decide_nothing_at_test_time() -> None:
    net = filled(head(stride=16)).eval()
    with torch.no_grad():
        logits, losses = net(features(), torch.zeros(2, 64, 96, dtype=torch.long))
    assert losses == {}
    assert torch.equal(logits, net(features())[0])
    with pytest.raises(ValueError, match="needs targets in training"):
        net.train()(features())


# Bad input


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"stride": 4}, "STRIDE 4 needs features of every stride.*fc7 32, pool4 16, pool3 8"),
        ({"stride": 64}, "STRIDE 64"),
        ({"stride": 0}, "STRIDE 0"),
        ({"stride": 8, "skip_scales": (1.0,)}, r"SKIP_SCALES \(1.0,\).*2 skips \(pool4, pool3\)"),
        ({"upsample": "cubic"}, "UPSAMPLE 'cubic': must be one of paper, fixed, learned"),
        ({"loss_norm": "mean"}, "LOSS_NORM 'mean'"),
        ({"score_init": "one"}, "SCORE_INIT 'one'"),
        ({"loss_sample_p": 0.0}, "LOSS_SAMPLE_P"),
    ],
)
def test_bad_options(kwargs: Dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head(**kwargs)


def test_bad_features() -> None:
    twice = {**SMALL, "pool5": ShapeSpec(channels=4, stride=32)}
    with pytest.raises(ValueError, match="'fc7' and 'pool5' both have the stride 32"):
        head(twice)
    gap = {k: v for k, v in SMALL.items() if k != "pool4"}
    with pytest.raises(ValueError, match="STRIDE 8 needs features of every stride"):
        head(gap, stride=8)
    cfg, _ = segmentor(8)
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["pool3", "pool4", "fc9"]
    with pytest.raises(ValueError, match="the backbone has no fc9, only pool3, pool4, fc7"):
        build_model(cfg)
    too_small = {**features(), "pool4": torch.rand(2, 3, 9, 9)}
    with pytest.raises(ValueError, match="do not cover a feature"):
        head(stride=16).layers(too_small)
