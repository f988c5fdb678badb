"""Losses of masks from boxes: by hand, under symmetries, at the ends of what numbers can hold."""

import math
from typing import Any, Dict, List

import pytest
import torch
from box_loss_inputs import batch, boxes_of, enlarged, mirrored
from detectron2.config import get_cfg
from detectron2.structures import ImageList

from seg_every_thing import add_seg_every_thing_config
from seg_every_thing.modeling.box_losses import (
    BoxLosses,
    box_coverage,
    filled_box_loss,
    other_objects,
    projection_loss,
)
from seg_every_thing.modeling.dice_loss import dice_loss

BOTH = ("loss_mask_projection", "loss_mask_affinity")


# --- projection ---------------------------------------------------------------------------------


def test_coverage_by_hand() -> None:
    # Rows of 5, columns of 2 pixels.
    rows, columns = box_coverage(boxes_of((0, 0, 10, 20)), boxes_of((1, 5, 7, 19)), (4, 5))
    assert rows.tolist() == [pytest.approx([0, 1, 1, 0.8])]
    assert columns.tolist() == [pytest.approx([0.5, 1, 1, 0.5, 0])]


@pytest.mark.parametrize("box", [(30, 0, 40, 9), (-9, 0, 0, 9), (4, 3, 4, 9)])
def test_coverage_of_a_box_that_is_not_there(box: Any) -> None:
    _, columns = box_coverage(boxes_of((0, 0, 10, 10)), boxes_of(box), (5, 5))
    assert columns.tolist() == [[0, 0, 0, 0, 0]]


def test_coverage_of_a_roi_without_area_is_finite() -> None:
    rows, columns = box_coverage(boxes_of((3, 3, 3, 9)), boxes_of((0, 0, 9, 9)), (2, 2))
    assert rows.tolist() == [[1, 1]] and columns.tolist() == [[0, 0]]


def test_dice_by_hand() -> None:
    predicted = torch.tensor([[1.0, 0.5, 0.0], [0.3, 0.4, 0.5], [0.0, 0.0, 0.0]])
    target = torch.tensor([[1.0, 1.0, 0.0], [0.3, 0.4, 0.5], [1.0, 0.0, 0.0]])
    # 1 - 2 * 1.5 / (1.25 + 2)
    assert dice_loss(predicted, target).tolist() == pytest.approx([1 - 3 / 3.25, 0, 1])


def test_projection_by_hand() -> None:
    """2 x 2 cells, the box is the left column."""
    p = torch.tensor([[[0.8, 0.2], [0.4, 0.6]]], dtype=torch.float64)
    loss = projection_loss(p.logit(), boxes_of((0, 0, 2, 2)), boxes_of((0, 0, 1, 2)))
    rows = 1 - 2 * (0.8 + 0.6) / (0.64 + 0.36 + 2)  # maxima 0.8, 0.6 against 1, 1
    columns = 1 - 2 * 0.8 / (0.64 + 0.36 + 1)  # maxima 0.8, 0.6 against 1, 0
    assert loss.tolist() == pytest.approx([rows + columns])


@pytest.mark.parametrize(
    "box", [(0, 0, 7, 7), (1, 2, 5, 6), (2.5, 1.25, 6.75, 5.5)], ids=["all", "cells", "parts"]
)
def test_a_mask_equal_to_the_box_has_no_projection_loss(box: Any) -> None:
    roi, boxes = boxes_of((0, 0, 7, 7)), boxes_of(box)
    rows, columns = box_coverage(roi, boxes, (7, 7))
    mask = rows[:, :, None] * columns[:, None]
    assert projection_loss(mask.logit(eps=1e-12), roi, boxes).item() == pytest.approx(0, abs=1e-9)


def test_a_mask_that_fills_an_enlarged_roi_has_projection_loss() -> None:
    boxes = boxes_of((10, 20, 42, 60))
    ones = torch.full((1, 28, 28), 50.0, dtype=torch.float64)
    assert projection_loss(ones, boxes, boxes).item() == pytest.approx(0, abs=1e-9)
    # The box has 22.4 of 28 columns, of which 2 count 0.2 each and so 0.04 in the sum of squares.
    expected = 1 - 2 * 22.4 / (28 + 22 + 2 * 0.04)
    assert (22 * 1 + 2 * 0.2) == 22.4
    loss = projection_loss(ones, enlarged(boxes, 1.25), boxes)
    assert loss.item() == pytest.approx(2 * expected) and loss.item() > 0.2


def filled(*cells: int) -> torch.Tensor:
    """Logits (1, 8, 8) of a mask that fills columns and rows from, to."""
    first, last = cells
    mask = torch.full((1, 8, 8), -50.0, dtype=torch.float64)
    mask[:, first:last, first:last] = 50
    return mask


def test_what_lies_in_the_margin_of_a_box_does_not_count() -> None:
    """8 x 8 cells of 2 pixels, all of them in the box."""
    boxes = boxes_of((0, 0, 16, 16))

    def loss(mask: torch.Tensor, margin: float) -> float:
        return projection_loss(mask, boxes, boxes, margin).item()

    for mask in (filled(0, 8), filled(1, 7), filled(0, 7)):
        assert loss(mask, 2.0) == pytest.approx(0, abs=1e-9)
    # On each axis six of eight cells; and half of the two others, where half of them counts.
    assert loss(filled(1, 7), 0.0) == pytest.approx(2 * (1 - 2 * 6 / (6 + 8)))
    assert loss(filled(1, 7), 1.0) == pytest.approx(2 * (1 - 2 * 6 / (6 + 6 + 2 * 0.5**2)))
    # Nor more than an eighth of a side.
    assert loss(filled(2, 6), 100.0) == loss(filled(2, 6), 2.0)
    assert loss(filled(2, 6), 2.0) == pytest.approx(2 * (1 - 2 * 4 / (4 + 6)))


def test_a_margin_ends_at_the_box() -> None:
    """What a mask has outside of its box counts as ever."""
    roi, boxes = boxes_of((0, 0, 16, 16)), boxes_of((4, 4, 12, 12))
    full = projection_loss(filled(0, 8), roi, boxes, 1.0).item()
    # Of the four cells of the box, two count, and two half; four lie outside.
    inside = 2 + 2 * 0.5**2
    assert full == pytest.approx(2 * (1 - 2 * inside / (4 + 2 * inside)))


def test_an_empty_mask_has_all_of_the_projection_loss() -> None:
    boxes = boxes_of((10, 20, 42, 60))
    nothing = torch.full((1, 28, 28), -50.0, dtype=torch.float64)
    assert projection_loss(nothing, boxes, boxes).item() == pytest.approx(2)


# --- other objects of the class -----------------------------------------------------------------


def hidden_cells(box: Any, others: List[Any], classes: List[int]) -> List[List[int]]:
    """Of an object of class 1; RoI 0..4 of 4 x 4 cells."""
    everything = torch.cat([boxes_of(*others), boxes_of(box)])
    labels = torch.tensor([*classes, 1])
    roi, one = boxes_of((0, 0, 4, 4)), torch.tensor([1])
    hidden = other_objects(roi, boxes_of(box), one, everything, labels, (4, 4))
    return hidden[0].int().tolist()


NOTHING = [[0] * 4] * 4


def test_other_objects_of_the_class_hide_pixels() -> None:
    right = [[0, 0, 1, 1]] * 4
    assert hidden_cells((0, 0, 4, 4), [(2, 0, 9, 9)], [1]) == right
    # Also outside of the object's own box.
    assert hidden_cells((0, 0, 2, 4), [(2, 0, 9, 9)], [1]) == right
    # Cells of which half is covered.
    assert hidden_cells((0, 0, 4, 4), [(2.4, 0, 9, 0.6)], [1]) == [[0, 0, 1, 1], *NOTHING[1:]]
    two = hidden_cells((0, 0, 4, 4), [(0, 0, 1, 1), (3, 3, 8, 8), (0, 0, 1, 2)], [1, 1, 2])
    assert two == [[1, 0, 0, 0], *NOTHING[1:3], [0, 0, 0, 1]]


def test_what_does_not_hide_pixels() -> None:
    assert hidden_cells((0, 0, 4, 4), [(2, 0, 9, 9)], [2]) == NOTHING  # another class
    assert hidden_cells((0, 0, 4, 4), [(7, 0, 9, 9)], [1]) == NOTHING  # far away
    assert hidden_cells((0, 0, 4, 4), [(0, 0, 4, 4)], [1]) == NOTHING  # itself, listed twice
    assert hidden_cells((0, 0, 4, 4), [], []) == NOTHING


def test_a_jittered_box_is_still_that_of_its_object() -> None:
    one = torch.tensor([1])
    hidden = other_objects(
        *(boxes_of((0, 0, 4, 4)), boxes_of((0.2, 0, 4, 3.9)), one),
        *(boxes_of((0, 0, 4, 4), (0, 0, 1, 1)), torch.tensor([1, 1]), (4, 4)),
    )
    assert hidden[0].int().tolist() == [[1, 0, 0, 0], *NOTHING[1:]]


# --- the module ---------------------------------------------------------------------------------


def test_losses_are_weighted_means_over_the_rois() -> None:
    inputs = batch()
    losses = BoxLosses(warmup=0.0)(**inputs)
    assert tuple(losses) == BOTH and all(v.dtype == torch.float64 for v in losses.values())
    rois, boxes = torch.cat(inputs["rois"]), torch.cat(inputs["boxes"])
    expected = projection_loss(inputs["logits"][:, 0], rois, boxes).mean()
    assert losses["loss_mask_projection"].item() == pytest.approx(expected.item())
    weighted = BoxLosses(projection_weight=3.0, affinity_weight=0.5, warmup=0.0)(**inputs)
    assert weighted["loss_mask_projection"].item() == pytest.approx(3 * expected.item())
    affinity = losses["loss_mask_affinity"].item()
    assert affinity > 0.1
    assert weighted["loss_mask_affinity"].item() == pytest.approx(affinity / 2)
    # Each RoI counts the same, whatever its number of edges.
    single = []
    for r in range(5):
        image, place = divmod(r, 3)  # the first has three of them
        own = {"logits": inputs["logits"][r : r + 1]}
        for name in ("rois", "boxes", "classes"):
            own[name] = [x[:0] for x in inputs[name]]
            own[name][image] = inputs[name][image][place : place + 1]
        single.append(BoxLosses(warmup=0.0)(**{**inputs, **own})["loss_mask_affinity"].item())
    assert affinity == pytest.approx(sum(single) / 5) and len(set(single)) == 5


def test_the_affinity_weight_grows_during_warmup() -> None:
    inputs = batch()
    full = BoxLosses(warmup=0.0)(**inputs)
    for progress, share in ((0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)):
        losses = BoxLosses(warmup=0.4)(**{**inputs, "progress": progress})
        assert losses["loss_mask_projection"] == full["loss_mask_projection"]
        expected = share * full["loss_mask_affinity"].item()
        assert losses["loss_mask_affinity"].item() == pytest.approx(expected, abs=1e-12)


def test_a_loss_of_weight_zero_is_left_out() -> None:
    inputs = batch()
    assert tuple(BoxLosses(affinity_weight=0.0)(**inputs)) == BOTH[:1]
    assert tuple(BoxLosses(projection_weight=0.0)(**inputs)) == BOTH[1:]


def test_mirrored_images_have_mirrored_losses() -> None:
    inputs, losses = batch(), BoxLosses(warmup=0.0)
    inputs["logits"].requires_grad_()
    flipped = mirrored(inputs)
    for name in BOTH:
        here, there = losses(**inputs)[name], losses(**flipped)[name]
        assert here.item() == pytest.approx(there.item(), rel=1e-10)
        gradients = [torch.autograd.grad(x, inputs["logits"])[0] for x in (here, there)]
        assert torch.allclose(*gradients) and gradients[0].abs().max() > 1e-3


def test_padding_gives_no_edge() -> None:
    inputs, losses = batch(), BoxLosses(warmup=0.0)
    before = losses(**inputs)
    for i, (height, width) in enumerate(inputs["images"].image_sizes):
        inputs["images"].tensor[i, :, height:] = 255
        inputs["images"].tensor[i, :, :, width:] = 0
    assert losses(**inputs) == before  # to the bit
    # A RoI in the padding alone, of one colour throughout.
    outside = {
        **inputs,
        "rois": [boxes_of((0, 41, 8, 48)).expand(5, 4), boxes_of()],
        "boxes": [boxes_of((0, 41, 8, 48)).expand(5, 4), boxes_of()],
        "classes": [torch.zeros(5, dtype=torch.long), torch.zeros(0, dtype=torch.long)],
    }
    assert losses(**outside)["loss_mask_affinity"].item() == 0


def test_cells_at_the_border_show_the_image() -> None:
    """An even image whose padding is of another colour: no cell has seen any of it."""
    images = ImageList(torch.full((1, 3, 20, 20), 9.0), [(13, 11)])
    images.tensor[:, :, :13, :11] = 200
    rois = torch.tensor([[0.0, 0, 11, 13], [5, 6, 11, 13], [3, 3, 15, 20]])
    crops, shown = BoxLosses().crop_images(images, [rois], (4, 4))
    assert shown[:2].all()
    assert (crops.permute(0, 2, 3, 1)[shown] == 200).all()
    # Columns of 3 from 3 on, and rows of 4.25 from 3 on: two of each end before 11 and 13.
    assert shown[2].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]


def test_other_objects_of_the_class_take_their_edges_along() -> None:
    inputs, losses = batch(1), BoxLosses(warmup=0.0)
    alone = losses(**inputs)
    roi = inputs["rois"][0]
    elsewhere = {"gt_boxes": [roi, roi + 1], "gt_classes": [torch.tensor([0])] * 2}
    assert losses(**{**inputs, **elsewhere}) == alone  # in another image
    inputs["gt_boxes"][0] = torch.cat([inputs["gt_boxes"][0], roi + 1])
    inputs["gt_classes"][0] = torch.tensor([0, 1])
    assert losses(**inputs) == alone  # another class
    inputs["gt_classes"][0] = torch.tensor([0, 0])
    shared = losses(**inputs)
    assert shared["loss_mask_projection"] == alone["loss_mask_projection"]
    assert shared["loss_mask_affinity"] != alone["loss_mask_affinity"]
    inputs["gt_boxes"][0][1] = roi[0] + torch.tensor([-1, -1, 1, 1])
    assert losses(**inputs)["loss_mask_affinity"].item() == 0  # nothing of it is its own


@pytest.mark.parametrize("num_rois", [0, 3])
def test_gradients(num_rois: int) -> None:
    inputs = batch(num_rois, side=5)
    logits = inputs.pop("logits").requires_grad_()
    losses = BoxLosses(warmup=0.0)

    def total(x: torch.Tensor) -> torch.Tensor:
        return torch.stack(list(losses(logits=x, **inputs).values()))

    if num_rois:
        assert torch.autograd.gradcheck(total, logits)
        return
    out = total(logits)
    (gradient,) = torch.autograd.grad(out.sum(), logits)
    assert out.tolist() == [0, 0] and gradient.shape == (0, 1, 5, 5)


@pytest.mark.parametrize("without", ["objects", "images"])
def test_nothing_in_the_batch(without: str) -> None:
    inputs = batch(0)
    if without == "images":
        inputs["images"] = ImageList(inputs["images"].tensor[:1], [(40, 52)])
        for name in ("rois", "boxes", "classes", "gt_boxes", "gt_classes"):
            inputs[name] = inputs[name][:1]
    assert [v.item() for v in BoxLosses()(**inputs).values()] == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_stays_finite(dtype: torch.dtype, autocast: bool) -> None:
    inputs = batch()
    for key in ("rois", "boxes", "gt_boxes"):
        inputs[key] = [b.float() for b in inputs[key]]
    inputs["images"] = ImageList(inputs["images"].tensor.float(), inputs["images"].image_sizes)
    inputs["logits"] = (inputs["logits"].sign() * 50).to(dtype).requires_grad_()
    losses = BoxLosses(warmup=0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = losses(**inputs)
        reference = losses(**{**inputs, "logits": inputs["logits"].double()})
    for name, loss in out.items():
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(reference[name].item(), rel=1e-4)
    (gradient,) = torch.autograd.grad(sum(out.values()), inputs["logits"])
    assert torch.isfinite(gradient).all() and gradient.any()


def test_the_image_may_be_normalised() -> None:
    inputs = batch()
    expected = BoxLosses(warmup=0.0)(**inputs)
    mean, std = (100.0, 120.0, 90.0), (50.0, 60.0, 70.0)
    losses = BoxLosses(warmup=0.0, pixel_mean=mean, pixel_std=std, input_format="BGR")
    bgr, sizes = inputs["images"].tensor.flip(1), inputs["images"].image_sizes
    normal = (bgr - losses.pixel_mean.double()) / losses.pixel_std.double()
    out = losses(**{**inputs, "images": ImageList(normal, sizes)})
    for name in BOTH:
        assert out[name].item() == pytest.approx(expected[name].item(), rel=1e-9)
    assert losses.state_dict() == {}  # checkpoints stay what they are


def test_from_config() -> None:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.ROI_MASK_HEAD.BOX_LOSS.PROJECTION_WEIGHT", 2.0),
            *("MODEL.ROI_MASK_HEAD.BOX_LOSS.AFFINITY_WEIGHT", 0.5),
            *("MODEL.ROI_MASK_HEAD.BOX_LOSS.AFFINITY_THRESHOLD", 0.2),
            *("MODEL.ROI_MASK_HEAD.BOX_LOSS.AFFINITY_DILATION", 3),
            *("MODEL.ROI_MASK_HEAD.BOX_LOSS.CRF_WEIGHT", 0.75),
            *("MODEL.ROI_MASK_HEAD.BOX_LOSS.MARGIN", 1.5),
            *("MODEL.ROI_MASK_HEAD.BOX_LOSS.WARMUP", 0.25),
        ]
    )
    losses = BoxLosses(cfg)
    assert (losses.projection_weight, losses.affinity_weight) == (2.0, 0.5)
    assert (losses.crf_weight, losses.margin) == (0.75, 1.5)
    assert (losses.affinity_threshold, losses.affinity_dilation) == (0.2, 3)
    assert (losses.warmup, losses.input_format) == (0.25, "BGR")
    assert losses.pixel_mean.flatten().tolist() == pytest.approx(cfg.MODEL.PIXEL_MEAN)
    defaults = get_cfg()
    add_seg_every_thing_config(defaults)
    assert vars(BoxLosses()).keys() == vars(BoxLosses(defaults)).keys()
    for name in ("projection_weight", "affinity_weight", "crf_weight", "margin", "warmup"):
        assert getattr(BoxLosses(), name) == getattr(BoxLosses(defaults), name)


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"projection_weight": -1.0}, "PROJECTION_WEIGHT -1.0"),
        ({"affinity_weight": -0.1}, "AFFINITY_WEIGHT -0.1"),
        ({"affinity_threshold": 0.0}, "AFFINITY_THRESHOLD 0.0"),
        ({"affinity_threshold": 1.5}, "AFFINITY_THRESHOLD 1.5"),
        ({"affinity_dilation": 0}, "AFFINITY_DILATION 0"),
        ({"warmup": 2.0}, "WARMUP 2.0"),
        ({"margin": -1.0}, "MARGIN -1.0"),
        ({"projection_weight": 0.0, "affinity_weight": 0.0}, "both 0"),
        ({"input_format": "YUV-BT.601"}, "INPUT.FORMAT"),
    ],
)
def test_bad_values_are_named(arguments: Dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match="MODEL.ROI_MASK_HEAD.BOX_LOSS") as e:
        BoxLosses(**arguments)
    assert named in str(e.value)


def test_filled_box_as_a_target_by_hand() -> None:
    # Four cells, of which the box holds the left two; logit 0 everywhere.
    logits = torch.zeros(1, 2, 2, dtype=torch.float64)
    rois = torch.tensor([[0.0, 0.0, 4.0, 4.0]], dtype=torch.float64)
    boxes = torch.tensor([[0.0, 0.0, 2.0, 4.0]], dtype=torch.float64)
    dice = 1 - 2 * (2 * 0.5) / (4 * 0.25 + 2)
    expected = math.log(2) + dice
    assert filled_box_loss(logits, rois, boxes).item() == pytest.approx(expected, rel=1e-12)
    sure = torch.tensor([[[50.0, -50], [50, -50]]], dtype=torch.float64)
    assert filled_box_loss(sure, rois, boxes).item() == pytest.approx(0, abs=1e-9)
