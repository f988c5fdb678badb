"""The model without a detector: what it trains on; weights go to the full model and back."""

from types import SimpleNamespace
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_models import K, make_batch, make_cfg
from torch import nn

from seg_every_thing import BoxToMask, Trainer, freeze_detector
from seg_every_thing.engine.box_prompts import predict_masks

AGNOSTIC = {"roi_mask_head__predictor": "class_agnostic"}
TRANSFER = {
    "weight_transfer__input": "embedding",
    "weight_transfer__embedding_file": "random:0",
    "weight_transfer__normalize": True,
}
RECIPE = {
    **AGNOSTIC,
    "roi_mask_head__box_scale": 1.25,
    "roi_mask_head__coordinates": True,
    "roi_mask_head__box_jitter": 0.05,
    "roi_mask_head__loss": "bce+dice",
    "roi_mask_head__box_loss__enabled": True,
}

each_kind = pytest.mark.parametrize("overrides", [AGNOSTIC, TRANSFER, RECIPE])


def box_to_mask_cfg(**overrides: Any) -> CfgNode:
    return make_cfg(meta_architecture="BoxToMask", **overrides)


def make_model(seed: int = 0, **overrides: Any) -> nn.Module:
    torch.manual_seed(seed)
    return Trainer.build_model(box_to_mask_cfg(**overrides))


def given(n: int = 2) -> Instances:
    x = Instances((64, 64))
    x.pred_boxes = Boxes(torch.tensor([[4.0, 4, 30, 30], [20, 10, 60, 60]])[:n])
    x.pred_classes, x.scores = torch.tensor([0, 2])[:n], torch.ones(n)
    return x


@each_kind
@pytest.mark.parametrize("frozen", [False, True])
def test_it_trains_all_it_has(overrides: Dict[str, Any], frozen: bool) -> None:
    model = make_model(freeze_detector=frozen, **overrides)
    assert isinstance(model, BoxToMask) and model.training
    with EventStorage():
        losses = model(make_batch())
    boxes = {"loss_mask_projection", "loss_mask_affinity"} if overrides is RECIPE else set()
    assert set(losses) == {"loss_mask"} | boxes
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        learns = name.startswith("roi_heads.") or not frozen
        assert parameter.requires_grad == learns
        assert (parameter.grad is not None and torch.isfinite(parameter.grad).all()) == learns
    names = {n.rsplit(".", 2)[0].split(".")[0] for n, _ in model.named_parameters()}
    assert names == {"backbone", "roi_heads"}


def test_a_batch_without_objects_touches_every_parameter() -> None:
    model = make_model(**RECIPE)
    with EventStorage():
        losses = model(make_batch()[1:])
    sum(losses.values()).backward()
    assert all(v == 0 for v in losses.values())
    assert [n for n, p in model.named_parameters() if p.grad is None or p.grad.any()] == []


@each_kind
def test_weights_load_into_the_full_model_and_back(overrides: Dict[str, Any]) -> None:
    small, batch = make_model(**overrides).eval(), make_batch()
    torch.manual_seed(1)
    full = build_model(make_cfg(**overrides)).eval()

    def masks(model: nn.Module) -> List[torch.Tensor]:
        with torch.no_grad():
            found = model.inference(batch, detected_instances=[given(), given(0)])
        return [x["instances"].pred_masks for x in found]

    before = masks(full)
    assert before[0].shape == (2, 64, 64) and before[1].shape[0] == 0
    assert not all(torch.equal(a, b) for a, b in zip(before, masks(small)))
    loaded = small.load_state_dict(full.state_dict(), strict=False)
    assert loaded.missing_keys == []
    parts = ("proposal_generator.", "roi_heads.box_head.", "roi_heads.box_predictor.")
    assert loaded.unexpected_keys and all(k.startswith(parts) for k in loaded.unexpected_keys)
    assert all(torch.equal(a, b) for a, b in zip(before, masks(small)))

    other = make_model(seed=2, **overrides).eval()
    expected = masks(other)
    loaded = full.load_state_dict(other.state_dict(), strict=False)
    assert loaded.unexpected_keys == [] and all(k.startswith(parts) for k in loaded.missing_keys)
    assert all(torch.equal(a, b) for a, b in zip(expected, masks(full)))


@pytest.mark.parametrize(
    "key, kind", [("instances", "gt"), ("instances", "pred"), ("proposals", "")]
)
def test_boxes_come_with_the_inputs(key: str, kind: str) -> None:
    model, (sample, _) = make_model(**AGNOSTIC).eval(), make_batch()
    with torch.no_grad():
        (expected,) = model.inference([sample], detected_instances=[given()])
    x = given()
    del sample["instances"]
    if kind == "gt":
        x = Instances((64, 64), gt_boxes=x.pred_boxes, gt_classes=x.pred_classes)
    elif not kind:
        x = Instances((64, 64), proposal_boxes=x.pred_boxes, gt_classes=x.pred_classes)
    sample.update({key: x, "height": 128, "width": 128})
    with torch.no_grad():
        (found,) = model([sample])
    assert found["instances"].pred_masks.shape == (2, 128, 128)
    assert found["instances"].scores.tolist() == [1, 1]
    torch.testing.assert_close(found["instances"].pred_boxes.tensor, given().pred_boxes.tensor * 2)
    (field,) = (f for f in x.get_fields() if f.endswith("boxes"))
    assert torch.equal(x.get(field).tensor, given().pred_boxes.tensor)  # the caller's stay
    small = expected["instances"].pred_masks.sum((1, 2))
    torch.testing.assert_close(
        found["instances"].pred_masks.sum((1, 2)) / 4, small * 1.0, rtol=0.2, atol=20
    )


def test_masks_for_boxes_of_a_file() -> None:
    cfg = box_to_mask_cfg(**RECIPE)
    predictor = SimpleNamespace(
        model=Trainer.build_model(cfg).eval(),
        input_format="BGR",
        aug=ResizeShortestEdge(64, 128),
    )
    image = np.random.RandomState(0).randint(256, size=(96, 120, 3), dtype=np.uint8)
    boxes = np.array([[10, 12, 50, 70], [-5, 0, 60, 200.0]])
    found = predict_masks(predictor, image, boxes, [0, 2])
    assert found.pred_masks.shape == (2, 96, 120)
    assert found.pred_boxes.tensor.tolist() == boxes.tolist()
    assert len(predict_masks(predictor, image, boxes[:0], [])) == 0


def test_inputs_without_boxes_are_refused() -> None:
    model, (sample, _) = make_model(**AGNOSTIC).eval(), make_batch()
    for instances in (None, Instances((64, 64), pred_boxes=given().pred_boxes)):
        sample.update({"file_name": "a/b.png", "instances": instances})
        with pytest.raises(ValueError, match="a/b.png: .*'BoxToMask' finds no boxes: give"):
            model([sample])


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({}, "WEIGHT_TRANSFER.INPUT 'cls.box' needs the box predictor .*'embedding'"),
        ({"weight_transfer__input": "cls"}, "WEIGHT_TRANSFER.INPUT 'cls' needs the box predictor"),
        ({"mask_on": False}, "set MODEL.MASK_ON"),
        ({"roi_mask_head__name": "MaskRCNNConvUpsampleHead"}, "needs .*NAME 'MaskXHead'"),
    ],
)
def test_configs_that_cannot_work_are_refused(overrides: Dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(box_to_mask_cfg(**overrides))


def test_freezing_keeps_the_backbone_as_it_is() -> None:
    model = make_model(**AGNOSTIC)
    freeze_detector(model)
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    with EventStorage():
        sum(model.train()(make_batch()).values()).backward()
    optimizer.step()
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert model.roi_heads.num_classes == K
