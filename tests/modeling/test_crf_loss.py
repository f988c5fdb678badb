"""The CRF loss: by hand, by colours, and as one of the box losses."""

from typing import Any, Dict, List

import pytest
import torch
from box_loss_inputs import batch, mirrored

from seg_every_thing.modeling.box_losses import BoxLosses
from seg_every_thing.modeling.crf_loss import crf_loss
from seg_every_thing.modeling.mean_field import MeanField

NAMES = ("loss_mask_projection", "loss_mask_affinity", "loss_mask_crf")
ALL = torch.ones(1, 8, 8, dtype=torch.bool)


def losses_of(inputs: Dict[str, Any], **kwargs: Any) -> Dict[str, torch.Tensor]:
    return BoxLosses(**{"crf_weight": 1.0, "warmup": 0.0, **kwargs})(**inputs)


def two_colors() -> torch.Tensor:
    """8 x 8 pixels, the left three columns red and the others blue."""
    image = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    image[:, 0, :, :3] = 220
    image[:, 2, :, 3:] = 220
    return image


def test_without_kernels_by_hand() -> None:
    """Such a CRF leaves a mask as it is, so what counts is what lies out of the box."""
    p = torch.tensor([[[0.8, 0.4], [0.6, 0.2]]], dtype=torch.float64)
    nothing = MeanField(appearance_weight=0.0, smoothness_weight=0.0)
    image = torch.rand(1, 3, 2, 2, dtype=torch.float64)

    def loss(inside: List[List[int]], valid: List[List[int]]) -> float:
        where = [torch.tensor([x], dtype=torch.bool) for x in (inside, valid)]
        return crf_loss(p.logit(), image, *where, nothing).item()

    every = [[1, 1], [1, 1]]
    assert loss(every, every) == pytest.approx(0)
    # 0.2 and 0.4 are the right column, whose targets are 0.
    squares = 0.64 + 0.36
    assert loss([[1, 0], [1, 0]], every) == pytest.approx(
        1 - 2 * squares / (squares + 0.16 + 0.04 + squares)
    )
    # Pixels that do not count change nothing.
    assert loss([[1, 0], [1, 0]], [[1, 1], [1, 0]]) == pytest.approx(
        1 - 2 * squares / (squares + 0.16 + squares)
    )


def test_a_mask_learns_the_color_of_what_it_is_sure_of() -> None:
    """Sure of one red and one blue pixel, it learns all of both colours."""
    logits = torch.zeros(1, 8, 8, dtype=torch.float64)
    logits[0, 3:5, 1], logits[0, 3:5, 6] = 4, -4
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(crf_loss(logits, two_colors(), ALL, ALL).sum(), logits)
    assert (gradient[0, :, :3] < 0).all()  # up
    assert (gradient[0, :, 3:] > 0).all()


def test_background_around_the_box_takes_its_color_along() -> None:
    """A mask that fills its box learns of the two colours there the one that does not go on."""
    logits = torch.full((1, 8, 8), 0.5, dtype=torch.float64, requires_grad=True)
    inside = torch.zeros_like(ALL)
    inside[:, 1:7, :6] = True
    image = two_colors()
    image[:, :, [0, 7]] = image[:, :, [0, 7], 7:]  # blue above and below
    (gradient,) = torch.autograd.grad(crf_loss(logits, image, inside, ALL).sum(), logits)
    assert (gradient[0, 1:7, :3] < -1e-3).all() and (gradient[0, 1:7, 3:] > 1e-3).all()


def test_the_target_has_no_gradient() -> None:
    logits = batch(1, side=8)["logits"][:, 0].requires_grad_()
    loss = crf_loss(logits, two_colors(), ALL, ALL).sum()
    p = logits.detach().sigmoid()[:, None]
    mean_field = MeanField(appearance_sigma=6.0, smoothness_sigma=1.0, steps=(1, 2, 3, 5))
    target = mean_field(torch.cat([(1 - p).log(), p.log()], 1), two_colors())[:, 1].exp()
    q = logits.sigmoid()
    expected = 1 - 2 * (q * target).sum() / ((q * q).sum() + (target * target).sum())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = [torch.autograd.grad(x, logits)[0] for x in (loss, expected)]
    assert torch.allclose(*gradients, rtol=1e-4) and gradients[0].abs().max() > 1e-4


def test_one_of_the_box_losses() -> None:
    inputs = batch()
    losses = losses_of(inputs)
    assert tuple(losses) == NAMES and losses["loss_mask_crf"] > 0.01
    # The others do not know of it.
    without = losses_of(inputs, crf_weight=0.0)
    assert without == {name: losses[name] for name in NAMES[:2]}
    alone = losses_of(inputs, affinity_weight=0.0)
    assert alone == {name: losses[name] for name in NAMES[::2]}
    assert losses_of(inputs, crf_weight=0.5)["loss_mask_crf"] == losses["loss_mask_crf"] / 2


def test_its_weight_grows_during_warmup() -> None:
    inputs = batch()
    full = losses_of(inputs)["loss_mask_crf"].item()
    for progress, share in ((0.0, 0.0), (0.1, 0.25), (0.4, 1.0), (0.9, 1.0)):
        found = losses_of({**inputs, "progress": progress}, warmup=0.4)["loss_mask_crf"]
        assert found.item() == pytest.approx(share * full, abs=1e-12)


def test_mirrored_images_have_mirrored_losses() -> None:
    inputs = batch()
    inputs["logits"].requires_grad_()
    here, there = (losses_of(x)["loss_mask_crf"] for x in (inputs, mirrored(inputs)))
    assert here.item() == pytest.approx(there.item(), rel=1e-10)
    gradients = [torch.autograd.grad(x, inputs["logits"])[0] for x in (here, there)]
    assert torch.allclose(*gradients) and gradients[0].abs().max() > 1e-6


def test_padding_gives_nothing() -> None:
    inputs = batch()
    before = losses_of(inputs)["loss_mask_crf"]
    for i, (height, width) in enumerate(inputs["images"].image_sizes):
        inputs["images"].tensor[i, :, height:] = 255
        inputs["images"].tensor[i, :, :, width:] = 0
    assert losses_of(inputs)["loss_mask_crf"] == before


@pytest.mark.parametrize("input_format", ["RGB", "BGR"])
def test_channels_come_in_either_order(input_format: str) -> None:
    inputs = batch()
    expected = losses_of(inputs)["loss_mask_crf"].item()
    flipped = inputs["images"].tensor.flip(1) if input_format == "BGR" else inputs["images"].tensor
    inputs["images"].tensor = (flipped - 100.0) / 50.0
    found = losses_of(
        inputs,
        input_format=input_format,
        pixel_mean=(100.0,) * 3,
        pixel_std=(50.0,) * 3,
        affinity_weight=0.0,
    )
    assert found["loss_mask_crf"].item() == pytest.approx(expected, rel=1e-5)


def test_no_rois() -> None:
    inputs = batch(0)
    inputs["logits"].requires_grad_()
    loss = losses_of(inputs)["loss_mask_crf"]
    (gradient,) = torch.autograd.grad(loss, inputs["logits"])
    assert loss.item() == 0 and gradient.shape == (0, 1, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype: torch.dtype) -> None:
    inputs = batch()
    inputs["logits"] = (inputs["logits"].sign() * 50).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses_of(inputs)["loss_mask_crf"]
    loss.backward()
    assert loss.isfinite() and inputs["logits"].grad.isfinite().all()


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"crf_weight": -1.0}, r"BOX_LOSS\.CRF_WEIGHT -1\.0 is out of range"),
        (
            {"affinity_weight": 0.0, "input_format": "L"},
            r"CRF_WEIGHT above 0 needs INPUT\.FORMAT 'BGR' or 'RGB', got 'L'",
        ),
    ],
)
def test_bad_values(kwargs: Dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoxLosses(**{"crf_weight": 1.0, **kwargs})
