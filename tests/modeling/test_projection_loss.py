"""Tightness: rows and columns of a mask as bags of pixels ("dice" is in test_box_losses)."""

import math
from typing import Any

import pytest
import torch
from box_loss_inputs import batch, boxes_of, mirrored
from detectron2.config import get_cfg

from seg_every_thing import add_seg_every_thing_config
from seg_every_thing.modeling.box_losses import BoxLosses
from seg_every_thing.modeling.projection_loss import tightness_loss

NAME = "loss_mask_projection"


def test_tightness_by_hand() -> None:
    """2 x 2 cells, the box is the left column."""
    p = torch.tensor([[[0.8, 0.2], [0.4, 0.6]]], dtype=torch.float64)
    loss = tightness_loss(p.logit(), boxes_of((0, 0, 2, 2)), boxes_of((0, 0, 1, 2)))
    rows = -(math.log(0.8) + math.log(0.6)) / 2  # the box crosses both
    columns = -math.log(0.8) - math.log(1 - 0.6)  # the left one, and the right one
    assert loss.tolist() == pytest.approx([rows + columns])


@pytest.mark.parametrize("box", [(0, 0, 8, 8), (2, 1, 6, 7)])
def test_a_mask_equal_to_the_box_has_no_loss_and_one_that_spills_has(box: Any) -> None:
    roi, boxes = boxes_of((0, 0, 8, 8)), boxes_of(box)
    mask = torch.full((1, 8, 8), -50.0, dtype=torch.float64)
    mask[:, box[1] : box[3], box[0] : box[2]] = 50
    assert tightness_loss(mask, roi, boxes).item() == pytest.approx(0, abs=1e-9)
    everything = torch.full_like(mask, 50)
    # Without a line outside of the box there is nothing to spill on.
    expected = 0 if box == (0, 0, 8, 8) else 2 * 50
    assert tightness_loss(everything, roi, boxes).item() == pytest.approx(expected, abs=1e-9)


def test_lines_that_a_box_covers_in_part_are_of_both_kinds() -> None:
    """One row; the box covers one column and a quarter of the next, of three."""
    logits = torch.tensor([[[1.0, 2.0, -1.0]]], dtype=torch.float64)
    loss = tightness_loss(logits, boxes_of((0, 0, 3, 1)), boxes_of((0, 0, 1.25, 1)))
    present, absent = (lambda z: math.log1p(math.exp(-z))), (lambda z: math.log1p(math.exp(z)))
    columns = (present(1) + 0.25 * present(2)) / 1.25 + (0.75 * absent(2) + absent(-1)) / 1.75
    assert loss.item() == pytest.approx(present(2) + columns)


def test_what_lies_in_the_margin_does_not_count() -> None:
    """8 x 8 cells of 2 pixels, all of them in the box, the mask without its outermost cells."""
    boxes = boxes_of((0, 0, 16, 16))
    mask = torch.full((1, 8, 8), -50.0, dtype=torch.float64)
    mask[:, 1:7, 1:7] = 50
    assert tightness_loss(mask, boxes, boxes, 2.0).item() == pytest.approx(0, abs=1e-9)
    # Two of eight lines on each axis miss it; half of each, with half of the margin.
    assert tightness_loss(mask, boxes, boxes).item() == pytest.approx(2 * 2 * 50 / 8)
    assert tightness_loss(mask, boxes, boxes, 1.0).item() == pytest.approx(2 * 50 / 7)


def test_mirrored_masks_have_the_same_loss() -> None:
    inputs = batch()
    losses = BoxLosses(projection="tightness", affinity_weight=0.0)
    assert losses(**mirrored(inputs))[NAME].item() == pytest.approx(losses(**inputs)[NAME].item())


@pytest.mark.parametrize("num_rois", [0, 3])
def test_gradients(num_rois: int) -> None:
    inputs = batch(num_rois, side=5)
    logits = inputs.pop("logits").requires_grad_()
    losses = BoxLosses(projection="tightness", affinity_weight=0.0, margin=1.0)
    if num_rois:
        assert torch.autograd.gradcheck(lambda x: losses(logits=x, **inputs)[NAME], logits)
    else:
        assert losses(logits=logits, **inputs)[NAME].item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype: torch.dtype) -> None:
    inputs = batch()
    for key in ("rois", "boxes", "gt_boxes"):
        inputs[key] = [b.float() for b in inputs[key]]
    inputs["logits"] = (inputs["logits"].sign() * 50).to(dtype).requires_grad_()
    losses = BoxLosses(projection="tightness", affinity_weight=0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses(**inputs)[NAME]
    (gradient,) = torch.autograd.grad(loss, inputs["logits"])
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert torch.isfinite(gradient).all() and gradient.any()


def test_the_config_names_it() -> None:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    assert BoxLosses(cfg).projection == BoxLosses().projection == "dice"
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.PROJECTION = "tightness"
    assert BoxLosses(cfg).projection == "tightness"
    with pytest.raises(ValueError, match="BOX_LOSS.PROJECTION 'mil'.*dice, tightness"):
        BoxLosses(projection="mil")
