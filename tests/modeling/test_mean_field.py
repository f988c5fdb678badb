"""The mean field: two pixels by hand, constant images, and all pairs by brute force in float64."""

import itertools
import math
from typing import Any, Dict, List, Sequence

import pytest
import torch

from seg_every_thing.modeling.mean_field import MeanField

PARAMETERS: Dict[str, Any] = {
    "iterations": 3,
    "appearance_weight": 2.0,
    "appearance_sigma": 3.0,
    "color_sigma": 20.0,
    "smoothness_weight": 0.7,
    "smoothness_sigma": 1.5,
}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def two_labels(logits: List[List[float]]) -> torch.Tensor:
    foreground = torch.tensor(logits, dtype=torch.float64)[None, None]
    return torch.cat([torch.zeros_like(foreground), foreground], dim=1)


def test_two_pixels_by_hand() -> None:
    image = torch.tensor([[[[100.0, 120]], [[50, 50]], [[9, 9]]]], dtype=torch.float64)
    field = MeanField(**{**PARAMETERS, "iterations": 2}, steps=(1,))
    a = math.exp(-1 / (2 * 9) - 400 / (2 * 400))
    s = math.exp(-1 / (2 * 2.25))
    worth = 2 * a / (1 + a) + 0.7 * s / (1 + s)  # each sum is 1 + that of the only other pixel
    p = [sigmoid(2.0), sigmoid(-0.5)]
    for _ in range(2):
        p = [sigmoid(2 + worth * (2 * p[1] - 1)), sigmoid(-0.5 + worth * (2 * p[0] - 1))]
    found = field(two_labels([[2.0, -0.5]]), image).exp()
    assert found[0, 1, 0].tolist() == pytest.approx(p)
    assert found.sum(1).tolist() == [[pytest.approx([1, 1])]]
    # Turned by 90 degrees it is the same.
    turned = field(two_labels([[2.0], [-0.5]]), image.transpose(2, 3)).exp()
    assert turned[0, 1, :, 0].tolist() == pytest.approx(p)


def brute_force(log_p: torch.Tensor, image: torch.Tensor, steps: Sequence[int]) -> torch.Tensor:
    """Every pair of the window, one after the other, from the definition."""
    _, labels, height, width = log_p.shape
    pixels = list(itertools.product(range(height), range(width)))

    def kernels(i: Any, j: Any) -> Any:
        d = [abs(i[0] - j[0]), abs(i[1] - j[1])]
        if i == j or not {*d} <= {0, *steps}:
            return None
        square = d[0] ** 2 + d[1] ** 2
        color = ((image[0, :, i[0], i[1]] - image[0, :, j[0], j[1]]) ** 2).sum().item()
        return (
            math.exp(-square / (2 * 3.0**2) - color / (2 * 20.0**2)),
            math.exp(-square / (2 * 1.5**2)),
        )

    pairs = {(i, j): kernels(i, j) for i in pixels for j in pixels}
    pairs = {key: value for key, value in pairs.items() if value is not None}
    sums = {
        i: [1 + sum(k[n] for (a, _), k in pairs.items() if a == i) for n in (0, 1)] for i in pixels
    }
    q = log_p.softmax(1)
    for _ in range(3):
        message = torch.zeros_like(q)
        for (i, j), (a, s) in pairs.items():
            worth = 2.0 * a / math.sqrt(sums[i][0] * sums[j][0])
            worth += 0.7 * s / math.sqrt(sums[i][1] * sums[j][1])
            message[0, :, i[0], i[1]] += worth * q[0, :, j[0], j[1]]
        q = (log_p + message).softmax(1)
    return q.log()


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("steps", [(1, 2, 3, 4, 5, 6, 7), (1,), (1, 3)])
def test_all_pairs_by_brute_force(labels: int, steps: Sequence[int]) -> None:
    torch.manual_seed(0)
    log_p = torch.randn(1, labels, 5, 6, dtype=torch.float64)
    image = torch.rand(1, 3, 5, 6, dtype=torch.float64) * 60
    found = MeanField(**PARAMETERS, steps=steps)(log_p, image)
    torch.testing.assert_close(found, brute_force(log_p, image, steps))


def test_images_of_a_batch_do_not_mix() -> None:
    torch.manual_seed(0)
    log_p, images = torch.randn(2, 3, 9, 8), torch.rand(2, 3, 9, 8) * 255
    field = MeanField(**PARAMETERS)
    both = field(log_p, images)
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], field(log_p[i : i + 1], images[i : i + 1]))
    assert field(log_p[:0], images[:0]).shape == (0, 3, 9, 8)


def test_a_constant_image_is_smoothed_and_uniform_labels_stay() -> None:
    grey = torch.full((1, 3, 24, 24), 90.0, dtype=torch.float64)
    field = MeanField()
    uniform = torch.full((1, 4, 24, 24), -math.log(4), dtype=torch.float64)
    torch.testing.assert_close(field(uniform, grey), uniform)
    # A hole in a mask is closed, and labels get surer, by about both weights.
    logits = torch.full((24, 24), 1.0)
    logits[12, 12] = -1
    found = field(two_labels(logits.tolist()), grey)
    log_odds = (found[:, 1] - found[:, 0])[0]
    weights = field.appearance_weight + field.smoothness_weight
    assert log_odds.min() > 1 + 0.6 * weights and log_odds.max() < 1 + 1.2 * weights


def test_labels_follow_edges_of_the_image() -> None:
    """A blurred edge two pixels off is moved to where the colour changes."""
    image = torch.zeros(1, 3, 20, 30, dtype=torch.float64)
    image[..., 15:] = 200
    logits = (torch.arange(30.0) - 12.5).clamp(-4, 4) * 0.5  # positive from column 13 on
    found = MeanField()(two_labels(logits.expand(20, 30).tolist()), image)
    mask = (found[0, 1] > found[0, 0]).float().mean(0)
    assert mask.tolist() == [0] * 15 + [1] * 15


def test_half_precision_is_computed_in_float32() -> None:
    torch.manual_seed(0)
    log_p, image = torch.randn(1, 2, 8, 8), torch.rand(1, 3, 8, 8) * 255
    with torch.autocast("cpu", torch.bfloat16):
        found = MeanField()(log_p.bfloat16(), image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, MeanField()(log_p.bfloat16().float(), image))
    extreme = MeanField()(
        torch.tensor([0.0, -1e4]).view(1, 2, 1, 1).expand(1, 2, 4, 4), image[..., :4, :4]
    )
    assert not extreme.isnan().any()


@pytest.mark.parametrize(
    "name, value",
    [("iterations", 0), ("appearance_sigma", 0), ("steps", ()), ("steps", (0,)), ("steps", (2, 2))],
)
def test_values_out_of_range(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"TEST.MEAN_FIELD.{name.upper()} .* is out of range"):
        MeanField(**{name: value})
