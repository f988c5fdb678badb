"""LAB against its definition and OpenCV; the affinity loss against a loop over pixels."""

import itertools
import math
from typing import Tuple

import cv2
import numpy as np
import pytest
import torch

from seg_every_thing.modeling.color_affinity import affinity_loss, rgb_to_lab


def lab_by_definition(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) in 0..255 -> LAB in float64, as CIE 15 writes it, with sRGB's own primaries."""
    c = rgb.astype(np.float64) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    primaries = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    t = linear @ primaries.T / (primaries @ np.ones(3))
    delta = 6 / 29
    x, y, z = np.moveaxis(np.where(t > delta**3, np.cbrt(t), t / (3 * delta**2) + 4 / 29), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def all_colors(step: int = 5) -> np.ndarray:
    """(n, 1, 3) float32, a grid over the cube."""
    values = np.arange(0, 256, step, dtype=np.float32)
    return np.stack(np.meshgrid(values, values, values), -1).reshape(-1, 1, 3)


def converted(rgb: np.ndarray) -> np.ndarray:
    return rgb_to_lab(torch.from_numpy(rgb).permute(2, 0, 1)).permute(1, 2, 0).numpy()


def test_lab_is_that_of_the_definition() -> None:
    colors = all_colors()
    assert np.abs(converted(colors) - lab_by_definition(colors)).max() < 0.02


def test_lab_is_that_of_opencv() -> None:
    """OpenCV interpolates in a table, hence the tolerance."""
    colors = all_colors()
    assert np.abs(converted(colors) - cv2.cvtColor(colors / 255, cv2.COLOR_RGB2LAB)).max() < 0.5


@pytest.mark.parametrize(
    "rgb, lab",
    [  # of skimage.color.rgb2lab
        ((255, 0, 0), (53.2406, 80.0925, 67.2032)),
        ((0, 255, 0), (87.7347, -86.1827, 83.1793)),
        ((0, 0, 255), (32.2970, 79.1875, -107.8602)),
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((300, 255, 999), (100, 0, 0)),  # clamped
    ],
)
def test_known_colors(rgb: Tuple[float, ...], lab: Tuple[float, ...]) -> None:
    out = rgb_to_lab(torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1))
    assert out.dtype == torch.float32 and out.shape == (1, 3, 1, 1)
    assert out.flatten().tolist() == pytest.approx(lab, abs=3e-3)


# --- the loss -----------------------------------------------------------------------------------


def affinity_by_loops(
    logits: torch.Tensor,
    colors: torch.Tensor,
    centres: torch.Tensor,
    valid: torch.Tensor,
    threshold: float,
    dilation: int,
) -> torch.Tensor:
    """Every pixel, every one of its 8 neighbours."""
    height, width = logits.shape[1:]
    p = logits.sigmoid()
    losses = []
    for r in range(len(logits)):
        terms = []
        for y, x in itertools.product(range(height), range(width)):
            for dy, dx in itertools.product((-dilation, 0, dilation), repeat=2):
                v, u = y + dy, x + dx
                if (dy, dx) == (0, 0) or not (0 <= v < height and 0 <= u < width):
                    continue
                if not (centres[r, y, x] and valid[r, y, x] and valid[r, v, u]):
                    continue
                distance = (colors[r, :, y, x] - colors[r, :, v, u]).pow(2).sum().sqrt()
                if math.exp(-float(distance) / 2) >= threshold:
                    same = p[r, y, x] * p[r, v, u] + (1 - p[r, y, x]) * (1 - p[r, v, u])
                    terms.append(-same.log())
        losses.append(torch.stack(terms).mean() if terms else logits.new_zeros(()))
    return torch.stack(losses)


def random_case(seed: int = 0, size: Tuple[int, int] = (7, 6)) -> Tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, *size, generator=generator, dtype=torch.float64)
    colors = torch.rand(3, 3, *size, generator=generator, dtype=torch.float64) * 3
    centres = torch.rand(3, *size, generator=generator) < 0.6
    valid = torch.rand(3, *size, generator=generator) < 0.8
    return logits, colors, centres, valid


@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("threshold", [0.3, 0.6])
def test_affinity_is_that_of_loops_over_pixels(dilation: int, threshold: float) -> None:
    case = random_case(dilation)
    expected = affinity_by_loops(*case, threshold, dilation)
    loss = affinity_loss(*case, threshold=threshold, dilation=dilation)
    assert expected.max() > 0.1
    assert torch.allclose(loss, expected, rtol=1e-10)


def test_affinity_by_hand() -> None:
    """A row of three pixels: the middle one, the only centre, has one neighbour of its colour."""
    logits = torch.tensor([[[0.0, math.log(3), 2.0]]], dtype=torch.float64)
    colors = torch.zeros(1, 3, 1, 3, dtype=torch.float64)
    colors[0, 0, 0, 2] = 5  # exp(-5 / 2) = 0.08: another colour
    centres = torch.tensor([[[False, True, False]]])
    loss = affinity_loss(logits, colors, centres, torch.ones_like(centres), dilation=1)
    # Probabilities 1/2 and 3/4: same with 1/2 * 3/4 + 1/2 * 1/4 = 1/2.
    assert loss.tolist() == pytest.approx([math.log(2)], abs=1e-12)


def test_threshold_is_inclusive() -> None:
    logits = torch.zeros(1, 1, 2, dtype=torch.float64)
    colors = torch.zeros(1, 3, 1, 2, dtype=torch.float64)
    colors[0, 0, 0, 1] = 2.0
    everywhere = torch.ones(1, 1, 2, dtype=torch.bool)
    loss = [
        affinity_loss(logits, colors, everywhere, everywhere, threshold=t, dilation=1).item()
        for t in (math.exp(-1.0), math.exp(-0.99))
    ]
    assert loss == pytest.approx([math.log(2), 0])


def test_constant_color_gives_all_edges() -> None:
    """Then the loss is the mean over all edges: with a constant mask, that of one edge."""
    logits = torch.full((1, 6, 5), 1.0, dtype=torch.float64)
    everywhere = torch.ones(1, 6, 5, dtype=torch.bool)
    colors = torch.full((1, 3, 6, 5), 40.0, dtype=torch.float64)
    counting = logits.clone().requires_grad_()
    loss = affinity_loss(counting, colors, everywhere, everywhere, dilation=1)
    p = 1 / (1 + math.exp(-1))
    assert loss.item() == pytest.approx(-math.log(p * p + (1 - p) ** 2))
    # Each edge pulls at both of its ends with the same force, so the gradient counts the edges.
    (gradient,) = torch.autograd.grad(loss, counting)
    neighbours = torch.full((6, 5), 8.0, dtype=torch.float64)
    neighbours[[0, -1]] = 5
    neighbours[:, [0, -1]] = 5
    neighbours[0, 0] = neighbours[0, -1] = neighbours[-1, 0] = neighbours[-1, -1] = 3
    assert torch.allclose(gradient[0] / gradient[0, 0, 0] * 3, neighbours)


def test_no_edge_no_loss() -> None:
    logits, colors, centres, valid = random_case()
    logits.requires_grad_()
    for c, v in ((centres, valid & False), (centres & False, valid)):
        loss = affinity_loss(logits, colors, c, v)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.tolist() == [0, 0, 0] and not gradient.any()
    # Neighbours farther than the mask is wide.
    assert affinity_loss(logits, colors, centres, valid, dilation=9).tolist() == [0, 0, 0]


def test_gradients() -> None:
    logits, colors, centres, valid = random_case()
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: affinity_loss(x, colors, centres, valid), logits)


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([[[50.0, -50.0], [50.0, 50.0]]], requires_grad=True)
    everywhere = torch.ones(1, 2, 2, dtype=torch.bool)
    loss = affinity_loss(logits, torch.zeros(1, 3, 2, 2), everywhere, everywhere, dilation=1)
    # Of the six pairs three are +50 and -50: -log P(same) = 50 - log 2.
    assert loss.item() == pytest.approx((50 - math.log(2)) / 2, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    # P = p q + (1 - p)(1 - q) with p = 1 - q: both terms are equal, and half of each edge pulls.
    expected = torch.tensor([[[1, -3], [1, 1]]]) / 12
    assert torch.allclose(gradient, expected, rtol=1e-5)
