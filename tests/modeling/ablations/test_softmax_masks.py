"""Masks under a softmax over classes: by hand, and against a plain float64 reference."""

import math
from typing import Iterator, List

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_mask_head
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from seg_every_thing.modeling.ablations.softmax_masks import (
    MaskRCNNSoftmaxHead,
    class_probabilities,
    softmax_mask_loss,
)

K, SIDE = 3, 4


@pytest.fixture(autouse=True)
def storage() -> Iterator[EventStorage]:
    torch.manual_seed(0)
    with EventStorage() as events:
        yield events


def image_of(masks: torch.Tensor, classes: List[int]) -> Instances:
    """An instance a mask (N, SIDE, SIDE); its box is the image, so the mask is the target."""
    x = Instances((SIDE, SIDE))
    x.proposal_boxes = Boxes(torch.tensor([[0.0, 0, SIDE, SIDE]]).repeat(len(classes), 1))
    x.gt_classes = torch.tensor(classes, dtype=torch.int64)
    x.gt_masks = BitMasks(masks.bool())
    return x


def upper_half(count: int) -> torch.Tensor:
    masks = torch.zeros(count, SIDE, SIDE)
    masks[:, : SIDE // 2] = 1
    return masks


def test_by_hand(storage: EventStorage) -> None:
    """Softmax shares 1/2, 1/4, 1/8, 1/8 (background): the loss is the mean of ln 4 and ln 8."""
    shares = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8])
    logits = shares.log().view(1, 4, 1, 1).expand(1, 4, SIDE, SIDE) + 5.0
    loss = softmax_mask_loss(logits, [image_of(upper_half(1), [1])])
    assert loss.item() == pytest.approx((math.log(4) + math.log(8)) / 2)
    # A share of 1/4 counts as outside: the upper half is missed, the lower half is right.
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["mask_rcnn/accuracy"] == 0.5
    assert latest["mask_rcnn/false_negative"] == 1
    assert latest["mask_rcnn/false_positive"] == 0


def test_against_a_plain_reference() -> None:
    masks, classes = torch.rand(5, SIDE, SIDE) > 0.4, [2, 0, 1, 1, 2]
    logits = 3 * torch.randn(5, K + 1, SIDE, SIDE, dtype=torch.float64)
    logits.requires_grad_()
    images = [image_of(masks[:2], classes[:2]), image_of(masks[2:], classes[2:])]
    loss = softmax_mask_loss(logits, images)
    loss.backward()

    total, gradient = 0.0, torch.zeros_like(logits)
    values = logits.detach()
    for r in range(5):
        for y in range(SIDE):
            for x in range(SIDE):
                right = classes[r] if masks[r, y, x] else K
                powers = [math.exp(v) for v in values[r, :, y, x]]
                shares = [p / sum(powers) for p in powers]
                total -= math.log(shares[right])
                for k in range(K + 1):
                    gradient[r, k, y, x] = shares[k] - (k == right)
    count = 5 * SIDE * SIDE
    assert loss.item() == pytest.approx(total / count, rel=1e-12)
    torch.testing.assert_close(logits.grad, gradient / count, rtol=1e-9, atol=1e-14)


def test_every_class_gets_a_gradient_where_sigmoid_masks_leave_the_others_alone() -> None:
    image = image_of(upper_half(2), [0, 2])
    logits = torch.randn(2, K + 1, SIDE, SIDE, requires_grad=True)
    softmax_mask_loss(logits, [image]).backward()
    assert logits.grad.abs().amin(dim=(2, 3)).min() > 0
    torch.testing.assert_close(logits.grad.sum(1), torch.zeros(2, SIDE, SIDE), rtol=0, atol=1e-7)
    logits = torch.randn(2, K, SIDE, SIDE, requires_grad=True)
    mask_rcnn_loss(logits, [image]).backward()
    touched = logits.grad.abs().sum(dim=(2, 3)) > 0
    assert touched.tolist() == [[True, False, False], [False, False, True]]


def test_polygons_and_boxes_off_the_grid() -> None:
    """Targets are those that detectron2 cuts out for its own loss."""
    x = Instances((40, 40))
    x.gt_masks = PolygonMasks([[torch.tensor([4.0, 4, 30, 6, 20, 33]).numpy()]])
    x.proposal_boxes = Boxes(torch.tensor([[2.5, 3.5, 31.0, 36.0]]))
    x.gt_classes = torch.tensor([1])
    inside = x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, 28)
    assert 0.2 < inside.float().mean() < 0.8
    # Logits that are right with certainty have no loss; wrong ones have 20 a pixel.
    logits = torch.zeros(1, K + 1, 28, 28)
    logits[:, 1] = 20.0 * inside
    logits[:, K] = 20.0 * ~inside
    assert softmax_mask_loss(logits, [x]).item() == pytest.approx(0, abs=1e-6)
    assert softmax_mask_loss(-logits, [x]).item() == pytest.approx(20 + math.log(3), abs=1e-4)


def test_inference_takes_the_share_of_the_predicted_class() -> None:
    logits = torch.randn(4, K + 1, SIDE, SIDE, dtype=torch.float64)
    classes = [2, 0, 1, 2]
    found = class_probabilities(logits, torch.tensor(classes))
    powers = logits.exp()
    for r, c in enumerate(classes):
        torch.testing.assert_close(found[r], powers[r, c] / powers[r].sum(0))


def head_of(**kwargs: object) -> MaskRCNNSoftmaxHead:
    shape = ShapeSpec(channels=2, height=SIDE // 2, width=SIDE // 2)
    head = MaskRCNNSoftmaxHead(shape, num_classes=K, conv_dims=[4, 4], **kwargs)
    torch.nn.init.normal_(head.predictor.weight)
    return head


def predicted(classes: List[int]) -> Instances:
    x = Instances((SIDE, SIDE))
    x.pred_boxes = Boxes(torch.zeros(len(classes), 4))
    x.pred_classes = torch.tensor(classes, dtype=torch.int64)
    return x


def test_the_head_in_inference() -> None:
    head, features = head_of().eval(), torch.randn(3, 2, SIDE // 2, SIDE // 2)
    images = head(features, [predicted([1]), predicted([]), predicted([0, 2])])
    assert [x.pred_masks.shape for x in images] == [(n, 1, SIDE, SIDE) for n in (1, 0, 2)]
    shares = head.layers(features).softmax(1)
    wanted = torch.stack([shares[0, 1], shares[1, 0], shares[2, 2]])[:, None]
    torch.testing.assert_close(torch.cat([x.pred_masks for x in images]), wanted)
    assert [len(x.pred_masks) for x in head(features[:0], [predicted([])])] == [0]


def test_the_head_in_training_and_its_weight() -> None:
    features = torch.randn(2, 2, SIDE // 2, SIDE // 2, requires_grad=True)
    head, image = head_of(loss_weight=2.0), image_of(upper_half(2), [0, 1])
    losses = head(features, [image])
    assert list(losses) == ["loss_mask"]
    plain = softmax_mask_loss(head.layers(features), [image])
    torch.testing.assert_close(losses["loss_mask"], 2 * plain)
    losses["loss_mask"].backward()
    assert features.grad.any()
    for name, parameter in head.named_parameters():
        assert parameter.grad.any(), name


def test_no_objects_give_no_loss_and_no_gradient_but_touch_all() -> None:
    head = head_of()
    bare = Instances((SIDE, SIDE))
    bare.gt_classes = torch.zeros(0, dtype=torch.int64)  # what an image without objects has
    loss = head(torch.zeros(0, 2, SIDE // 2, SIDE // 2), [bare])["loss_mask"]
    assert loss.item() == 0
    loss.backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or p.grad.any()] == []


def test_pictures_of_progress(storage: EventStorage) -> None:
    logits = torch.zeros(1, K + 1, SIDE, SIDE)
    softmax_mask_loss(logits, [image_of(upper_half(1), [1])], vis_period=1)
    ((_, picture, _),) = storage._vis_data
    assert picture.shape == (3, SIDE, 2 * SIDE)
    assert (picture[:, :, :SIDE] == 0.25).all()
    assert (picture[:, : SIDE // 2, SIDE:] == 1).all()


def test_from_config() -> None:
    cfg = get_cfg()
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNSoftmaxHead"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    shape = ShapeSpec(channels=8, height=7, width=7)
    head = build_mask_head(cfg, shape)
    assert isinstance(head, MaskRCNNSoftmaxHead)
    assert head.layers(torch.zeros(2, 8, 7, 7)).shape == (2, 6, 14, 14)
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    with pytest.raises(ValueError, match="CLS_AGNOSTIC_MASK"):
        build_mask_head(cfg, shape)
