"""Batch normalisation with batch or running statistics at test time."""

import pytest
import torch
from torch import nn

from seg_every_thing.modeling.semantic.batch_statistics import (
    SwitchableBatchNorm2d,
    set_test_statistics,
)


def trained_norm(statistics: str) -> SwitchableBatchNorm2d:
    norm = SwitchableBatchNorm2d(2, statistics=statistics).double()
    nn.init.uniform_(norm.weight, 0.5, 2)
    nn.init.normal_(norm.bias)
    norm(torch.randn(8, 2, 3, 3, dtype=torch.float64) * 3 + 1)
    return norm.eval()


def test_batch_statistics_by_hand() -> None:
    norm = trained_norm("batch")
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    x = torch.randn(4, 2, 5, 3, dtype=torch.float64)
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    expected = (x - mean) / (variance + norm.eps).sqrt()
    expected = expected * norm.weight.view(1, 2, 1, 1) + norm.bias.view(1, 2, 1, 1)
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)
    # A test changes nothing, and what one image gives depends on its company.
    assert all(torch.equal(v, norm.state_dict()[k]) for k, v in before.items())
    assert not torch.allclose(norm(x)[:1], norm(x[:1]))


def test_running_statistics_are_those_of_torch() -> None:
    norm = trained_norm("running")
    stock = nn.BatchNorm2d(2).double().eval()
    stock.load_state_dict(norm.state_dict())
    x = torch.randn(4, 2, 5, 3, dtype=torch.float64)
    assert torch.equal(norm(x), stock(x))
    assert torch.allclose(norm(x)[:1], norm(x[:1]))
    assert torch.equal(norm.train()(x), stock.train()(x))
    assert torch.equal(norm.running_mean, stock.running_mean)


def test_one_checkpoint_serves_both() -> None:
    model = nn.Sequential(trained_norm("running"), nn.ReLU(), trained_norm("batch"))
    assert set_test_statistics(model, "batch") == 2
    assert {m.statistics for m in (model[0], model[2])} == {"batch"}
    x = torch.randn(4, 2, 5, 3, dtype=torch.float64)
    as_batch = model(x)
    set_test_statistics(model, "running")
    assert not torch.allclose(model(x), as_batch)
    assert set_test_statistics(nn.ReLU(), "batch") == 0
    with pytest.raises(ValueError, match="BN_STATS is 'mean'"):
        set_test_statistics(model, "mean")
