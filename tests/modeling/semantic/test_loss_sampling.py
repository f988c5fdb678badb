"""Patchwise training as loss sampling: the identities that make them the same."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seg_every_thing.modeling.semantic.loss_sampling import (
    ignore_cells,
    sample_cells,
    sample_targets,
)

VOID = 255


def test_whole_image_gradient_is_the_sum_over_patches() -> None:
    """One run on an image equals a batch of the receptive fields of all its outputs."""
    torch.manual_seed(0)
    net = nn.Sequential(  # stride 2, receptive field 8, no padding
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 3)
    ).double()
    image = torch.randn(1, 2, 14, 12, dtype=torch.float64)
    targets = torch.randint(0, 3, (1, 4, 3))
    assert net(image).shape[-2:] == targets.shape[-2:]

    def gradients(loss: torch.Tensor) -> torch.Tensor:
        net.zero_grad()
        loss.backward()
        return torch.cat([p.grad.flatten().clone() for p in net.parameters()])

    whole = gradients(F.cross_entropy(net(image), targets, reduction="sum"))
    patches = torch.zeros_like(whole)
    for i, j in itertools.product(range(4), range(3)):
        patch = image[..., 2 * i : 2 * i + 8, 2 * j : 2 * j + 8]
        assert net(patch).shape[-2:] == (1, 1)
        target = targets[:, i : i + 1, j : j + 1]
        patches += gradients(F.cross_entropy(net(patch), target, reduction="sum"))
    assert whole.abs().max() > 0.1
    assert torch.allclose(whole, patches, rtol=0, atol=1e-12)


def test_expected_gradient_over_all_masks_is_p_times_the_full_one() -> None:
    p, cells = 0.3, 6
    logits = torch.randn(1, 3, 4, 6, dtype=torch.float64)
    targets = torch.randint(0, 3, (1, 4, 6))
    targets[0, 0, 0] = VOID

    def gradient(t: torch.Tensor) -> torch.Tensor:
        x = logits.clone().requires_grad_()
        F.cross_entropy(x, t, reduction="sum", ignore_index=VOID).backward()
        return x.grad

    expected = torch.zeros_like(logits)
    total = 0.0
    for choice in itertools.product([False, True], repeat=cells):
        kept = torch.tensor(choice).view(1, 2, 3)
        chance = p ** sum(choice) * (1 - p) ** (cells - sum(choice))
        expected += chance * gradient(ignore_cells(targets, kept, 2, VOID))
        total += chance
    assert math.isclose(total, 1)
    assert torch.allclose(expected / p, gradient(targets), rtol=0, atol=1e-13)


def test_cells_are_blocks_of_pixels() -> None:
    targets = torch.arange(25).view(1, 5, 5)
    kept = torch.tensor([[[True, False], [False, True]]])
    sampled = ignore_cells(targets, kept, 3, VOID)
    expected = targets.clone()
    expected[0, :3, 3:] = VOID
    expected[0, 3:, :3] = VOID
    assert torch.equal(sampled, expected)
    assert torch.equal(targets, torch.arange(25).view(1, 5, 5))  # the input is left alone


def test_each_cell_is_drawn_by_itself() -> None:
    p, side, images = 0.25, 100, 4
    generator = torch.Generator().manual_seed(1)
    kept = sample_cells(side, side, images, p, generator=generator).double()
    n = side * side * images
    deviation = math.sqrt(p * (1 - p) / n)
    assert abs(kept.mean().item() - p) < 5 * deviation
    # Neighbours, also across images, are both kept as often as independent ones would be.
    for a, b in (
        (kept[:, 1:], kept[:, :-1]),
        (kept[..., 1:], kept[..., :-1]),
        (kept[1:], kept[:-1]),
    ):
        assert abs((a * b).mean().item() - p * p) < 5 * p / math.sqrt(a.numel())


def test_sampling_targets() -> None:
    targets = torch.zeros(2, 65, 33, dtype=torch.long)
    assert sample_targets(targets, 1.0, 8, VOID) is targets
    first = sample_targets(targets, 0.5, 8, VOID, torch.Generator().manual_seed(3))
    again = sample_targets(targets, 0.5, 8, VOID, torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert first.shape == targets.shape
    assert set(first.unique().tolist()) == {0, VOID}
    block = first[0, :64, :32].reshape(8, 8, 4, 8)
    assert ((block == block[:, :1, :, :1]).all(dim=3).all(dim=1)).all()  # whole cells


@pytest.mark.parametrize("p", [0.0, -0.1, 1.5])
def test_bad_probability(p: float) -> None:
    with pytest.raises(ValueError, match=r"LOSS_SAMPLE_P must be in \(0, 1\]"):
        sample_targets(torch.zeros(1, 4, 4, dtype=torch.long), p, 2, VOID)
