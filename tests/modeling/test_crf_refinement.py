"""The CRF as a model's last step: masks on their boxes, labels of pixels, and training."""

import copy
from typing import Any, Dict, List

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN, SemanticSegmentor
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_models import make_batch, make_cfg
from torch import nn

from seg_every_thing import Trainer
from seg_every_thing.modeling.crf_refinement import SIDE, refine_masks, with_crf
from seg_every_thing.modeling.mask_geometry import EnlargedROIMasks
from seg_every_thing.modeling.mean_field import MeanField


def picture() -> torch.Tensor:
    """Dark, with a bright square from 80 to 160 in both directions."""
    image = torch.full((3, 256, 256), 30.0)
    image[:, 80:160, 80:160] = 220
    return image


def blurred(scale: float = 1.0, size: int = 14) -> torch.Tensor:
    """A mask around the box from 64 to 192, unsure, and 8 pixels larger than the square."""
    along = ((torch.arange(size) + 0.5) / size - 0.5) * 128 * scale + 128
    p = ((48 - (along - 120).abs()) / 8).sigmoid()
    return torch.minimum(p[:, None], p)[None, None]


def found(masks: Any) -> Instances:
    box = torch.tensor([[64.0, 64, 192, 192]])
    return Instances((256, 256), pred_boxes=Boxes(box), pred_masks=masks)


def wrong(x: Instances) -> int:
    """Pixels, after postprocessing."""
    size = {"height": 256, "width": 256}
    (output,) = GeneralizedRCNN._postprocess([copy.deepcopy(x)], [size], [(256, 256)])
    return int((output["instances"].pred_masks[0] != (picture()[0] > 100)).sum())


@pytest.mark.parametrize("free", [False, True])
def test_masks_get_the_edges_of_the_image(free: bool) -> None:
    masks = EnlargedROIMasks(blurred(1.5)[:, 0], 1.5) if free else blurred()
    x = found(masks)
    before = wrong(x)
    refine_masks(MeanField(), picture(), x)
    assert before > 2000 and wrong(x) < before / 5
    kept = x.pred_masks.tensor if free else x.pred_masks[:, 0]
    assert kept.shape == (1, SIDE, SIDE) and isinstance(x.pred_masks, EnlargedROIMasks) == free


def test_what_surrounds_a_box_is_background() -> None:
    """Half of a box is bright: whether the object reaches its side depends on where that ends."""
    for left, inside in ((64, True), (20, False)):
        image = torch.full((3, 256, 256), 30.0)
        image[:, 64:192, left:128] = 220
        mask = torch.full((1, 1, 28, 28), 0.6)
        mask[..., 14:] = 0.1
        x = found(mask)
        refine_masks(MeanField(), image, x)
        edge, middle = x.pred_masks[0, 0, SIDE // 2, [0, SIDE // 4]]
        assert middle > 0.9 and (edge > 0.9 if inside else edge < 0.3)


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("box", [[0, 60, 100, 160], [0, 0, 90, 90], [0, 0, 256, 256]])
def test_nothing_is_background_because_it_is_beyond_the_image(box: List[int], free: bool) -> None:
    """There is no colour there, and a dark object must not be taken for it."""
    image = torch.full((3, 256, 256), 200.0)
    image[:, box[1] : box[3], box[0] : box[2]] = 0.0
    masks: Any = torch.full((1, 1, 28, 28), 0.55)
    x = found(EnlargedROIMasks(masks[:, 0], 1.0) if free else masks)
    x.pred_boxes = Boxes(torch.tensor([box], dtype=torch.float32))
    refine_masks(MeanField(), image, x)
    refined = x.pred_masks.tensor if free else x.pred_masks
    assert (refined > 0.5).all()


def test_objects_do_not_mix_and_there_may_be_none() -> None:
    masks = torch.cat([blurred(), blurred().flip(3)])
    both = Instances((256, 256), pred_masks=masks)
    both.pred_boxes = Boxes(torch.tensor([[64.0, 64, 192, 192], [40, 80, 160, 240]]))
    alone = both[[1]]
    refine_masks(MeanField(), picture(), both)
    refine_masks(MeanField(), picture(), alone)
    torch.testing.assert_close(both.pred_masks[1:], alone.pred_masks)
    empty = both[:0]
    refine_masks(MeanField(), picture(), empty)
    assert len(empty.pred_masks) == 0


def model_of(**overrides: Any) -> nn.Module:
    cfg = make_cfg(roi_mask_head__predictor="class_agnostic", **overrides)
    cfg.TEST.CRF, cfg.TEST.DETECTIONS_PER_IMAGE = True, 5
    torch.manual_seed(0)
    return Trainer.build_model(cfg)


@pytest.mark.parametrize("architecture", ["GeneralizedRCNN", "BoxToMask"])
@pytest.mark.parametrize("given", [True, False])
def test_every_inference_of_a_model_ends_with_it(architecture: str, given: bool) -> None:
    model = model_of(meta_architecture=architecture, roi_mask_head__box_scale=1.25).eval()
    copied, batch = copy.deepcopy(model), make_batch()
    nn.init.zeros_(model.roi_heads.mask_head.predictor.weight)  # the copy is one of its own
    boxes = [Boxes(torch.tensor([[16.0, 16, 48, 48]])), Boxes(torch.zeros(0, 4))]
    detected = [
        Instances((64, 64), pred_boxes=b, pred_classes=torch.zeros(len(b), dtype=torch.long))
        for b in boxes
    ]
    with torch.no_grad():
        expected = type(copied).inference(copied, batch, detected if given else None, False)
        results = copied.inference(batch, detected if given else None, do_postprocess=False)
        outputs = copied(batch) if not given else copied.inference(batch, detected)
    assert len(results) == len(outputs) == 2 and len(results[0]) == len(expected[0]) > 0
    for sample, x, raw, output in zip(batch, results, expected, outputs):
        refine_masks(MeanField(), sample["image"], raw)
        assert torch.equal(x.pred_masks, raw.pred_masks)
        assert output["instances"].pred_masks.shape[1:] == (64, 64)
    assert results[0].pred_masks.shape[1:] == (1, SIDE, SIDE)


def test_training_is_as_ever() -> None:
    cfg = make_cfg(roi_mask_head__predictor="class_agnostic")
    losses: List[Dict[str, torch.Tensor]] = []
    for crf in (False, True):
        cfg.TEST.CRF = crf
        torch.manual_seed(0)
        model = Trainer.build_model(cfg)
        torch.manual_seed(0)
        with EventStorage():
            losses.append(model(make_batch()))
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


class _Head(nn.Module):
    """Scores of dark and bright pixels, blurred."""

    ignore_value = 255

    def forward(self, features: Any, targets: Any = None) -> Any:
        bright = torch.nn.functional.avg_pool2d(features["image"][:, :1], 11, 1, padding=5)
        scores = torch.cat([bright * 0 + 80, bright], dim=1) / 30
        return (None, {"loss": scores.sum()}) if self.training else (scores, {})


class _Backbone(nn.Module):
    size_divisibility, padding_constraints = 0, None

    def forward(self, x: torch.Tensor) -> Dict[str, torch.Tensor]:
        return {"image": x}


def test_labels_of_pixels() -> None:
    cfg = make_cfg()
    sample = {"image": picture(), "height": 192, "width": 320}
    parts = {"backbone": _Backbone(), "sem_seg_head": _Head()}
    plain = SemanticSegmentor(**parts, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3).eval()
    before = plain([sample])[0]["sem_seg"]
    assert with_crf(cfg, plain) is plain and torch.equal(plain([sample])[0]["sem_seg"], before)
    cfg.TEST.CRF = True
    after = with_crf(cfg, plain)([sample])[0]["sem_seg"]
    assert after.shape == before.shape == (2, 192, 320)
    torch.testing.assert_close(after.exp().sum(0), torch.ones(192, 320))
    image = torch.nn.functional.interpolate(picture()[None], size=(192, 320), mode="bilinear")
    label = image[0, 0] > 125
    wrong_before, wrong_after = (((x[1] > x[0]) != label).sum().item() for x in (before, after))
    assert wrong_before > 500 and wrong_after < wrong_before / 4
    assert plain.train()([{**sample, "sem_seg": label.long()}]).keys() == {"loss"}


def test_a_model_without_masks_is_refused() -> None:
    cfg = make_cfg(mask_on=False)
    cfg.TEST.CRF = True
    with pytest.raises(ValueError, match="TEST.CRF True .*MASK_ON False gives"):
        Trainer.build_model(cfg)
