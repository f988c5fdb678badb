"""Masks pasted inside their boxes, against detectron2's."""

import pytest
import torch
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes

from seg_every_thing.modeling.fast.pasting import FastROIMasks, paste_masks
from seg_every_thing.modeling.mask_geometry import EnlargedROIMasks


def _boxes() -> torch.Tensor:
    corners = [[3.2, 4.7, 20.1, 30.9], [-9, -5, 15, 12], [30, 20, 70, 60], [5, 5, 5.4, 39]]
    return torch.tensor([*corners, [0, 0, 50, 40], [60, 50, 70, 60]])


def test_equals_detectron2() -> None:
    masks = torch.rand(6, 28, 28, generator=torch.Generator().manual_seed(0))
    want = paste_masks_in_image(masks[:5], _boxes()[:5], (40, 50), 0.5)
    got = paste_masks(masks, _boxes(), 40, 50)
    assert got.shape == (6, 40, 50) and got.dtype == want.dtype
    assert int((got[:5] != want).sum()) <= 2  # probabilities that are 0.5 up to rounding
    assert got[:3].flatten(1).any(1).all() and got[4].any()  # the other is thinner than a pixel
    assert not got[5].any()  # outside of the image, of which detectron2 cannot paste a mask


def test_a_full_mask_is_its_box() -> None:
    (mask,) = paste_masks(torch.ones(1, 28, 28), torch.tensor([[10.0, 5, 20, 9]]), 20, 30)
    want = torch.zeros(20, 30, dtype=torch.bool)
    want[5:9, 10:20] = True
    assert torch.equal(mask, want)


def test_none() -> None:
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 4, 5).shape == (0, 4, 5)


@pytest.mark.parametrize("scale", (1.0, 1.5))
def test_masks_of_rois(scale: float) -> None:
    masks = torch.rand(4, 14, 14, generator=torch.Generator().manual_seed(1))
    boxes = Boxes(torch.tensor([[5.0, 5, 20, 25]]).repeat(4, 1))
    stock = EnlargedROIMasks(masks, scale)
    want = stock[torch.tensor([1, 3])].to_bitmasks(boxes[:2], 40, 50).tensor
    fast = FastROIMasks.of(stock if scale != 1 else masks[:, None])[torch.tensor([1, 3])]
    assert int((fast.to_bitmasks(boxes[:2], 40, 50).tensor != want).sum()) <= 2
