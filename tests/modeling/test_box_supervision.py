"""Mask^X with box losses: what has no mask teaches the mask branch, what has one does as ever."""

from typing import Any, Dict, Iterator, List

import pytest
import torch
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from tiny_heads import K, make_features, make_heads, make_image, mask_parameters, plain_logits
from tiny_models import make_batch, make_cfg

from seg_every_thing import PartiallySupervisedROIHeads, Trainer
from seg_every_thing.modeling.box_losses import BoxLosses
from seg_every_thing.modeling.mask_geometry import enlarged
from seg_every_thing.modeling.mask_rois import MaskRoIs

BOX_LOSSES = {"loss_mask_projection", "loss_mask_affinity"}
ITERATION, MAX_ITER = 5, 20

each_predictor = pytest.mark.parametrize(
    "predictor", ["transfer", "class_agnostic", "class_specific"]
)


@pytest.fixture(autouse=True)
def storage() -> Iterator[None]:
    torch.manual_seed(0)
    with EventStorage(ITERATION):
        yield


def supervised(predictor: str = "transfer", **kwargs: Any) -> PartiallySupervisedROIHeads:
    kwargs.setdefault("mask_rois", MaskRoIs(scale=1.5))
    return make_heads(predictor, box_losses=BoxLosses(warmup=0.5), max_iter=MAX_ITER, **kwargs)


def make_images() -> ImageList:
    """Of nearly one colour, so that neighbours belong together."""
    return ImageList.from_tensors(list(100 + torch.rand(2, 3, 64, 64)))


def targets_of(image: Instances) -> Instances:
    """The objects that the proposals of an image belong to: its foreground."""
    x = image[image.gt_classes < K]
    return Instances(x.image_size, gt_boxes=x.gt_boxes, gt_classes=x.gt_classes)


def losses_of(
    heads: PartiallySupervisedROIHeads, features: Any, rois: List[Instances], images: ImageList
) -> Dict[str, torch.Tensor]:
    return heads._forward_mask(features, rois, images, [targets_of(x) for x in rois])


def mixed() -> List[Instances]:
    """Two images; objects 5 and 0 have no mask, and the boxes of all are off their RoIs."""
    rois = [make_image([2, 5], [True, False]), make_image([6, 0, 2], [True, False, True])]
    for x in rois:
        x.gt_boxes = Boxes(x.gt_boxes.tensor + torch.tensor([1.0, -2, 0, 1]))
    return rois


@each_predictor
@pytest.mark.parametrize("for_all", [False, True])
def test_losses_are_those_of_the_definition(predictor: str, for_all: bool) -> None:
    heads, features, images = (
        supervised(predictor, box_losses_for_all=for_all),
        make_features(),
        make_images(),
    )
    found = losses_of(heads, features, mixed(), images)
    assert set(found) == {"loss_mask"} | BOX_LOSSES

    # The mask loss is that of the objects with a mask, as if there were no others.
    kept = [mixed()[0][[0]], mixed()[1][[0, 2]]]
    heads.box_losses, box_losses = None, heads.box_losses
    alone = heads._forward_mask(features, kept)["loss_mask"]
    torch.testing.assert_close(found["loss_mask"], alone)

    use = [[0, 1], [0, 1, 2]] if for_all else [[1], [1]]
    objects = [x[i] for x, i in zip(mixed(), use)]
    rois = [Boxes(enlarged(x.proposal_boxes.tensor, 1.5)) for x in objects]
    classes = torch.cat([x.gt_classes for x in objects])
    logits = plain_logits(heads, features["p2"], rois, classes)
    expected = box_losses(
        logits[:, None],
        [x.tensor for x in rois],
        [x.gt_boxes.tensor for x in objects],
        [x.gt_classes for x in objects],
        images,
        [targets_of(x).gt_boxes.tensor for x in mixed()],
        [targets_of(x).gt_classes for x in mixed()],
        progress=ITERATION / MAX_ITER,
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
        assert value > 0


@each_predictor
def test_masks_of_box_only_objects_change_no_bit(predictor: str) -> None:
    heads, features, images = supervised(predictor), make_features(), make_images()

    def gradients(scramble: bool) -> List[torch.Tensor]:
        rois = mixed()
        for x in rois if scramble else ():
            noise = torch.rand(x.gt_masks.tensor.shape) > 0.5
            masks = torch.where(x.gt_has_mask[:, None, None], x.gt_masks.tensor, noise)
            x.gt_masks = BitMasks(masks)
        heads.zero_grad()
        losses = losses_of(heads, features, rois, images)
        sum(losses.values()).backward()
        return [*losses.values(), *(p.grad.clone() for p in mask_parameters(heads).values())]

    for a, b in zip(gradients(False), gradients(True)):
        assert torch.equal(a, b)


def test_class_rows_of_box_only_objects_learn() -> None:
    heads = supervised("class_specific")
    losses = losses_of(heads, make_features(), mixed(), make_images())
    sum(losses.values()).backward()
    rows = heads.mask_head.predictor.weight.grad.flatten(1).any(dim=1)
    assert rows.nonzero().flatten().tolist() == [0, 2, 5, 6]
    heads = supervised("transfer", stop_gradient=False)
    losses = losses_of(heads, make_features(), mixed(), make_images())
    sum(losses[name] for name in BOX_LOSSES).backward()
    rows = heads.box_predictor.cls_score.weight.grad.any(dim=1)
    assert rows.nonzero().flatten().tolist() == [0, 5]
    assert all(p.grad.any() for p in heads.weight_transfer.parameters())


@each_predictor
@pytest.mark.parametrize("kind", ["masks alone", "boxes alone", "background", "no objects"])
def test_batches_without_either_kind_touch_every_parameter(predictor: str, kind: str) -> None:
    rois = [
        make_image([2, 5], [kind == "masks alone"] * 2),
        make_image([1], [kind == "masks alone"]),
    ]
    if kind in ("background", "no objects"):
        rois = [make_image([]), make_image([])]
    if kind == "no objects":
        for x in rois:
            x.remove("gt_boxes")
            x.remove("gt_masks")
    targets = [
        Instances((64, 64), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=x.gt_classes[:0])
        for x in rois
    ]
    if kind in ("masks alone", "boxes alone"):
        targets = [targets_of(x) for x in rois]
    heads = supervised(predictor)
    losses = heads._forward_mask(make_features(), rois, make_images(), targets)
    assert (losses["loss_mask"] > 0) == (kind == "masks alone")
    assert all((losses[name] > 0) == (kind == "boxes alone") for name in BOX_LOSSES)
    sum(losses.values()).backward()
    gradients = [p.grad for p in mask_parameters(heads).values()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)
    assert any(g.any() for g in gradients) == (kind in ("masks alone", "boxes alone"))


def test_affinity_grows_with_the_iterations() -> None:
    heads, features, images = supervised("class_agnostic"), make_features(), make_images()
    values = []
    for iteration in (0, 5, 10, 20):  # of 20, over half of which it grows
        with EventStorage(iteration):
            values.append(losses_of(heads, features, mixed(), images)["loss_mask_affinity"])
    assert values[0] == 0
    torch.testing.assert_close(values[1] * 2, values[2])
    torch.testing.assert_close(values[3], values[2])


EVERYTHING = {
    "roi_mask_head__box_scale": 1.25,
    "roi_mask_head__coordinates": True,
    "roi_mask_head__train_on": "gt_boxes",
    "roi_mask_head__box_jitter": 0.05,
    "roi_mask_head__loss": "bce+dice",
    "roi_mask_head__box_loss__enabled": True,
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("train_on", ["proposals", "gt_boxes", "both"])
def test_models_from_config_train(train_on: str, frozen: bool, autocast: bool) -> None:
    cfg = make_cfg(**{**EVERYTHING, "roi_mask_head__train_on": train_on}, freeze_detector=frozen)
    model, batch = Trainer.build_model(cfg), make_batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = model(batch)
    names = {n for n in losses if n.startswith("loss_mask")}
    assert names == {"loss_mask"} | BOX_LOSSES and (set(losses) == names) == frozen
    assert all(torch.isfinite(v) and v.dtype == torch.float32 for v in losses.values())
    assert losses["loss_mask"] > 0 and losses["loss_mask_projection"] > 0
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if "mask_head" in name or "weight_transfer" in name:
            assert torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


def test_deep_marc_as_a_config() -> None:
    cfg = make_cfg(
        roi_mask_head__predictor="class_agnostic",
        roi_mask_head__train_on="gt_boxes",
        roi_mask_head__trunk="hourglass",
        roi_mask_head__hourglass_depth=10,
        roi_mask_head__pooler_resolution=32,
    )
    model, batch = Trainer.build_model(cfg), make_batch()
    losses = model(batch)
    assert losses["loss_mask"] > 0
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    with torch.no_grad():
        masks = model.inference(batch, do_postprocess=False)[0].pred_masks
    assert masks.shape[1:] == (1, 64, 64)


def test_a_filled_roi_costs_nothing_is_said_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    whole = {**EVERYTHING, "roi_mask_head__box_scale": 1.0, "roi_mask_head__box_jitter": 0.0}
    Trainer.build_model(make_cfg(**EVERYTHING))
    assert "BOX_SCALE" not in caplog.text
    Trainer.build_model(make_cfg(**whole))
    assert "BOX_SCALE" in caplog.text


def test_unknown_objects_of_box_losses_are_refused() -> None:
    cfg = make_cfg(roi_mask_head__box_loss__apply_to="boxes")
    with pytest.raises(ValueError, match="APPLY_TO 'boxes' is not one of box_only, all"):
        Trainer.build_model(cfg)


def test_box_losses_without_images_are_refused() -> None:
    with pytest.raises(ValueError, match="box losses need the images"):
        supervised()._forward_mask(make_features(), mixed())
