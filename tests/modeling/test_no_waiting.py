"""What the mask branch adds to a training step does not wait for the device, but where it says so.

Waits of detectron2 itself (its mask loss counts pixels with ``.item()``, its choice of foreground)
are not ours to take out; they are called, and not looked into.
"""

from typing import Any, Iterator, List

import pytest
import torch
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from tiny_heads import K, make_features, make_heads, make_image
from waiting import forbid_waiting

from seg_every_thing.modeling import (
    color_affinity,
    mask_heads,
    mask_rois,
    pseudo_mask_loss,
    roi_heads,
)
from seg_every_thing.modeling.box_losses import BoxLosses
from seg_every_thing.modeling.pseudo_mask_loss import PseudoMaskLoss

# Where the number of RoIs, or of classes, decides the sizes of all that follows.
OURS = [
    (mask_rois, "true_indices"),
    (mask_heads, "true_indices"),
    (roi_heads, "true_indices"),
    (pseudo_mask_loss, "true_indices"),
    (torch.Tensor, "unique"),
    (color_affinity, "_xyz_matrix"),  # once for each device
]
DETECTRON2S = [
    (mask_heads, "mask_rcnn_loss"),
    (roi_heads, "select_foreground_proposals"),
    (ROIPooler, "forward"),
]
SELECTION, CLASSES, LOSS = "true_indices", "unique", "true_indices"


@pytest.fixture(autouse=True)
def storage() -> Iterator[None]:
    color_affinity._xyz_matrix.cache_clear()
    with EventStorage():
        yield


def waits_of(heads: Any, images: int, **fields: Any) -> List[str]:
    """The waits of ours in forward and backward."""
    rois = [make_image([2, 5, 6], [True, False, True]) for _ in range(images)]
    for x in rois:
        for name, value in fields.items():
            x.set(name, value)
    targets = [
        Instances(x.image_size, gt_boxes=x.gt_boxes[:3], gt_classes=x.gt_classes[:3]) for x in rois
    ]
    pictures = ImageList(torch.rand(images, 3, 64, 64).double() * 255, [(64, 64)] * images)
    features = make_features(images)
    with forbid_waiting(allowed=OURS + DETECTRON2S) as waits:
        losses = heads._forward_mask(features, rois, pictures, targets)
        sum(losses.values()).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    names = {name for _, name in DETECTRON2S}
    assert names & {*waits}
    return [name for name in waits if name not in names]


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("predictor", ["transfer", "class_agnostic", "class_specific"])
def test_mask_loss(predictor: str, images: int) -> None:
    waits = waits_of(make_heads(predictor), images)
    assert waits == [SELECTION, *[CLASSES] * (predictor == "transfer"), LOSS]


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize("for_all", [False, True])
def test_box_losses(images: int, for_all: bool) -> None:
    heads = make_heads(box_losses=BoxLosses(warmup=0.0, crf_weight=1.0), box_losses_for_all=for_all)
    box_only = [] if for_all else ["true_indices"]
    colors = "_xyz_matrix"
    assert waits_of(heads, images) == [CLASSES, LOSS, *box_only, colors]


@pytest.mark.parametrize("images", [1, 4])
def test_pseudo_masks(images: int) -> None:
    heads = make_heads(pseudo_mask_loss=PseudoMaskLoss())
    pseudo = {
        "gt_has_pseudo": torch.tensor([False, True, False, False]),
        "gt_pseudo_masks": torch.full((4, 8, 8), 250, dtype=torch.uint8),
    }
    waits = waits_of(heads, images, **pseudo)
    assert waits == [SELECTION, CLASSES, LOSS, "true_indices"]


def test_what_waits_is_seen() -> None:
    x, chosen = torch.arange(6.0), torch.tensor([True, False] * 3)
    for wait in (
        lambda: x.sum().item(),
        lambda: bool(chosen.all()),
        lambda: float(x[0]),
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: x.numpy(),
        lambda: chosen.nonzero(),
        lambda: x[chosen],
        lambda: x.masked_select(chosen),
        lambda: x.unique(),
        lambda: x.new_tensor([1.0, 2.0]),
        lambda: torch.tensor([1.0]),
    ):
        with pytest.raises(AssertionError, match="waits for the device"), forbid_waiting():
            wait()
    with forbid_waiting():  # what does not
        x[torch.arange(2)], torch.where(chosen, x, 0), x.new_zeros(3), x.argsort(stable=True)
    assert x.tolist() and x[chosen].sum().item() == 6


def test_boxes_and_masks_of_the_batch_are_needed() -> None:
    """The image of these tests holds what a training step has: so they see its waits."""
    x = make_image([2, 5, 6], [True, False, True])
    assert isinstance(x.gt_masks, BitMasks) and isinstance(x.gt_boxes, Boxes)
    assert (x.gt_classes == K).sum() == 1
