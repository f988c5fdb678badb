"""Accelerated copies find what their models find."""

from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from helpers import changed, snapshot
from tiny_models import make_batch, make_cfg, masks_in_given_boxes
from torch import nn

from seg_every_thing.modeling.crf_refinement import with_crf
from seg_every_thing.modeling.fast.acceleration import accelerate, accelerated
from seg_every_thing.modeling.fast.convolution import FastConv2d
from seg_every_thing.modeling.fast.roi_align import FastROIAlign


def _model(**overrides: Any) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(make_cfg(**overrides)).eval()
    for name, value in model.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        if name.endswith("running_mean"):
            value.uniform_(-0.2, 0.2)
    return model


@torch.no_grad()
def test_same_masks_and_detections() -> None:
    model = _model()
    before = snapshot(model)
    fast = accelerate(model)
    assert any(isinstance(m, FastConv2d) for m in fast.modules())
    assert any(isinstance(m, FastROIAlign) for m in fast.modules())
    torch.testing.assert_close(
        masks_in_given_boxes(fast), masks_in_given_boxes(model), rtol=0, atol=1e-3
    )
    want, got = (m.inference(make_batch()[:1])[0]["instances"] for m in (model, fast))
    assert len(want) == len(got) > 0
    torch.testing.assert_close(got.scores, want.scores, rtol=0, atol=1e-3)
    assert got.pred_masks.shape == want.pred_masks.shape and want.pred_masks.any()
    assert (got.pred_masks != want.pred_masks).float().mean() < 1e-3
    assert not changed(before, model)
    assert not any(isinstance(m, (FastConv2d, FastROIAlign)) for m in model.modules())


def test_it_refuses_to_train() -> None:
    model = _model()
    fast = accelerate(model)
    assert not fast.eval().training
    with pytest.raises(RuntimeError, match="cannot be trained"):
        fast.train()
    assert not any(p.requires_grad for p in fast.parameters())
    assert model.train().training and any(p.requires_grad for p in model.parameters())


def test_later_changes_do_not_reach_the_copy() -> None:
    model = _model()
    fast = accelerate(model)
    want = masks_in_given_boxes(fast)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    assert torch.equal(masks_in_given_boxes(fast), want)


def test_the_key() -> None:
    cfg = make_cfg()
    model = _model()
    assert accelerated(cfg, model) is model
    cfg.TEST.FAST = True
    assert accelerated(cfg, model) is not model


def test_with_a_crf() -> None:
    cfg = make_cfg()
    cfg.TEST.CRF = True
    model = with_crf(cfg, _model())
    fast = accelerate(model)
    torch.testing.assert_close(
        masks_in_given_boxes(fast), masks_in_given_boxes(model), rtol=0, atol=1e-2
    )
    model.roi_heads.mask_head = None  # the copy runs on modules of its own
    masks_in_given_boxes(fast)
