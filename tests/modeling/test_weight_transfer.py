"""T and its inputs, against numbers from the paper and a plain reference."""

import math
import re
from typing import Dict, Tuple

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch.func import functional_call

from seg_every_thing import WeightTransfer, add_seg_every_thing_config
from seg_every_thing.modeling.weight_transfer import class_embedding

K, F = 5, 3
KINDS = {"cls": F, "box": 4 * F, "cls+box": 5 * F}


def box_predictor(
    num_classes: int = K, width: int = F, class_agnostic: bool = False
) -> FastRCNNOutputLayers:
    """Weight of class c (background: K), output o, input f = 100 c + 10 o + f; o = 9 for scores."""
    layers = FastRCNNOutputLayers(
        ShapeSpec(channels=width),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        num_classes=num_classes,
        cls_agnostic_bbox_reg=class_agnostic,
    ).double()
    with torch.no_grad():
        f = torch.arange(width)
        for c in range(num_classes + 1):
            layers.cls_score.weight[c] = 100.0 * c + 90 + f
        for row in range(len(layers.bbox_pred.weight)):
            layers.bbox_pred.weight[row] = 100.0 * (row // 4) + 10 * (row % 4) + f
        layers.cls_score.bias.fill_(math.nan)  # biases describe no class
        layers.bbox_pred.bias.fill_(math.nan)
    return layers


def expected_vector(c: int, kind: str) -> list:
    cls = [100 * c + 90 + f for f in range(F)]
    box = [100 * c + 10 * o + f for o in range(4) for f in range(F)]
    return {"cls": cls, "box": box, "cls+box": cls + box}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_class_vectors_are_scores_then_dx_dy_dw_dh_without_background(kind: str) -> None:
    vectors = class_embedding(box_predictor(), kind)
    expected = torch.tensor([expected_vector(c, kind) for c in range(K)], dtype=torch.float64)
    assert vectors.shape == (K, KINDS[kind])
    assert torch.equal(vectors, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [[4, 0, 4], [2], []])
def test_gathered_rows_are_the_selected_rows(kind: str, classes: list) -> None:
    predictor = box_predictor()
    index = torch.tensor(classes, dtype=torch.int64)
    gathered = class_embedding(predictor, kind, index)
    assert gathered.shape == (len(classes), KINDS[kind])
    assert torch.equal(gathered, class_embedding(predictor, kind)[index])


def test_class_vectors_are_attached_to_the_weights() -> None:
    predictor = box_predictor()
    class_embedding(predictor, "cls+box", torch.tensor([1, 1])).sum().backward()
    expected = torch.zeros(K + 1, F, dtype=torch.float64)
    expected[1] = 2  # asked for twice
    assert torch.equal(predictor.cls_score.weight.grad, expected)
    assert torch.equal(predictor.bbox_pred.weight.grad, expected[:K].repeat_interleave(4, 0))


@pytest.mark.parametrize("kind", ["", "box+cls", "embedding", "c"])
def test_unknown_class_vectors_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"unknown class vector '{kind}': expected cls")):
        class_embedding(box_predictor(), kind)


@pytest.mark.parametrize("num_classes", [2, 5])  # 4 x 3 weights could be taken for 2 x 6
def test_box_vectors_of_a_class_agnostic_predictor_are_refused(num_classes: int) -> None:
    predictor = box_predictor(num_classes, class_agnostic=True)
    assert class_embedding(predictor, "cls").shape == (num_classes, F)
    with pytest.raises(ValueError, match="CLS_AGNOSTIC_BBOX_REG"):
        class_embedding(predictor, "box")


def plain_transfer(
    parameters: Dict[str, torch.Tensor], x: torch.Tensor, activation: str
) -> torch.Tensor:
    """The definition: x W1' + b1, activation, x W2' + b2, ... without one after the last."""
    names = [name[: -len(".weight")] for name in parameters if name.endswith(".weight")]
    for i, name in enumerate(names):
        x = torch.matmul(x, parameters[f"{name}.weight"].T) + parameters[f"{name}.bias"]
        if i < len(names) - 1 and activation == "relu":
            x = torch.where(x > 0, x, torch.zeros_like(x))
        elif i < len(names) - 1 and activation == "leaky_relu":
            x = torch.where(x > 0, x, 0.1 * x)
    return x


@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "none"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_transfer_equals_a_plain_reference(num_layers: int, activation: str) -> None:
    torch.manual_seed(0)
    transfer = WeightTransfer(
        input_dim=7, output_dim=4, num_layers=num_layers, activation=activation
    ).double()
    parameters = dict(transfer.named_parameters())
    assert len(parameters) == 2 * num_layers
    for parameter in parameters.values():
        torch.nn.init.normal_(parameter)  # biases too
    x = torch.randn(6, 7, dtype=torch.float64)
    torch.testing.assert_close(
        transfer(x), plain_transfer(parameters, x, activation), rtol=1e-12, atol=1e-12
    )
    assert transfer(x[:0]).shape == (0, 4)


def test_two_layers_by_hand() -> None:
    transfer = WeightTransfer(input_dim=1, output_dim=1, num_layers=2)
    first, second = (p for n, p in transfer.named_parameters() if n.endswith("weight"))
    with torch.no_grad():
        first.fill_(2.0)
        second.fill_(3.0)
    # 3 leaky(2 x): 3 (-20 / 10) and 3 * 20
    assert transfer(torch.tensor([[-10.0], [10.0]])).flatten().tolist() == pytest.approx([-6, 60])


@pytest.mark.parametrize(
    ("num_layers", "count"),
    [
        (1, 5120 * 256 + 256),
        (2, 1_376_768),  # the original's, for cls+box
        (3, 1_376_768 + 256 * 256 + 256),
    ],
)
def test_parameter_counts(num_layers: int, count: int) -> None:
    width = class_embedding(box_predictor(2, 1024), "cls+box").shape[1]
    transfer = WeightTransfer(input_dim=width, num_layers=num_layers)
    assert sum(p.numel() for p in transfer.parameters()) == count


@pytest.mark.parametrize("width", [300, 1024, 5120])
def test_initial_weights_are_scaled_by_the_outputs_for_any_input_width(width: int) -> None:
    torch.manual_seed(0)
    for name, parameter in WeightTransfer(input_dim=width, num_layers=3).named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            # 65536 or more samples: the deviation of their deviation is under 0.3 %.
            assert parameter.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.02)
            assert abs(parameter.mean().item()) < 0.002


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_what_set_a_never_says_keeps_its_initial_weights(scale: float) -> None:
    torch.manual_seed(0)
    transfer = WeightTransfer(input_dim=8, output_dim=16, init_scale=scale).double()
    seen = torch.randn(5, 8, dtype=torch.float64)
    unseen = torch.linalg.qr(torch.cat([seen, torch.randn(1, 8)]).T)[0][:, -1]
    torch.testing.assert_close(seen @ unseen, torch.zeros(5).double())
    before = transfer.layers[0].weight.detach() @ unseen
    optimizer = torch.optim.SGD(transfer.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        loss = (transfer(seen) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1  # it has learned: filters of 0 have a loss of 1
    torch.testing.assert_close(transfer.layers[0].weight @ unseen, before)
    # Without initial weights the unseen part of a class vector of set B has no effect.
    change = (transfer(seen + unseen) - transfer(seen)).abs().max()
    assert change < 1e-12 if scale == 0 else change > 0.1


def test_the_initial_scale_is_that_of_the_first_layer_alone() -> None:
    layers = []
    for scale in (1.0, 0.25):
        torch.manual_seed(0)
        layers.append(WeightTransfer(input_dim=8, output_dim=3, init_scale=scale).layers)
    assert torch.equal(layers[1][0].weight, layers[0][0].weight / 4)
    assert torch.equal(layers[1][2].weight, layers[0][2].weight)


@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "none"])
def test_gradient_of_transfer(activation: str) -> None:
    torch.manual_seed(0)
    transfer = WeightTransfer(input_dim=5, output_dim=3, num_layers=3, activation=activation)
    transfer.double()
    names, values = zip(*transfer.named_parameters())

    def call(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return functional_call(transfer, dict(zip(names, parameters)), (x,))

    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(call, (x, *values))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_layers": 0}, "NUM_LAYERS must be at least 1: 0"),
        ({"init_scale": -1.0}, "INIT_SCALE must be at least 0: -1.0"),
        ({"activation": "gelu"}, "ACTIVATION 'gelu' is not one of leaky_relu, relu, none"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightTransfer(input_dim=4, **arguments)


def test_built_from_a_config() -> None:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    assert layer_shapes(WeightTransfer(cfg, 20)) == ((256, 20), (256, 256))
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 6
    cfg.MODEL.WEIGHT_TRANSFER.NUM_LAYERS = 3
    cfg.MODEL.WEIGHT_TRANSFER.ACTIVATION = "relu"
    transfer = WeightTransfer(cfg, 20)
    assert layer_shapes(transfer) == ((6, 20), (6, 6), (6, 6))
    assert sum(isinstance(m, torch.nn.ReLU) for m in transfer.modules()) == 2


def layer_shapes(transfer: WeightTransfer) -> Tuple[Tuple[int, ...], ...]:
    return tuple(tuple(p.shape) for n, p in transfer.named_parameters() if n.endswith("weight"))
