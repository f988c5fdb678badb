"""The loss on a teacher's masks: by hand, only where it is sure, and for the right objects."""

import math
from typing import Any, Iterator, List, Optional

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from tiny_heads import make_features, make_heads, make_image, mask_parameters
from tiny_models import make_batch, make_cfg

from seg_every_thing import Trainer
from seg_every_thing.modeling.box_losses import BoxLosses
from seg_every_thing.modeling.mask_rois import has_pseudo_mask, select_proposals_with_masks
from seg_every_thing.modeling.pseudo_mask_loss import PseudoMaskLoss


@pytest.fixture(autouse=True)
def storage() -> Iterator[None]:
    torch.manual_seed(0)
    with EventStorage():
        yield


def taught(masks: Any, boxes: Any, rois: Any, has_mask: Optional[List[bool]] = None) -> Instances:
    x = Instances((64, 64))
    x.gt_boxes, x.proposal_boxes = Boxes(torch.tensor(boxes)), Boxes(torch.tensor(rois))
    x.gt_classes = torch.zeros(len(x), dtype=torch.long)
    x.gt_pseudo_masks = torch.tensor(masks, dtype=torch.uint8)
    x.gt_has_pseudo = torch.ones(len(x), dtype=torch.bool)
    x.gt_has_mask = torch.tensor(has_mask or [False] * len(x))
    return x


BOX = [8.0, 8, 12, 12]


def test_values_by_hand() -> None:
    # 204 = 0.8 and 51 = 0.2 are sure, 128 and 0.3 < 77 / 255 are not.
    x = taught([[[204, 128], [77, 51]]], [BOX], [BOX])
    logits = torch.tensor([[[[1.0, 5], [-7, 2]]]], dtype=torch.float64)
    bce = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2
    loss = PseudoMaskLoss(weight=3.0)(logits, [x])["loss_mask_pseudo"]
    assert loss.item() == pytest.approx(3 * bce)

    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))
    dice = 1 - 2 * p / (p * p + q * q + 1)
    loss = PseudoMaskLoss(dice=True)(logits, [x])["loss_mask_pseudo"]
    assert loss.item() == pytest.approx(bce + dice)

    loss = PseudoMaskLoss(confidence=0.5)(logits, [x])["loss_mask_pseudo"]
    signs = [-1, -5, -7, 2]  # of the targets 1, 1 (128), 0 (77), 0
    assert loss.item() == pytest.approx(sum(math.log(1 + math.exp(s)) for s in signs) / 4)


def test_a_roi_larger_than_its_box_has_background_around() -> None:
    x = taught([[[255]]], [BOX], [[6.0, 6, 14, 14]])  # cells of 2 pixels, the box has 4 of 16
    logits = torch.full((1, 1, 4, 4), -30.0)
    logits[:, :, 1:3, 1:3] = 30
    assert PseudoMaskLoss()(logits, [x])["loss_mask_pseudo"] < 1e-6
    filled = PseudoMaskLoss()(torch.full((1, 1, 4, 4), 30.0), [x])["loss_mask_pseudo"]
    assert filled.item() == pytest.approx(30 * 12 / 16)


def test_each_roi_weighs_the_same_whatever_it_is_sure_of() -> None:
    sure, half, never = [[255, 255]], [[255, 128]], [[128, 128]]
    x = taught([sure, half, never], [BOX] * 3, [BOX] * 3)
    logits = torch.zeros(3, 1, 2, 2).requires_grad_()
    loss = PseudoMaskLoss()(logits, [x])["loss_mask_pseudo"]
    assert loss.item() == pytest.approx(2 * math.log(2) / 3)
    loss.backward()
    moved = logits.grad != 0
    assert moved[0].all() and moved[1, 0].tolist() == [[True, False]] * 2 and not moved[2].any()


def test_half_precision_stays_finite() -> None:
    x = taught([[[255, 0]]], [BOX], [BOX])
    logits = torch.tensor([[[[50.0, -50]]]]).repeat(1, 1, 2, 1).half().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = PseudoMaskLoss(dice=True)(-logits, [x])["loss_mask_pseudo"]
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(50 + 1, abs=1e-3)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"weight": 0.0}, "WEIGHT must be above 0, got 0.0"),
        ({"confidence": 1.0}, "CONFIDENCE must be from 0.5 to below 1, got 1.0"),
        ({"confidence": 0.3}, "CONFIDENCE must be from 0.5"),
    ],
)
def test_values_out_of_range(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PseudoMaskLoss(**values)


def with_pseudo(x: Instances, has_pseudo: List[bool]) -> Instances:
    x.gt_pseudo_masks = torch.randint(256, (len(x), 5, 5), dtype=torch.uint8)
    x.gt_has_pseudo = torch.tensor([*has_pseudo, False])
    return x


def images() -> List[Instances]:
    """Objects 2 and 6 have a mask (2 a pseudo-mask, too), 5 a pseudo-mask, 0 a box alone."""
    return [
        with_pseudo(make_image([2, 5], [True, False]), [True, True]),
        with_pseudo(make_image([6, 0], [True, False]), [False, False]),
    ]


@pytest.mark.parametrize("predictor", ["transfer", "class_agnostic", "class_specific"])
def test_heads_learn_from_both_kinds_apart(predictor: str) -> None:
    heads = make_heads(predictor, pseudo_mask_loss=PseudoMaskLoss())
    features = make_features()
    losses = heads._forward_mask(features, images())
    assert set(losses) == {"loss_mask", "loss_mask_pseudo"} and losses["loss_mask_pseudo"] > 0

    # The mask loss is that of the objects with a mask, as if there were no others.
    heads.pseudo_mask_loss, pseudo_mask_loss = None, heads.pseudo_mask_loss
    own = [images()[0][[0]], images()[1][[0]]]
    torch.testing.assert_close(losses["loss_mask"], heads._forward_mask(features, own)["loss_mask"])

    # A pseudo-mask counts where there is no mask, and masks do not count there.
    heads.pseudo_mask_loss = pseudo_mask_loss
    torch.manual_seed(1)
    first = heads._forward_mask(features, images())
    torch.manual_seed(1)
    others = images()
    others[0].gt_pseudo_masks[0] = 255 - others[0].gt_pseudo_masks[0]
    others[0].gt_masks = BitMasks(others[0].gt_masks.tensor.clone())
    others[0].gt_masks.tensor[1] = ~others[0].gt_masks.tensor[1]
    second = heads._forward_mask(features, others)
    assert all(torch.equal(first[name], second[name]) for name in losses)


def test_box_losses_go_on_for_taught_objects() -> None:
    heads = make_heads("class_agnostic", box_losses=BoxLosses(warmup=0.0), max_iter=1)
    pictures = ImageList.from_tensors(list(100 + torch.rand(2, 3, 64, 64)))
    features, targets = make_features(), [x[x.gt_classes < 7] for x in images()]
    without = heads._forward_mask(features, images(), pictures, targets)
    heads.pseudo_mask_loss = PseudoMaskLoss()
    both = heads._forward_mask(features, images(), pictures, targets)
    assert both.keys() - without.keys() == {"loss_mask_pseudo"}
    assert all(torch.equal(without[name], both[name]) for name in without)


@pytest.mark.parametrize("kind", ["masks alone", "pseudo-masks alone", "background"])
def test_batches_without_either_kind_touch_every_parameter(kind: str) -> None:
    heads = make_heads("transfer", pseudo_mask_loss=PseudoMaskLoss())
    classes = [] if kind == "background" else [2, 5]
    n = len(classes)
    rois = [make_image(classes, [kind == "masks alone"] * n), make_image([])]
    rois[0] = with_pseudo(rois[0], [kind == "pseudo-masks alone"] * n)  # the other lacks the fields
    losses = heads._forward_mask(make_features(), rois)
    assert (losses["loss_mask_pseudo"] > 0) == (kind == "pseudo-masks alone")
    assert (losses["loss_mask"] > 0) == (kind == "masks alone")
    sum(losses.values()).backward()
    for parameter in mask_parameters(heads).values():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()


def test_selection() -> None:
    kept = select_proposals_with_masks(images(), 7)
    assert [x.gt_classes.tolist() for x in kept] == [[2, 5], [6]]
    assert [has_pseudo_mask(x).tolist() for x in kept] == [[False, True], [False]]


@pytest.mark.parametrize("architecture", ["GeneralizedRCNN", "BoxToMask"])
@pytest.mark.parametrize("train_on", ["proposals", "gt_boxes", "both"])
@pytest.mark.parametrize("frozen", [False, True])
def test_models_from_config_train(architecture: str, train_on: str, frozen: bool) -> None:
    cfg = make_cfg(
        meta_architecture=architecture,
        roi_mask_head__predictor="class_agnostic",
        roi_mask_head__train_on=train_on,
        roi_mask_head__box_scale=1.25,
        datasets__pseudo_masks="taught",
        freeze_detector=frozen,
    )
    model, batch = Trainer.build_model(cfg), make_batch()
    x = batch[0]["instances"]
    x.gt_pseudo_masks = torch.randint(256, (2, 12, 12), dtype=torch.uint8)
    x.gt_has_pseudo = torch.tensor([False, True])
    with torch.autocast("cpu", torch.bfloat16, enabled=frozen):
        losses = model(batch)
    assert losses["loss_mask_pseudo"] > 0 and losses["loss_mask"] > 0
    assert losses["loss_mask_pseudo"].dtype == torch.float32
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if "mask_head" in name:
            assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


def test_other_mask_heads_are_refused() -> None:
    cfg = make_cfg(roi_mask_head__name="MaskRCNNConvUpsampleHead", datasets__pseudo_masks="taught")
    with pytest.raises(ValueError, match="DATASETS.PSEUDO_MASKS needs .*'MaskXHead'"):
        Trainer.build_model(cfg)
