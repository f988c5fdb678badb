"""Mask^X as a whole, on tiny features in float64, against its definition for all classes."""

from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_heads import (
    SIDE,
    WIDTHS,
    C,
    F,
    K,
    as_predictions,
    make_features,
    make_heads,
    make_image,
    mask_parameters,
    plain_logits,
)
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from seg_every_thing.modeling.roi_heads import select_proposals_with_masks


@pytest.fixture(autouse=True)
def storage() -> Iterator[None]:
    torch.manual_seed(0)
    with EventStorage():
        yield


VARIANTS = [
    *(("transfer", None, kind) for kind in WIDTHS),
    ("transfer", "upsampled", "cls+box"),
    ("transfer", "pooled", "cls"),
    *((p, mlp, "") for p in ("class_agnostic", "class_specific") for mlp in (None, "upsampled")),
    ("class_agnostic", "pooled", ""),
    ("class_specific", "pooled", ""),
    ("none", "upsampled", ""),
    ("none", "pooled", ""),
]
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)


@each_variant
def test_training_equals_all_classes_then_select(variant: Tuple[str, Optional[str], str]) -> None:
    heads, features = make_heads(*variant).train(), make_features()
    images = [
        make_image([2, 5, 2], [True, False, True]),
        make_image([6, 0, 5, 2], [True, True, True, False]),
    ]
    heads._forward_mask(features, images)["loss_mask"].backward()
    gradients = {n: p.grad.clone() for n, p in mask_parameters(heads).items()}
    heads.zero_grad(set_to_none=True)

    kept = [images[0][[0, 2]], images[1][[0, 1, 2]]]
    boxes = [x.proposal_boxes for x in kept]
    logits = plain_logits(heads, features["p2"], boxes, torch.tensor([2, 2, 6, 0, 5]))
    targets = [x.gt_masks.crop_and_resize(x.proposal_boxes.tensor, SIDE) for x in kept]
    loss = functional.binary_cross_entropy_with_logits(logits, torch.cat(targets).double())
    # detectron2 rounds the loss to float32, as its targets are.
    torch.testing.assert_close(
        heads._forward_mask(features, images)["loss_mask"].double(), loss, rtol=1e-6, atol=0
    )
    loss.backward()
    assert gradients
    for name, parameter in mask_parameters(heads).items():
        assert parameter.grad.any(), name
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-6, atol=1e-9)


@each_variant
def test_inference_equals_all_classes_then_select(variant: Tuple[str, Optional[str], str]) -> None:
    heads, features = make_heads(*variant).eval(), make_features(3)
    images = [as_predictions(make_image(c)) for c in ([2, 6, 2], [], [0, 5])]
    result = heads.forward_with_given_boxes(features, images)
    boxes = [x.pred_boxes for x in images]
    logits = plain_logits(heads, features["p2"], boxes, torch.tensor([2, 6, 2, 0, 5]))
    assert [x.pred_masks.shape for x in result] == [(n, 1, SIDE, SIDE) for n in (3, 0, 2)]
    masks = torch.cat([x.pred_masks for x in result])[:, 0]
    torch.testing.assert_close(masks, logits.sigmoid(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("transfer_input", ["cls", "box", "cls+box"])
@pytest.mark.parametrize("stop_gradient", [True, False])
def test_stop_gradient(transfer_input: str, stop_gradient: bool) -> None:
    heads = make_heads(transfer_input=transfer_input, stop_gradient=stop_gradient)
    features = make_features(1)
    features["p2"].requires_grad_()
    heads._forward_mask(features, [make_image([1, 4], [True, True])])["loss_mask"].backward()
    assert features["p2"].grad.any()
    layers = heads.box_predictor
    for name, layer, rows in (("cls", layers.cls_score, 1), ("box", layers.bbox_pred, 4)):
        assert layer.bias.grad is None
        if stop_gradient or name not in transfer_input:
            assert layer.weight.grad is None
        else:  # the classes of the batch and no other; background has no part
            touched = layer.weight.grad[: rows * K].view(K, -1).any(dim=1)
            assert touched.nonzero().flatten().tolist() == [1, 4]
            assert not layer.weight.grad[rows * K :].any()


NOTHING_USABLE: Dict[str, Callable[[], List[Instances]]] = {
    "box-only objects": lambda: [make_image([1, 2], [False, False]), make_image([3], [False])],
    "background alone": lambda: [make_image([], []), make_image([], [])],
    "images without objects": lambda: [without_ground_truth(make_image([])) for _ in range(2)],
    "no masks in the data": lambda: [without(make_image([1, 2]), "gt_masks") for _ in range(2)],
}


def without(x: Instances, *fields: str) -> Instances:
    for field in fields:
        x.remove(field)
    return x


def without_ground_truth(x: Instances) -> Instances:
    """What detectron2 samples in an image without objects: no gt_* but the class, background."""
    return without(x, "gt_masks", "gt_boxes")


@each_variant
@pytest.mark.parametrize("case", NOTHING_USABLE)
def test_no_usable_mask_gives_zero_loss_and_zero_gradients(
    variant: Tuple[str, Optional[str], str], case: str
) -> None:
    heads = make_heads(*variant)
    loss = heads._forward_mask(make_features(), NOTHING_USABLE[case]())["loss_mask"]
    assert loss.item() == 0
    loss.backward()
    parameters = mask_parameters(heads)
    # A gradient of None would make DistributedDataParallel hang.
    assert [n for n, p in parameters.items() if p.grad is None] == []
    assert [n for n, p in parameters.items() if p.grad.any()] == []


def test_an_image_without_objects_beside_one_with_masks() -> None:
    heads, features, image = make_heads(), make_features(2), make_image([1, 2], [True, True])
    both = heads._forward_mask(features, [without_ground_truth(make_image([])), image])
    alone = heads._forward_mask({"p2": features["p2"][1:]}, [image])
    torch.testing.assert_close(both["loss_mask"], alone["loss_mask"], rtol=1e-6, atol=0)


def test_selection_of_proposals() -> None:
    partly, stock = make_image([1, 2, 3], [True, False, True]), make_image([4, 5])
    bare = without(make_image([6]), "gt_masks")
    ignored = make_image([1, 2], [True, True])
    ignored.gt_classes[0] = -1  # detectron2's label of what is to be ignored
    selected = select_proposals_with_masks([partly, stock, bare, ignored], K)
    assert [x.gt_classes.tolist() for x in selected] == [[1, 3], [4, 5], [], [2]]
    assert len(partly) == 4  # the box head's proposals stay as they are


def test_box_only_objects_change_box_losses_and_not_the_mask_loss() -> None:
    heads, features = make_heads(), make_features(1)

    def losses(classes: List[int], has_mask: List[bool]) -> Dict[str, torch.Tensor]:
        objects = make_image(classes, has_mask)[: len(classes)]
        targets = Instances(objects.image_size)
        for name in ("gt_boxes", "gt_classes", "gt_masks", "gt_has_mask"):
            targets.set(name, objects.get(name))
        proposals = Instances(objects.image_size)
        boxes = make_image([0] * 5).proposal_boxes.tensor
        proposals.proposal_boxes = Boxes(boxes + 0.5)
        proposals.objectness_logits = torch.zeros(len(boxes))
        return heads(None, features, [proposals], [targets])[1]

    few = losses([1, 4], [True, True])
    many = losses([1, 4, 2, 6], [True, True, False, False])
    torch.testing.assert_close(many["loss_mask"], few["loss_mask"], rtol=1e-6, atol=0)
    assert few["loss_mask"] > 0
    for name in ("loss_cls", "loss_box_reg"):
        assert abs(many[name] - few[name]) > 1e-3
    all_masks = losses([1, 4, 2, 6], [True] * 4)
    assert abs(all_masks["loss_mask"] - few["loss_mask"]) > 1e-3


@pytest.mark.parametrize("freeze_detector", [True, False])
def test_a_frozen_detector_samples_only_objects_with_masks(freeze_detector: bool) -> None:
    heads = make_heads(freeze_detector=freeze_detector)
    objects = make_image([1, 4, 2], [True, False, True])[:3]
    targets = Instances(objects.image_size)
    for name in ("gt_boxes", "gt_classes", "gt_masks", "gt_has_mask"):
        targets.set(name, objects.get(name))
    nothing = targets[[False] * 3]
    proposals = []
    for _ in range(2):
        proposals.append(Instances(objects.image_size))
        proposals[-1].proposal_boxes = Boxes(objects.gt_boxes.tensor + 0.5)
        proposals[-1].objectness_logits = torch.zeros(3)
    sampled, none = heads.label_and_sample_proposals(proposals, [targets, nothing])
    assert set(sampled.gt_classes.tolist()) == ({1, 2, K} if freeze_detector else {1, 2, 4})
    assert set(none.gt_classes.tolist()) == {K}
    losses = heads(None, make_features(2), proposals, [targets, nothing])[1]
    assert losses["loss_mask"] > 0
    assert ("loss_cls" in losses) != freeze_detector


class LargestTensor(TorchDispatchMode):
    """Size of the largest tensor that comes into being; views of what there is do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {x.untyped_storage().data_ptr() for x in flat_tensors(args)}
        for x in flat_tensors([out]):
            if x.untyped_storage().data_ptr() not in known:
                self.numel = max(self.numel, x.numel())
        return out


def flat_tensors(values: Any) -> List[torch.Tensor]:
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found.extend(flat_tensors(value))
    return found


@pytest.mark.parametrize("mlp_input", [None, "upsampled"])
def test_cost_does_not_grow_with_the_number_of_classes(mlp_input: Optional[str]) -> None:
    training, inference = {}, {}
    for num_classes in (K, 20_000):
        heads, features = (
            make_heads("transfer", mlp_input, "cls+box", num_classes),
            make_features(1),
        )
        image = make_image([2, 5, 5, 1], [True] * 4, num_classes)
        with LargestTensor() as largest:
            heads._forward_mask(features, [image])["loss_mask"].backward()
        training[num_classes] = largest.numel
        heads.eval()
        with torch.no_grad(), LargestTensor() as largest:
            heads._forward_mask(features, [as_predictions(image)])
        if num_classes == 20_000:  # all filters, once; and rows for T, a part at a time
            assert 20_000 * C <= largest.numel <= 4096 * 5 * F + 20_000 * C
        with torch.no_grad(), LargestTensor() as largest:
            heads._forward_mask(features, [as_predictions(image)])
        inference[num_classes] = largest.numel
    assert training[20_000] == training[K] > 4 * C * SIDE**2 - 1
    assert inference[20_000] == inference[K] > 4 * C * SIDE**2 - 1


@pytest.mark.parametrize("transfer_input", ["cls", "embedding"])
def test_normalized_vectors_are_centred_on_set_a(transfer_input: str) -> None:
    set_a = torch.tensor([1, 2])
    heads = make_heads(transfer_input=transfer_input, normalize_over=set_a)
    rows = torch.zeros(K, WIDTHS[transfer_input], dtype=torch.float64)
    rows[1, 0], rows[2, 0] = 2.0, 4.0  # their mean: (3, 0, 0, ...)
    rows[6, :2] = torch.tensor([6.0, 4.0])  # minus the mean: (3, 4, 0, ...), of length 5
    with torch.no_grad():
        target = (
            heads.class_vectors
            if transfer_input == "embedding"
            else heads.box_predictor.cls_score.weight[:K]
        )
        target.copy_(rows)
    vectors = heads.describe_classes(torch.tensor([6, 1, 0, 2]))
    expected = [[0.6, 0.8], [-1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]
    torch.testing.assert_close(vectors[:, :2], torch.tensor(expected, dtype=torch.float64))
    assert not vectors[:, 2:].any()
    assert heads.describe_classes(torch.tensor([], dtype=torch.int64)).shape[0] == 0
