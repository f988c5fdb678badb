"""Some RoIs of a batch, as indexing with bool tensors gives them."""

import torch
from waiting import forbid_waiting

from seg_every_thing.modeling import choosing
from seg_every_thing.modeling.choosing import in_batch, true_indices


def test_as_with_bool_tensors() -> None:
    torch.manual_seed(0)
    masks = [torch.rand(n) < share for n, share in ((300, 0.5), (0, 0.5), (40, 0), (7, 2))]
    values = [torch.rand(len(mask), 3) for mask in masks]
    found = true_indices(masks)
    for mask, index, value in zip(masks, found, values):
        assert torch.equal(index, mask.nonzero()[:, 0]) and torch.equal(value[index], value[mask])
    index = in_batch(found, [len(mask) for mask in masks])
    assert torch.equal(torch.cat(values)[index], torch.cat(values)[torch.cat(masks)])


def test_one_wait() -> None:
    masks = [torch.tensor([True, False]), torch.tensor([True, True, False])]
    with forbid_waiting(allowed=[(choosing, "true_indices")]) as waits:
        in_batch(choosing.true_indices(masks), [2, 3])
    assert waits == ["true_indices"]
