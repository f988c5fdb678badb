"""Mask branch, box losses and T on a GPU: as on the CPU, without waits of ours.

Each test also runs with the CPU as its device, where it is quick and says that the test works;
``pytest -m gpu`` runs those on the GPU.
"""

import contextlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import EventStorage
from gpu import NEEDS_GPU, each_device
from tiny_heads import as_predictions, make_features, make_heads, make_image
from tiny_models import make_batch, make_cfg, masks_in_given_boxes
from waiting import forbid_waiting

from seg_every_thing import PartiallySupervisedROIHeads, Trainer
from seg_every_thing.modeling import mask_heads, mask_rois, roi_heads
from seg_every_thing.modeling.box_losses import BoxLosses
from seg_every_thing.modeling.fast.acceleration import accelerate

VARIANTS: Dict[str, Dict[str, Any]] = {
    "transfer": {},
    "class_agnostic": {"predictor": "class_agnostic"},
    "mlp": {"mlp_input": "upsampled"},
    "boxes": {"box_losses": True},
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


def heads_and_inputs(variant: str) -> Tuple[PartiallySupervisedROIHeads, List[Any]]:
    """On the CPU, in float64, the same each time."""
    torch.manual_seed(0)
    options = dict(VARIANTS[variant])
    if options.pop("box_losses", False):
        options["box_losses"] = BoxLosses(warmup=0.0, crf_weight=1.0)
    heads = make_heads(**options)
    rois = [make_image([2, 5], [True, False]), make_image([6, 0, 2], [True, False, True])]
    targets = [
        Instances(x.image_size, gt_boxes=x.gt_boxes[:-1], gt_classes=x.gt_classes[:-1])
        for x in rois
    ]
    images = ImageList(torch.rand(2, 3, 64, 64).double() * 255, [(64, 64), (60, 50)])
    return heads, [make_features(), rois, images, targets]


def moved(inputs: List[Any], device: str) -> List[Any]:
    features, rois, images, targets = inputs
    return [
        {name: x.to(device) for name, x in features.items()},
        *([x.to(device) for x in rois], images.to(device), [x.to(device) for x in targets]),
    ]


def losses_and_gradients(
    variant: str, device: str
) -> Tuple[Dict[str, torch.Tensor], List[torch.Tensor]]:
    heads, inputs = heads_and_inputs(variant)
    heads.to(device)
    with EventStorage():
        losses = heads._forward_mask(*moved(inputs, device))
    sum(losses.values()).backward()
    gradients = [p.grad.cpu() for p in heads.parameters() if p.grad is not None]
    return {name: loss.detach().cpu() for name, loss in losses.items()}, gradients


@each_device
@each_variant
def test_losses_and_gradients_are_those_of_the_cpu(variant: str, device: str) -> None:
    expected, gradients = losses_and_gradients(variant, "cpu")
    found, on_device = losses_and_gradients(variant, device)
    assert found.keys() == expected.keys()
    for name, loss in expected.items():
        # detectron2's targets of masks are float32, and torch returns their cross-entropy in the
        # type of the targets: loss_mask is a float32 sum, of another order on another device.
        rtol = 1e-6 if loss.dtype == torch.float32 else 1e-8
        torch.testing.assert_close(found[name], loss, rtol=rtol, atol=0)
    assert len(gradients) == len(on_device) > 3
    for a, b in zip(gradients, on_device):
        torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-9)


@each_device
@each_variant
def test_masks_are_those_of_the_cpu(variant: str, device: str) -> None:
    masks = []
    for place in ("cpu", device):
        heads, inputs = heads_and_inputs(variant)
        heads.to(place).eval()
        features, rois, _, _ = moved(inputs, place)
        with torch.no_grad():
            found = heads._forward_mask(features, [as_predictions(x) for x in rois])
        masks.append(torch.cat([x.pred_masks for x in found]).cpu())
    torch.testing.assert_close(masks[1], masks[0], rtol=1e-7, atol=1e-10)
    assert masks[0].std() > 0.01


@each_device
def test_kept_filters_follow_their_model(device: str) -> None:
    heads, _ = heads_and_inputs("transfer")
    heads.eval()
    expected = heads.mask_weights()
    heads.to(device)
    found = heads.mask_weights()
    assert found.device.type == device and found is heads.mask_weights()
    torch.testing.assert_close(found.cpu(), expected)
    with torch.no_grad():
        heads.box_predictor.cls_score.weight.add_(1.0)
    assert not torch.allclose(heads.mask_weights().cpu(), expected)


@each_device
@pytest.mark.parametrize("box_losses", [False, True])
def test_a_training_step_of_a_model(box_losses: bool, device: str) -> None:
    cfg = make_cfg(device=device, roi_mask_head__box_loss__enabled=box_losses)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    before = [p.clone() for p in model.parameters()]
    with EventStorage():
        losses = model(make_batch())
    assert ("loss_mask_affinity" in losses) == box_losses
    assert all(torch.isfinite(x) and x.device.type == device for x in losses.values())
    sum(losses.values()).backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
    model.eval()
    with torch.no_grad():
        for found in model(make_batch()):
            assert found["instances"].pred_masks.shape[1:] == (64, 64)


@each_device
@each_variant
def test_mixed_precision(variant: str, device: str) -> None:
    heads, inputs = heads_and_inputs(variant)
    heads.float().to(device)
    features, rois, images, targets = moved(inputs, device)
    features = {name: x.float() for name, x in features.items()}
    images = ImageList(images.tensor.float(), images.image_sizes)
    dtype = torch.float16 if device == "cuda" else torch.bfloat16
    found = []
    for enabled in (False, True):
        with EventStorage(), torch.autocast(device, dtype=dtype, enabled=enabled):
            losses = heads._forward_mask(features, rois, images, targets)
        heads.zero_grad()
        sum(losses.values()).backward()
        gradients = [p.grad for p in heads.parameters() if p.grad is not None]
        assert gradients and all(torch.isfinite(g).all() for g in gradients)
        found.append({name: loss.item() for name, loss in losses.items()})
    assert found[1] == pytest.approx(found[0], rel=0.05, abs=0.02)


@pytest.fixture
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of a GPU round to TF32 unless they are told not to."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@each_device
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("architecture", ["GeneralizedRCNN", "BoxToMask"])
def test_whole_models_in_given_boxes(
    architecture: str, fast: bool, device: str, full_precision: None
) -> None:
    predictor = "transfer" if architecture == "GeneralizedRCNN" else "class_agnostic"
    torch.manual_seed(0)
    model = build_model(
        make_cfg(meta_architecture=architecture, roi_mask_head__predictor=predictor)
    ).eval()
    torch.nn.init.normal_(model.roi_heads.mask_head.deconv.weight, std=0.3)
    expected = masks_in_given_boxes(model)
    assert expected.std() > 1e-3
    model.to(device)
    found = masks_in_given_boxes(accelerate(model) if fast else model)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@each_device
def test_kept_features_change_nothing(device: str, full_precision: None, tmp_path: Path) -> None:
    losses = []
    for gigabytes in (0.0, 1.0):
        torch.manual_seed(0)
        cfg = make_cfg(
            meta_architecture="BoxToMask",
            roi_mask_head__predictor="class_agnostic",
            freeze_detector=True,
            keep_features_gb=gigabytes,
            device=device,
        )
        cfg.OUTPUT_DIR = str(tmp_path)
        model = Trainer.build_model(cfg)
        with EventStorage():
            losses += [sum(model(make_batch()).values()).item() for _ in range(2)]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5) and losses[0] > 0


@contextlib.contextmanager
def sync_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason=NEEDS_GPU)
@each_variant
def test_cuda_sees_no_wait_but_those_that_are_named(variant: str) -> None:
    losses_and_gradients(variant, "cuda")  # what is brought to the device once is there now
    heads, inputs = heads_and_inputs(variant)
    heads.to("cuda")
    inputs = moved(inputs, "cuda")
    allowed = [
        *((mask_rois, "true_indices"), (mask_heads, "true_indices"), (roi_heads, "true_indices")),
        *((torch.Tensor, "unique"), (mask_heads, "mask_rcnn_loss"), (ROIPooler, "forward")),
        (roi_heads, "select_foreground_proposals"),
    ]
    # A RoI's fields move to its place by ints: nothing of that may wait either.
    with EventStorage(), forbid_waiting(allowed, guard=sync_is_an_error):
        losses = heads._forward_mask(*inputs)
        sum(losses.values()).backward()
    assert all(torch.isfinite(x) for x in losses.values())
