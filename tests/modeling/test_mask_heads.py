"""The mask head alone: parameters, names, logits and refusals."""

import itertools
import math
from typing import Any, Dict, Optional

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional

from seg_every_thing import MaskXHead, add_seg_every_thing_config
from seg_every_thing.modeling.mask_heads import (
    MLP_INPUTS,
    PREDICTORS,
    MaskMLP,
    gathered_logits,
    instance_classes,
    mask_dice_loss,
)

K, C, S = 6, 4, 3  # classes, channels, side of the pooled features
SHAPE = ShapeSpec(channels=C, height=S, width=S)


def make_head(predictor: str, mlp_input: Optional[str] = None, **kwargs: Any) -> MaskXHead:
    """A float64 head with random biases; the last layer's initial weights would be next to 0."""
    mlp = None
    if mlp_input is not None:
        size = C * S * S if mlp_input == "pooled" else C * (2 * S) ** 2
        mlp = MaskMLP(size, 2 * S, num_fc=2, fc_dim=5)
    head = MaskXHead(
        SHAPE,
        num_classes=K,
        conv_dims=[C] * 3,
        predictor=predictor,
        mlp=mlp,
        mlp_input=mlp_input or "upsampled",
        **kwargs,
    ).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def plain_trunk(state: Dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    for i in (1, 2):
        x = functional.conv2d(
            x, state[f"mask_fcn{i}.weight"], state[f"mask_fcn{i}.bias"], padding=1
        ).relu()
    return functional.conv_transpose2d(
        x, state["deconv.weight"], state["deconv.bias"], stride=2
    ).relu()


def plain_mlp(state: Dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    first, last = (n[: -len(".weight")] for n in state if n[:4] == "mlp." and n.endswith("weight"))
    hidden = (x.reshape(len(x), -1) @ state[f"{first}.weight"].T + state[f"{first}.bias"]).relu()
    out = hidden @ state[f"{last}.weight"].T + state[f"{last}.bias"]
    return out.reshape(len(x), 1, 2 * S, 2 * S)


@pytest.mark.parametrize(
    ("predictor", "mlp_input"),
    [
        pair
        for pair in itertools.product(PREDICTORS, [None, *MLP_INPUTS])
        if pair != ("none", None)  # predicts nothing; that it is refused is tested below
    ],
)
def test_logits_equal_all_classes_then_select(predictor: str, mlp_input: Optional[str]) -> None:
    torch.manual_seed(0)
    head = make_head(predictor, mlp_input)
    state = head.state_dict()
    x = torch.randn(5, C, S, S, dtype=torch.float64)
    classes = torch.tensor([5, 0, 3, 3, 1])
    filters = torch.randn(K, C, dtype=torch.float64)

    features = plain_trunk(state, x) if "deconv.weight" in state else None
    rois = torch.arange(5)
    if predictor == "transfer":
        all_classes = functional.conv2d(features, filters[:, :, None, None])
        expected = all_classes[rois, classes][:, None]
    elif predictor == "class_specific":
        all_classes = functional.conv2d(
            features, state["predictor.weight"], state["predictor.bias"]
        )
        assert all_classes.shape == (5, K, 2 * S, 2 * S)
        expected = all_classes[rois, classes][:, None]
    elif predictor == "class_agnostic":
        expected = functional.conv2d(features, state["predictor.weight"], state["predictor.bias"])
    else:
        expected = torch.zeros(5, 1, 2 * S, 2 * S, dtype=torch.float64)
    if mlp_input is not None:
        expected = expected + plain_mlp(state, features if mlp_input == "upsampled" else x)

    logits = head.logits(x, classes, filters[classes])
    assert logits.shape == (5, 1, 2 * S, 2 * S)
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)
    empty = head.logits(x[:0], classes[:0], filters[:0])
    assert empty.shape == (0, 1, 2 * S, 2 * S)


def test_gathered_logits_by_hand() -> None:
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(2, 2, 1, 1)  # two RoIs, two channels
    weights = torch.tensor([[10.0, 1.0], [0.0, -1.0]])
    assert gathered_logits(features, weights).flatten().tolist() == [12.0, -4.0]
    biased = gathered_logits(features, weights, torch.tensor([0.5, 100.0]))
    assert biased.flatten().tolist() == [12.5, 96.0]


def test_stock_weights_load_and_give_the_same_logits() -> None:
    torch.manual_seed(0)
    stock = MaskRCNNConvUpsampleHead(SHAPE, num_classes=K, conv_dims=[C] * 3).double()
    torch.nn.init.normal_(stock.predictor.weight)
    torch.nn.init.normal_(stock.predictor.bias)
    head = make_head("class_specific")
    head.load_state_dict(stock.state_dict(), strict=True)
    x = torch.randn(4, C, S, S, dtype=torch.float64)
    classes = torch.tensor([0, 5, 2, 2])
    expected = stock.layers(x)[torch.arange(4), classes][:, None]
    torch.testing.assert_close(head.logits(x, classes), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("predictor", ["transfer", "class_agnostic", "class_specific"])
def test_parameter_names_and_shapes(predictor: str) -> None:
    stock = MaskRCNNConvUpsampleHead(SHAPE, num_classes=K, conv_dims=[C] * 3)
    expected = {n: tuple(p.shape) for n, p in stock.named_parameters()}
    if predictor == "transfer":  # the filters come from outside, and there is no bias
        del expected["predictor.weight"], expected["predictor.bias"]
    elif predictor == "class_agnostic":
        expected.update({"predictor.weight": (1, C, 1, 1), "predictor.bias": (1,)})
    actual = {n: tuple(p.shape) for n, p in make_head(predictor).named_parameters()}
    assert actual == expected


@pytest.mark.parametrize("mlp_input", ["upsampled", "pooled"])
def test_every_parameter_of_the_mlp_alone_has_a_part_in_the_result(mlp_input: str) -> None:
    # A parameter without gradient makes DistributedDataParallel fail.
    head = make_head("none", mlp_input)
    head.logits(torch.randn(2, C, S, S, dtype=torch.float64), torch.tensor([0, 1])).sum().backward()
    names = dict(head.named_parameters())
    assert [n for n, p in names.items() if p.grad is None] == []
    assert ("deconv.weight" in names) == (mlp_input == "upsampled")


def test_initial_weights() -> None:
    torch.manual_seed(0)
    shape = ShapeSpec(channels=256, height=14, width=14)

    def build(predictor: str, num_classes: int) -> MaskXHead:
        return MaskXHead(shape, num_classes=num_classes, conv_dims=[256] * 2, predictor=predictor)

    trunk = build("transfer", 80)
    assert trunk.mask_fcn1.weight.std().item() == pytest.approx(math.sqrt(2 / 2304), rel=0.02)
    assert trunk.deconv.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.02)
    # At least 20,480 samples each: the deviation of their deviation is 0.5 %; 256 samples: 4.5 %.
    for k in (80, 320):
        specific = build("class_specific", k).predictor
        assert specific.weight.std().item() == pytest.approx(math.sqrt(2 / k), rel=0.03)
        assert not specific.bias.any()
    agnostic = build("class_agnostic", 80).predictor
    assert agnostic.weight.std().item() == pytest.approx(0.001, rel=0.2)
    assert not agnostic.bias.any()

    mlp = MaskMLP(400, 10, num_fc=3, fc_dim=200)
    weights = [p for n, p in mlp.named_parameters() if n.endswith("weight")]
    assert [tuple(w.shape) for w in weights] == [(200, 400), (200, 200), (100, 200)]
    for weight, std in zip(weights, (math.sqrt(2 / 200), math.sqrt(2 / 200), 0.001)):
        assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert not any(p.any() for n, p in mlp.named_parameters() if n.endswith("bias"))


def test_parameter_count_of_the_original_mlp() -> None:
    with torch.device("meta"):
        mlp = MaskMLP(256 * 28 * 28, 28)
    assert sum(p.numel() for p in mlp.parameters()) == 157_352_720


def make_instances(counts: list, training: bool) -> list:
    images = []
    for n in counts:
        x = Instances((40, 40))
        boxes = Boxes(torch.tensor([[4.0, 4.0, 28.0, 28.0]]).repeat(n, 1))
        if training:
            x.proposal_boxes, x.gt_classes = boxes, torch.arange(n) % K
            masks = torch.zeros(n, 40, 40, dtype=torch.bool)
            masks[:, :16] = True  # the upper half of the box
            x.gt_masks = BitMasks(masks)
        else:
            x.pred_boxes, x.pred_classes = boxes, torch.arange(n) % K
        images.append(x)
    return images


def test_classes_are_those_of_the_mode() -> None:
    x = make_instances([2], training=True)[0]
    x.pred_classes = torch.tensor([4, 5])
    assert instance_classes([x, x], training=True).tolist() == [0, 1, 0, 1]
    assert instance_classes([x, x], training=False).tolist() == [4, 5, 4, 5]


def test_loss_is_the_mean_over_pixels_times_its_weight() -> None:
    head = make_head("class_agnostic", loss_weight=3.0)
    with torch.no_grad():
        head.predictor.weight.zero_()
        head.predictor.bias.fill_(1.5)
    with EventStorage():
        losses = head(torch.randn(3, C, S, S, dtype=torch.float64), make_instances([2, 0, 1], True))
    # Half of the pixels are mask: -log sigmoid(1.5) and -log sigmoid(-1.5), averaged.
    expected = 3 * (math.log1p(math.exp(-1.5)) + math.log1p(math.exp(1.5))) / 2
    assert list(losses) == ["loss_mask"]
    assert losses["loss_mask"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("counts", [[2, 0, 1], [0, 0], [0]])
def test_inference_gives_each_image_its_probabilities(counts: list) -> None:
    head = make_head("class_specific").eval()
    with torch.no_grad():
        head.predictor.weight.zero_()
        head.predictor.bias.copy_(torch.arange(K))
    instances = make_instances(counts, training=False)
    x = torch.randn(sum(counts), C, S, S, dtype=torch.float64)
    assert head(x, instances) is instances
    for n, image in zip(counts, instances):
        assert image.pred_masks.shape == (n, 1, 2 * S, 2 * S)
        for c, mask in enumerate(image.pred_masks):
            assert torch.allclose(mask, torch.tensor(float(c), dtype=mask.dtype).sigmoid())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictor": "transfre"}, "PREDICTOR 'transfre' is not one of transfer, class_agnostic"),
        ({"mlp_input": "flat"}, "MLP.INPUT 'flat' is not one of upsampled, pooled"),
        ({"upsample": "nearest"}, "UPSAMPLE 'nearest' is not one of deconv, resize"),
        ({"predictor": "none"}, "PREDICTOR 'none' needs MODEL.ROI_MASK_HEAD.MLP.ENABLED True"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskXHead(SHAPE, num_classes=K, conv_dims=[C] * 3, **arguments)


def test_an_mlp_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="MLP.NUM_FC must be at least 1, got 0"):
        MaskMLP(10, 4, num_fc=0)


def test_transfer_without_filters_says_what_provides_them() -> None:
    head = make_head("transfer").eval()
    with pytest.raises(ValueError, match="ROI_HEADS.NAME 'PartiallySupervisedROIHeads'"):
        head(torch.randn(1, C, S, S, dtype=torch.float64), make_instances([1], training=False))


@pytest.mark.parametrize(("mlp_input", "size"), [("upsampled", 8 * 6 * 6), ("pooled", 5 * 3 * 3)])
def test_built_from_a_config(mlp_input: str, size: int) -> None:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 7
    head = cfg.MODEL.ROI_MASK_HEAD
    head.NUM_CONV, head.CONV_DIM = 2, 8
    head.CLS_AGNOSTIC_MASK = True  # detectron2's own key: PREDICTOR decides here
    head.PREDICTOR = "class_specific"
    head.MLP.ENABLED, head.MLP.NUM_FC, head.MLP.FC_DIM, head.MLP.INPUT = True, 2, 11, mlp_input
    built = MaskXHead(cfg, ShapeSpec(channels=5, height=3, width=3))
    shapes = {n: tuple(p.shape) for n, p in built.named_parameters() if n.endswith("weight")}
    mlp_shapes = [shape for n, shape in shapes.items() if n.startswith("mlp.")]
    assert shapes["predictor.weight"] == (7, 8, 1, 1)
    assert shapes["mask_fcn1.weight"] == (8, 5, 3, 3)
    assert "mask_fcn3.weight" not in shapes
    assert mlp_shapes == [(11, size), (36, 11)]
    assert built.logits(torch.zeros(2, 5, 3, 3), torch.tensor([6, 0])).shape == (2, 1, 6, 6)


def with_crops(masks: torch.Tensor) -> Instances:
    """Instances whose mask targets are the given masks (R, S, S)."""
    x = Instances((2 * S, 2 * S))
    x.proposal_boxes = Boxes(torch.tensor([[0.0, 0, 2 * S, 2 * S]]).repeat(len(masks), 1))
    x.gt_masks, x.gt_classes = BitMasks(masks), torch.zeros(len(masks), dtype=torch.long)
    return x


def test_dice_loss_by_hand() -> None:
    masks = torch.zeros(3, 2 * S, 2 * S, dtype=torch.bool)
    masks[:, :3] = True  # the upper half: 18 of 36 pixels
    logits = torch.full((3, 1, 2 * S, 2 * S), -100.0, dtype=torch.float64)
    logits[0][:, masks[0]] = 100  # right
    logits[1][:, ~masks[1]] = 100  # the wrong half
    logits[2] = 0  # 0.5 everywhere: 1 - 2 * 9 / (36 / 4 + 18) = 1 / 3
    image, nothing = with_crops(masks), with_crops(masks[:0])
    loss = mask_dice_loss(logits, [nothing, image])
    torch.testing.assert_close(loss, torch.tensor((0 + 1 + 1 / 3) / 3, dtype=torch.float64))


def test_bce_and_dice_add_up() -> None:
    x = torch.randn(3, C, S, S, dtype=torch.float64)
    image = with_crops(torch.rand(3, 2 * S, 2 * S) > 0.5)
    plain, both = make_head("class_agnostic"), make_head("class_agnostic", loss="bce+dice")
    both.load_state_dict(plain.state_dict())
    with EventStorage():
        bce, sum_of_both = (h.train()(x, [image])["loss_mask"] for h in (plain, both))
        dice = mask_dice_loss(plain.logits(x, image.gt_classes), [image])
        torch.testing.assert_close(sum_of_both, bce + dice)
        empty = both(x[:0], [image[:0]])["loss_mask"]
    empty.backward()
    assert empty == 0 and not any(p.grad.any() for p in both.parameters())


def test_dice_of_extreme_logits_under_autocast_is_finite() -> None:
    image = with_crops(torch.rand(2, 2 * S, 2 * S) > 0.5)
    logits = (torch.randint(2, (2, 1, 2 * S, 2 * S)) * 100.0 - 50).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = mask_dice_loss(logits, [image])
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_objects_without_a_mask_have_no_part_in_the_mask_loss() -> None:
    head = make_head("class_agnostic", loss="bce+dice").train()
    x = torch.randn(3, C, S, S, dtype=torch.float64)
    image = with_crops(torch.rand(3, 2 * S, 2 * S) > 0.5)
    image.gt_has_mask = torch.tensor([True, False, True])
    with EventStorage():
        torch.testing.assert_close(
            head(x, [image])["loss_mask"], head(x[[0, 2]], [image[[0, 2]]])["loss_mask"]
        )


@pytest.mark.parametrize("predictor", ["transfer", "class_agnostic", "class_specific"])
@pytest.mark.parametrize("side, depth", [(14, 10), (28, 20), (32, 10)])
def test_an_hourglass_in_place_of_convolutions(predictor: str, side: int, depth: int) -> None:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    mask = cfg.MODEL.ROI_MASK_HEAD
    mask.PREDICTOR, mask.TRUNK, mask.HOURGLASS_DEPTH, mask.CONV_DIM = (
        predictor,
        "hourglass",
        depth,
        C,
    )
    mask.COORDINATES = True
    head = MaskXHead(cfg, ShapeSpec(channels=C, height=side, width=side))
    names = {name.split(".")[0] for name, _ in head.named_parameters()}
    assert names == {"hourglass", *(() if predictor == "transfer" else ("predictor",))}
    filters = torch.randn(2, C) if predictor == "transfer" else None
    x = torch.randn(2, C + 5, side, side)
    logits = head.logits(x, torch.tensor([0, 1]), filters)
    assert logits.shape == (2, 1, 2 * side, 2 * side)
    logits.sum().backward()
    assert [n for n, p in head.named_parameters() if p.grad is None] == []


def test_resizing_has_one_filter_for_all_sub_pixels() -> None:
    torch.manual_seed(0)
    head = make_head("class_agnostic", upsample="resize")
    state = head.state_dict()
    assert state["deconv.weight"].shape == (C, C, 1, 1)
    x = torch.randn(2, C, S, S, dtype=torch.float64)
    before = head.mask_fcn2(head.mask_fcn1(x))
    large = functional.interpolate(before, scale_factor=2, mode="bilinear")
    expected = functional.conv2d(large, state["deconv.weight"], state["deconv.bias"]).relu()
    torch.testing.assert_close(head.trunk(x), expected)
    # Where the features are flat, nothing of the sub-pixels' period is left.
    flat = head.trunk(torch.ones(1, C, 9, 9, dtype=torch.float64))[..., 6:-6, 6:-6]
    torch.testing.assert_close(flat, flat[..., :1, :1].expand_as(flat))


def test_unknown_losses_and_trunks_are_refused() -> None:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.MODEL.ROI_MASK_HEAD.LOSS = "dice"
    with pytest.raises(ValueError, match="LOSS 'dice' is not one of bce, bce.dice"):
        MaskXHead(cfg, SHAPE)
    cfg.MODEL.ROI_MASK_HEAD.LOSS = "bce"
    cfg.MODEL.ROI_MASK_HEAD.TRUNK = "resnet"
    with pytest.raises(ValueError, match="TRUNK 'resnet' is not one of convs, hourglass"):
        MaskXHead(cfg, SHAPE)
    cfg.MODEL.ROI_MASK_HEAD.TRUNK, cfg.MODEL.ROI_MASK_HEAD.HOURGLASS_DEPTH = "hourglass", 50
    with pytest.raises(ValueError, match="HOURGLASS_DEPTH 50 is not one of 10, 20, 52"):
        MaskXHead(cfg, SHAPE)
