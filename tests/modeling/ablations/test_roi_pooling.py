"""RoIWarp and the maxima: against a plain sampler, against torchvision, and by alignment error."""

import math
from typing import List, Tuple

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torchvision.ops import roi_align, roi_pool

from seg_every_thing.modeling.ablations import POOLER_TYPES, RoISamplePool
from seg_every_thing.modeling.ablations.roi_pooling import set_pooler_type

STRIDE = 16
EVERY_TYPE = [*POOLER_TYPES, "ROIAlignV2", "ROIPool"]
each_type = pytest.mark.parametrize("pooler_type", POOLER_TYPES)


def pooler_of(
    pooler_type: str, size: int = 7, stride: int = STRIDE, sampling_ratio: int = 2
) -> ROIPooler:
    stock = "ROIAlignV2" if pooler_type in POOLER_TYPES else pooler_type
    pooler = ROIPooler(size, [1 / stride], sampling_ratio, stock)
    set_pooler_type(pooler, pooler_type)
    return pooler


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    """Boxes of 2 to 20 cells, with no corner near the border of 40 x 40 cells, in pixels."""
    generator = torch.Generator().manual_seed(seed)
    sides = 2 + 18 * torch.rand(count, 2, generator=generator)
    corners = 4 + 14 * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + sides], dim=1) * STRIDE


def plain_samples(image: torch.Tensor, box: List[float], size: int, ratio: int) -> torch.Tensor:
    """Bilinear samples (size, size, ratio * ratio) of an (H, W) image; the box is in cells."""

    def at(y: float, x: float) -> float:
        y, x = y - 0.5, x - 0.5  # the value of a cell belongs to its middle
        top, left = math.floor(y), math.floor(x)
        down, right = y - top, x - left
        rows = [image[top + i] for i in (0, 1)]
        upper, lower = (row[left] * (1 - right) + row[left + 1] * right for row in rows)
        return float(upper * (1 - down) + lower * down)

    x0, y0, x1, y1 = box
    across, down = (x1 - x0) / size, (y1 - y0) / size
    offsets = [(i + 0.5) / ratio for i in range(ratio)]
    return torch.tensor(
        [
            [
                [at(y0 + (i + v) * down, x0 + (j + u) * across) for v in offsets for u in offsets]
                for j in range(size)
            ]
            for i in range(size)
        ],
        dtype=torch.float64,
    )


def rounded(box: List[float], rounding: str) -> List[float]:
    if rounding == "none":
        return box
    x0, y0, x1, y1 = (math.floor(v + 0.5) for v in box)
    more = int(rounding == "inclusive")
    return [x0, y0, max(x1 + more, x0 + 1), max(y1 + more, y0 + 1)]


BOXES = [  # in cells: generic, already whole, less than a cell, halves
    *([3.3, 4.7, 9.1, 8.2], [3.0, 2.0, 7.0, 9.0], [5.1, 5.2, 5.4, 5.3], [2.5, 3.5, 8.5, 6.5]),
]


@pytest.mark.parametrize("ratio", [1, 2, 3])
@pytest.mark.parametrize("reduction", ["avg", "max"])
@pytest.mark.parametrize("rounding", ["none", "exclusive", "inclusive"])
def test_against_a_plain_sampler(rounding: str, reduction: str, ratio: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 14, 14, dtype=torch.float64)
    rows = [[i % 2, *(4 * v for v in box)] for i, box in enumerate(BOXES)]
    rois = torch.tensor(rows, dtype=torch.float64)
    pool = RoISamplePool((3, 3), 0.25, ratio, rounding=rounding, reduction=reduction)
    found = pool(features, rois)
    for i, box in enumerate(BOXES):
        for channel in range(3):
            image = features[i % 2, channel]
            samples = plain_samples(image, rounded(box, rounding), 3, ratio)
            wanted = samples.amax(-1) if reduction == "max" else samples.mean(-1)
            torch.testing.assert_close(found[i, channel], wanted, rtol=0, atol=1e-12)


def test_fine_samples_are_those_that_roi_align_averages() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 4, 40, 40, dtype=torch.float64)
    rois = torch.cat([torch.zeros(50, 1), random_boxes(50)], dim=1).double()
    fine = roi_align(features, rois, (14, 14), 1 / STRIDE, 1, aligned=True)
    whole = roi_align(features, rois, (7, 7), 1 / STRIDE, 2, aligned=True)
    mean = torch.nn.functional.avg_pool2d(fine, 2)
    torch.testing.assert_close(mean, whole, rtol=0, atol=1e-12)


def test_inclusive_rounding_takes_the_cells_of_roi_pool() -> None:
    """With as many bins as cells, each bin is one cell, and one sample hits its middle."""
    torch.manual_seed(0)
    features = torch.randn(1, 5, 40, 40)
    corners = torch.rand(200, 2) * 20 + 3
    ends = torch.floor(corners + 0.5) + 6 + torch.rand(200, 2) * 0.98 - 0.49
    rois = torch.cat([torch.zeros(200, 1), corners, ends], dim=1)
    pool = RoISamplePool((7, 7), 1.0, 1, rounding="inclusive")
    torch.testing.assert_close(pool(features, rois), roi_pool(features, rois, 7), rtol=0, atol=1e-5)


def centres(pooler_type: str, boxes: torch.Tensor) -> torch.Tensor:
    """Where each bin lies, (R, 2, 7, 7) x and y in cells, by pooling maps of the coordinates.

    Half the difference between a map and its negative is free of the bias of a maximum.
    """
    places = torch.arange(40.0) + 0.5
    x, y = places.expand(40, 40), places[:, None].expand(40, 40)
    maps = torch.stack([x, y, -x, -y])[None]
    found = pooler_of(pooler_type)([maps], [Boxes(boxes)])
    return (found[:, :2] - found[:, 2:]) / 2


def true_centres(boxes: torch.Tensor) -> torch.Tensor:
    """The middles of 7 x 7 equal parts of boxes in cells."""
    parts = (torch.arange(7) + 0.5) / 7
    x = boxes[:, 0, None] + parts * (boxes[:, 2] - boxes[:, 0])[:, None]
    y = boxes[:, 1, None] + parts * (boxes[:, 3] - boxes[:, 1])[:, None]
    return torch.stack([x[:, None, :].expand(-1, 7, 7), y[:, :, None].expand(-1, 7, 7)], dim=1)


def expected_rounding_error() -> float:
    """Mean of |a U + b V| over the bins, U and V being the rounding errors of both ends."""
    total = 0.0
    for k in range(7):
        small, large = sorted(((k + 0.5) / 7, 1 - (k + 0.5) / 7))
        total += large / 4 + small**2 / (12 * large)
    return total / 7


@pytest.mark.parametrize(
    ("pooler_type", "error", "tolerance"),
    [
        ("ROIAlignV2", 0.0, 1e-4),
        ("ROIAlignMax", 0.0, 1e-4),
        ("ROIWarpAvg", 0.198, 0.006),
        ("ROIWarpMax", 0.198, 0.006),
        ("ROIWarpInclusiveAvg", 0.525, 0.02),
        ("ROIWarpInclusiveMax", 0.525, 0.02),
        ("ROIPool", 0.515, 0.02),
        ("ROIAlign", 0.5, 1e-4),  # detectron2's legacy form
    ],
)
def test_alignment_error(pooler_type: str, error: float, tolerance: float) -> None:
    boxes = random_boxes(2000)
    gap = (centres(pooler_type, boxes) - true_centres(boxes / STRIDE)).abs().mean().item()
    assert gap == pytest.approx(error, abs=tolerance)


def test_error_of_roi_warp_is_that_of_rounding_and_nothing_else() -> None:
    assert expected_rounding_error() == pytest.approx(0.198, abs=5e-4)
    boxes = random_boxes(500, seed=1)
    whole = torch.floor(boxes / STRIDE + 0.5)
    for name in ("ROIWarpAvg", "ROIWarpMax"):
        assert (centres(name, boxes) - true_centres(whole)).abs().max() < 1e-4
    whole[:, 2:] += 1
    for name in ("ROIWarpInclusiveAvg", "ROIWarpInclusiveMax"):
        assert (centres(name, boxes) - true_centres(whole)).abs().max() < 1e-4


@each_type
def test_gradients(pooler_type: str) -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 2, 9, 9, dtype=torch.float64, requires_grad=True)
    pooler = pooler_of(pooler_type, size=2, stride=4).double()
    boxes = [Boxes(torch.tensor([[5.0, 6.0, 29.5, 27.0], [9.0, 8.0, 14.0, 21.0]]).double())]
    boxes[0].tensor = boxes[0].tensor.double()  # Boxes rounds to float32
    assert torch.autograd.gradcheck(lambda x: pooler([x], boxes), features)


@each_type
def test_no_boxes(pooler_type: str) -> None:
    features = torch.randn(2, 3, 8, 8, requires_grad=True)
    pooled = pooler_of(pooler_type)([features], [Boxes(torch.zeros(0, 4)) for _ in range(2)])
    assert pooled.shape == (0, 3, 7, 7)
    pooled.sum().backward()
    assert not features.grad.any()


@each_type
def test_levels_are_chosen_as_before(pooler_type: str) -> None:
    torch.manual_seed(0)
    features = [torch.randn(1, 2, 256 // s, 256 // s) for s in (4, 8, 16)]
    boxes = torch.tensor([[10.0, 12, 70, 61], [3, 5, 130, 140], [1, 2, 250, 251]])
    pooler = ROIPooler(7, [1 / 4, 1 / 8, 1 / 16], 2, "ROIAlignV2")
    set_pooler_type(pooler, pooler_type)
    found = pooler(features, [Boxes(boxes)])
    for i, stride in enumerate((4, 8, 16)):  # areas of 54, 131 and 249 pixels squared
        single = pooler_of(pooler_type, stride=stride)
        wanted = single([features[i]], [Boxes(boxes[i : i + 1])])
        torch.testing.assert_close(found[i : i + 1], wanted)


def test_maximum_and_average_differ() -> None:
    torch.manual_seed(0)
    features, boxes = [torch.randn(1, 1, 40, 40)], [Boxes(random_boxes(20))]
    results = {name: pooler_of(name)(features, boxes) for name in EVERY_TYPE}
    for pair in (("ROIAlignV2", "ROIAlignMax"), ("ROIWarpAvg", "ROIWarpMax")):
        average, maximum = (results[name] for name in pair)
        assert (maximum >= average - 1e-6).all()
        assert (maximum - average).mean() > 0.1
    for i, a in enumerate(EVERY_TYPE):
        for b in EVERY_TYPE[:i]:
            assert (results[a] - results[b]).abs().mean() > 0.05, (a, b)


WRONG: List[Tuple[dict, str]] = [
    ({"rounding": "up"}, "rounding 'up'"),
    ({"reduction": "sum"}, "reduction 'sum'"),
    ({"reduction": "max", "sampling_ratio": 0}, "POOLER_SAMPLING_RATIO"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RoISamplePool(
            **{"output_size": (7, 7), "spatial_scale": 1, "sampling_ratio": 2, **arguments}
        )
