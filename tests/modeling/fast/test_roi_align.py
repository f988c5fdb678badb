"""RoIAlign as a weighted sum of pixels, against torchvision's."""

import pytest
import torch
import torchvision
from detectron2.layers import ROIAlign

from seg_every_thing.modeling.fast.roi_align import FastROIAlign, roi_align


def _rois() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(40, 2, generator=generator) * 160 - 20
    size = torch.rand(40, 2, generator=generator) * 90
    size[:4] = 0  # no area
    start[4:8] += 300  # beyond the features
    size[8:10] = 400  # the whole image and more
    image = torch.arange(40) % 2
    return torch.cat([image[:, None], start, start + size], dim=1)


@pytest.mark.parametrize("aligned", (True, False))
@pytest.mark.parametrize("sampling_ratio", (0, 1, 2))
def test_equals_torchvision(sampling_ratio: int, aligned: bool) -> None:
    features = torch.randn(2, 5, 33, 41, generator=torch.Generator().manual_seed(1))
    arguments = (features, _rois(), (7, 6), 0.25, sampling_ratio, aligned)
    want = torchvision.ops.roi_align(*arguments)
    torch.testing.assert_close(roi_align(*arguments), want, rtol=0, atol=1e-5)


def test_mean_of_a_plane() -> None:
    features = torch.arange(8.0).expand(1, 1, 8, 8)  # the value of a pixel is its column
    pooled = roi_align(features, torch.tensor([[0.0, 2, 2, 6, 6]]), (2, 2), 1.0)
    # Pixel centres at 2.5, 3.5 | 4.5, 5.5 have the values 2, 3 | 4, 5.
    assert pooled[0, 0].tolist() == [[2.5, 4.5], [2.5, 4.5]]


def test_no_rois_and_other_types() -> None:
    features = torch.rand(1, 3, 8, 8)
    assert roi_align(features, torch.zeros(0, 5), (7, 7), 0.5).shape == (0, 3, 7, 7)
    stock = ROIAlign((2, 2), 1.0, 0)
    rois = torch.tensor([[0.0, 1, 1, 5, 5]])
    got = FastROIAlign(stock)(features.double(), rois.double())
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, stock(features.double(), rois.double()))
