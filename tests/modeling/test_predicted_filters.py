"""At inference T runs once; the filters that it predicts are kept, and never stale."""

from typing import Any, Callable, Dict

import pytest
import torch
from tiny_heads import as_predictions, make_features, make_heads, make_image, plain_logits

from seg_every_thing import PartiallySupervisedROIHeads


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


class CountedTransfer:
    """Heads in evaluation mode, and how often T has run."""

    def __init__(self, **kwargs: Any) -> None:
        self.heads = make_heads(**kwargs).eval()
        self.count = 0
        self.heads.weight_transfer.register_forward_hook(self._add)
        self.features = make_features(1)

    def _add(self, *_: Any) -> None:
        self.count += 1

    def masks(self) -> torch.Tensor:
        """Checked against the definition, each time."""
        dtype = next(self.heads.parameters()).dtype
        features = {"p2": self.features["p2"].to(dtype)}
        image = as_predictions(make_image([3, 0, 3]))
        with torch.no_grad():
            masks = self.heads._forward_mask(features, [image])[0].pred_masks[:, 0]
            boxes, classes = [image.pred_boxes], image.pred_classes
            expected = plain_logits(self.heads.double(), self.features["p2"], boxes, classes)
            self.heads.to(dtype)
        assert masks.dtype == dtype
        tolerance = 1e-10 if dtype == torch.float64 else 1e-4
        torch.testing.assert_close(
            masks.double(), expected.sigmoid(), rtol=tolerance, atol=tolerance
        )
        return masks


def optimizer_step(heads: PartiallySupervisedROIHeads) -> None:
    for parameter in heads.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(heads.parameters(), lr=0.1).step()


def load_others(heads: PartiallySupervisedROIHeads) -> None:
    heads.load_state_dict({n: x + 0.1 for n, x in heads.state_dict().items()})


@torch.no_grad()
def change_detector(heads: PartiallySupervisedROIHeads) -> None:
    heads.box_predictor.bbox_pred.weight.mul_(0.5)


CHANGES: Dict[str, Callable[[PartiallySupervisedROIHeads], Any]] = {
    "optimizer step": optimizer_step,
    "load_state_dict": load_others,
    "in place": change_detector,
    "train and eval": lambda heads: heads.train().eval(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_predicted_filters_are_kept_until_something_changes(change: str) -> None:
    counted = CountedTransfer()
    first = counted.masks()
    assert counted.count == 1
    assert torch.equal(counted.masks(), first)
    assert counted.count == 1
    CHANGES[change](counted.heads)
    after = counted.masks()
    assert counted.count == 2
    assert torch.equal(after, first) == (change == "train and eval")


def test_predicted_filters_follow_the_embedding() -> None:
    counted = CountedTransfer(transfer_input="embedding")
    first = counted.masks()
    counted.heads.class_vectors.mul_(2)
    assert not torch.equal(counted.masks(), first)
    assert counted.count == 2


def test_predicted_filters_follow_the_precision() -> None:
    counted = CountedTransfer()
    counted.masks()
    counted.heads.float()
    counted.masks()
    counted.heads.double()
    counted.masks()


def test_predicted_filters_of_autocast_serve_without_it() -> None:
    heads, features = make_heads().float().eval(), {"p2": make_features(1)["p2"].float()}
    image = make_image([3, 0])
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            heads._forward_mask(features, [as_predictions(image)])
        after = heads._forward_mask(features, [as_predictions(image)])[0].pred_masks
        heads.train().eval()
        fresh = heads._forward_mask(features, [as_predictions(image)])[0].pred_masks
    torch.testing.assert_close(after, fresh)


@torch.inference_mode()
def test_weights_made_in_inference_mode_are_never_stale() -> None:
    # Such tensors do not count their changes.
    heads = make_heads().eval()
    first = heads.mask_weights()
    for parameter in heads.weight_transfer.parameters():
        parameter.mul_(2)
    assert not torch.equal(heads.mask_weights(), first)


def test_other_predictors_predict_no_filters() -> None:
    with pytest.raises(ValueError, match="only the predictor 'transfer' predicts mask filters"):
        make_heads("class_specific").mask_weights()
