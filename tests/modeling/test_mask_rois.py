"""Mask RoIs larger than their boxes: geometry by hand, and what is pasted in the end."""

from typing import Any, Iterator

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_heads import (
    SIDE,
    as_predictions,
    make_features,
    make_heads,
    make_image,
    plain_logits,
)
from tiny_models import K, make_batch, make_cfg, make_roi_heads
from torch.nn import functional

from seg_every_thing import Trainer
from seg_every_thing.modeling.mask_geometry import (
    EnlargedROIMasks,
    box_coordinates,
    cropped_to_box,
    enlarged,
)
from seg_every_thing.modeling.mask_rois import MaskRoIs, ground_truth_rois


@pytest.fixture(autouse=True)
def storage() -> Iterator[None]:
    torch.manual_seed(0)
    with EventStorage():
        yield


def test_boxes_grow_about_their_centres() -> None:
    boxes = torch.tensor([[10.0, 20, 30, 60], [0, 0, 4, 8]])
    expected = torch.tensor([[7.5, 15, 32.5, 65], [-0.5, -1, 4.5, 9]])
    torch.testing.assert_close(enlarged(boxes, 1.25), expected)
    assert enlarged(boxes, 1.0) is boxes
    assert enlarged(boxes[:0], 1.25).shape == (0, 4)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_coordinates_are_computed_before_they_are_rounded(kind: torch.dtype) -> None:
    mask_rois = MaskRoIs(scale=1.25, coordinates=True)
    boxes = [Boxes(torch.tensor([[1300.0, 700, 1310, 712]]))]  # sides of 10 and 12, far away
    channels = mask_rois.with_coordinates(torch.zeros(1, 2, 4, 4, dtype=kind), boxes)
    exact = torch.promote_types(kind, torch.float32)
    expected = (torch.tensor([10, 12], dtype=exact) / 224).log2().to(kind)
    assert channels.dtype == kind and torch.equal(channels[0, -2:, 0, 0], expected)


def test_coordinates_of_the_box_in_its_roi() -> None:
    boxes = torch.tensor([[0.0, 0, 224, 112], [5, 5, 5.5, 453]])
    channels = box_coordinates(boxes, 2.0, 4)
    assert channels.shape == (2, 5, 4, 4)
    x, y, inside, width, height = channels[0]
    torch.testing.assert_close(x, torch.tensor([-1.5, -0.5, 0.5, 1.5]).expand(4, 4))
    torch.testing.assert_close(y, x.T)
    assert inside.int().tolist() == [[0] * 4, [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]
    assert width.unique().tolist() == [0] and height.unique().tolist() == [-1]
    assert channels[1, 4].unique().tolist() == [1]  # 448 pixels; a side below a pixel counts as one
    assert channels[1, 3, 0, 0].item() == pytest.approx(-7.807, abs=1e-3)


@pytest.mark.parametrize("scale", [1.01, 1.25, 2.0])
def test_a_ramp_keeps_its_values_in_the_box(scale: float) -> None:
    centres = (torch.arange(28, dtype=torch.float64) + 0.5) / 28 - 0.5  # in RoIs
    ramp = (0.5 + centres[None] * 0.6 + centres[:, None] * 0.2)[None, None]
    fine = ((torch.arange(56, dtype=torch.float64) + 0.5) / 56 - 0.5) / scale
    fine = fine.clamp(centres[0], centres[-1])
    expected = (0.5 + fine[None] * 0.6 + fine[:, None] * 0.2)[None, None]
    torch.testing.assert_close(cropped_to_box(ramp, scale), expected)


def test_a_full_mask_stays_full() -> None:
    ones = torch.ones(2, 1, 28, 28)
    torch.testing.assert_close(cropped_to_box(ones, 1.25), torch.ones(2, 1, 56, 56))
    assert cropped_to_box(ones[:0], 1.25).shape == (0, 1, 56, 56)


def pasted(masks: Any, box: torch.Tensor) -> torch.Tensor:
    x = Instances((100, 120))
    x.pred_boxes, x.pred_masks = Boxes(box.clone()), masks
    return detector_postprocess(x, 100, 120).pred_masks


def disc(box: torch.Tensor, radius: float, scale: float) -> torch.Tensor:
    """A soft disc about the centre of a box, (1, 1, 28, 28) on its RoI."""
    cells = ((torch.arange(28) + 0.5) / 28 * 2 - 1) * scale / 2 * (box[0, 2] - box[0, 0])
    distance = (cells[None] ** 2 + cells[:, None] ** 2).sqrt()
    return ((radius - distance) * 0.4).sigmoid()[None, None]


@pytest.mark.parametrize("radius", [22.0, 30.0, 37.0])
def test_what_is_pasted_is_the_mask_cut_at_the_box(radius: float) -> None:
    box = torch.tensor([[30.0, 20, 90, 80]])
    y, x = torch.meshgrid(torch.arange(100) + 0.5, torch.arange(120) + 0.5, indexing="ij")
    true = ((x - 60) ** 2 + (y - 50) ** 2).sqrt() <= radius
    inside = (x > 30) & (x < 90) & (y > 20) & (y < 80)
    rois = MaskRoIs(scale=1.25)
    found = Instances((100, 120))
    found.pred_masks = disc(box, radius, 1.25)
    mask = pasted(rois.finish([found])[0].pred_masks, box)[0]
    assert not (mask & ~inside).any()
    union, common = (mask | (true & inside)).sum(), (mask & true & inside).sum()
    assert common / union > 0.985

    found.pred_masks = disc(box, radius, 1.25)
    free = MaskRoIs(scale=1.25, clip=False).finish([found])[0]
    assert isinstance(free.pred_masks, EnlargedROIMasks)
    mask = pasted(free.pred_masks.to("cpu")[torch.tensor([True])], box)[0]
    assert (mask & ~inside).any() == (radius > 30)
    union, common = (mask | true).sum(), (mask & true).sum()
    assert common / union > 0.96


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("scale", [1.0, 1.25])
def test_a_threshold_reaches_the_pasted_mask(scale: float, clip: bool) -> None:
    box = torch.tensor([[30.0, 20, 90, 80]])
    areas = {}
    for threshold in (None, 0.1, 0.9, "fit"):
        found = Instances((100, 120))
        found.pred_masks = disc(box, 26, scale)
        rois = MaskRoIs(scale=scale, clip=clip, threshold=threshold)
        areas[threshold] = pasted(rois.finish([found])[0].pred_masks, box).sum().item()
    # 0.1 is passed 5.5 pixels farther out than 0.5; the disc spans 95 % of the box at 0.2.
    assert areas[0.9] < 0.7 * areas[None] < areas[None] < areas["fit"] < areas[0.1]
    assert areas["fit"] == pytest.approx(3.1416 * (26 + 3.47) ** 2, rel=0.05)


def test_defaults_leave_masks_alone() -> None:
    masks = torch.rand(3, 1, 28, 28)
    found = Instances((10, 10))
    found.pred_masks = masks
    assert MaskRoIs().finish([found])[0].pred_masks is masks


@pytest.mark.parametrize("predictor", ["transfer", "class_agnostic", "class_specific"])
def test_training_and_inference_in_the_enlarged_box(predictor: str) -> None:
    heads, features = make_heads(predictor, mask_rois=MaskRoIs(scale=1.5)), make_features()
    images = [make_image([2, 5], [True, False]), make_image([6, 0], [True, True])]
    before = [x.proposal_boxes.tensor.clone() for x in images]
    loss = heads._forward_mask(features, images)["loss_mask"]
    kept = [images[0][[0]], images[1][[0, 1]]]
    rois = [Boxes(enlarged(x.proposal_boxes.tensor, 1.5)) for x in kept]
    logits = plain_logits(heads, features["p2"], rois, torch.tensor([2, 6, 0]))
    targets = [x.gt_masks.crop_and_resize(r.tensor, SIDE) for x, r in zip(kept, rois)]
    expected = functional.binary_cross_entropy_with_logits(logits, torch.cat(targets).double())
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    assert all(torch.equal(x.proposal_boxes.tensor, b) for x, b in zip(images, before))

    heads.eval()
    given = [as_predictions(x) for x in images]
    boxes = [x.pred_boxes for x in given]
    found = heads.forward_with_given_boxes(features, given)
    rois = [Boxes(enlarged(b.tensor, 1.5)) for b in boxes]
    logits = plain_logits(heads, features["p2"], rois, torch.tensor([2, 5, 6, 0]))
    masks = torch.cat([x.pred_masks for x in found])
    expected = cropped_to_box(logits.sigmoid()[:, None], 1.5)
    torch.testing.assert_close(masks, expected)
    assert masks.shape == (4, 1, 2 * SIDE, 2 * SIDE)
    assert all(x.pred_boxes is b for x, b in zip(found, boxes))
    assert (
        heads.forward_with_given_boxes(features, [x[:0] for x in given])[0].pred_masks.numel() == 0
    )


@pytest.mark.parametrize("autocast", [False, True])
def test_a_model_with_every_key_trains_and_predicts(autocast: bool) -> None:
    cfg = make_cfg(
        roi_mask_head__box_scale=1.25,
        roi_mask_head__coordinates=True,
        roi_mask_head__mlp__enabled=True,
        roi_mask_head__mlp__input="pooled",
    )
    cfg.TEST.MASK_THRESHOLD = "fit"
    model, batch = Trainer.build_model(cfg), make_batch()
    head = model.roi_heads.mask_head
    assert head.mask_fcn1.in_channels == cfg.MODEL.FPN.OUT_CHANNELS + 5
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(batch)["loss_mask"]
    loss.backward()
    assert loss.item() > 0 and head.mask_fcn1.weight.grad[:, -5:].any()
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = model(batch)[0]["instances"]
    assert len(found) and found.pred_masks.shape == (len(found), 64, 64)
    for mask, (x0, y0, x1, y1) in zip(found.pred_masks, found.pred_boxes.tensor):
        rows, columns = mask.nonzero().unbind(1)
        assert ((columns + 0.5 >= x0) & (columns + 0.5 <= x1)).all()
        assert ((rows + 0.5 >= y0) & (rows + 0.5 <= y1)).all()


def objects(n: int, fields: Any = ("gt_masks", "gt_has_mask")) -> Instances:
    """Targets of an image: n objects, every second one with a mask."""
    image = make_image(list(range(n)), [i % 2 == 0 for i in range(n)])[:n]
    x = Instances(image.image_size)
    for name in ("gt_boxes", "gt_classes", *fields):
        x.set(name, image.get(name))
    return x


def test_ground_truth_boxes_as_rois() -> None:
    targets = [objects(5), objects(0, fields=())]
    rois = ground_truth_rois(targets, max_boxes=100, jitter=0.0)
    assert [len(x) for x in rois] == [5, 0]
    assert torch.equal(rois[0].proposal_boxes.tensor, targets[0].gt_boxes.tensor)
    assert torch.equal(rois[0].gt_classes, targets[0].gt_classes)
    assert not targets[0].has("proposal_boxes")

    drawn = [ground_truth_rois(targets, 2, 0.0)[0].gt_classes.tolist() for _ in range(40)]
    assert all(len(set(x)) == 2 for x in drawn)
    assert {i for x in drawn for i in x} == set(range(5))


def test_jitter_moves_and_scales_the_roi_alone() -> None:
    x = Instances((500, 500))
    x.gt_boxes = Boxes(torch.tensor([[100.0, 200, 180, 220]]).expand(4000, 4))
    x.gt_classes = torch.zeros(4000, dtype=torch.long)
    (rois,) = ground_truth_rois([x], 4000, 0.05)
    assert rois.gt_boxes is x.gt_boxes
    boxes = rois.proposal_boxes.tensor
    shift = ((boxes[:, :2] + boxes[:, 2:]) / 2 - torch.tensor([140.0, 210])) / torch.tensor(
        [80, 20]
    )
    log_size = ((boxes[:, 2:] - boxes[:, :2]) / torch.tensor([80.0, 20])).log()
    for values, deviation in ((shift, 0.05), (log_size, 0.1)):
        assert values.mean(0).abs().max() < 0.1 * deviation
        torch.testing.assert_close(values.std(0), torch.full((2,), deviation), rtol=0.1, atol=0)


@pytest.mark.parametrize("train_on", ["proposals", "gt_boxes", "both"])
def test_what_the_mask_branch_trains_on(train_on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heads, features = (
        make_heads("class_agnostic", mask_rois=MaskRoIs(train_on=train_on)),
        make_features(),
    )
    seen: Any = {}
    monkeypatch.setattr(
        heads.mask_head, "losses", lambda logits, x: {"loss_mask": seen.update(x=x) or logits.sum()}
    )
    targets, proposals = [objects(3), objects(0, fields=())], []
    for _ in targets:
        x = Instances((64, 64))
        x.proposal_boxes = Boxes(objects(3).gt_boxes.tensor.repeat(2, 1) + 0.25)
        x.objectness_logits = torch.zeros(6)
        proposals.append(x)
    heads.proposal_append_gt = False
    sampled, losses = heads(None, features, proposals, targets)
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_mask"}
    assert [len(x) for x in sampled] == [6, 6]  # boxes train on proposals in any case
    first, second = seen["x"]
    assert len(second) == 0
    # Objects 0 and 2 have a mask.
    true = [objects(3).gt_boxes.tensor[i].tolist() for i in (0, 2)]
    near = [[v + 0.25 for v in box] for box in true] * 2
    expected = {"proposals": near, "gt_boxes": true, "both": near + true}[train_on]
    assert sorted(first.proposal_boxes.tensor.tolist()) == sorted(expected)
    assert sorted(first.gt_boxes.tensor.tolist()) == sorted(true * (len(expected) // 2))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"train_on": "boxes"}, "TRAIN_ON 'boxes' is not one of proposals, gt_boxes, both"),
        ({"max_gt_boxes": 0}, "MAX_GT_BOXES must be at least 1"),
        ({"jitter": -0.1}, "BOX_JITTER must be at least 0"),
        ({"jitter": 1.0}, "BOX_JITTER must be at least 0"),
        ({"jitter": float("nan")}, "BOX_JITTER must be at least 0"),
    ],
)
def test_values_out_of_range_are_refused(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskRoIs(**values)


@pytest.mark.parametrize("scale", [0.99, 0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_below_one_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="BOX_SCALE must be at least 1"):
        MaskRoIs(scale=scale)


@pytest.mark.parametrize(
    "key, value",
    [
        ("BOX_SCALE", 1.25),
        ("COORDINATES", True),
        ("TRAIN_ON", "gt_boxes"),
        ("LOSS", "bce+dice"),
        ("TRUNK", "hourglass"),
        ("UPSAMPLE", "resize"),
        ("BOX_LOSS__ENABLED", True),
    ],
)
def test_other_mask_heads_refuse_the_keys(key: str, value: Any) -> None:
    overrides = {f"roi_mask_head__{key.lower()}": value}
    cfg = make_cfg(roi_mask_head__name="MaskRCNNConvUpsampleHead", **overrides)
    with pytest.raises(ValueError, match=f"{key.replace('__', '.')} needs .*MaskXHead"):
        make_roi_heads(cfg)
    cfg.MODEL.MASK_ON = False
    assert make_roi_heads(cfg).num_classes == K


def test_other_mask_heads_refuse_another_threshold() -> None:
    cfg = make_cfg(roi_mask_head__name="MaskRCNNConvUpsampleHead")
    cfg.TEST.MASK_THRESHOLD = "fit"
    with pytest.raises(ValueError, match="TEST.MASK_THRESHOLD needs .*MaskXHead"):
        make_roi_heads(cfg)
