"""Batch normalisation that can use the statistics of the current batch at test time, too."""

from typing import Tuple

import torch
from torch import nn
from torch.nn import functional as F

STATISTICS: Tuple[str, ...] = ("running", "batch")


class SwitchableBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with a choice of statistics in evaluation mode.

    "running": the averages gathered in training, as usual.  "batch": mean and variance of the batch
    at hand, so that results depend on which images are tested together.  Running statistics are
    gathered in training either way: one checkpoint serves both.
    """

    def __init__(self, num_features: int, *, statistics: str = "running") -> None:
        """
        Args:
            num_features: channels of the input.
            statistics: one of :data:`STATISTICS`.

        Raises:
            ValueError: for any other choice.
        """
        super().__init__(num_features)
        self.statistics = _checked(statistics)

    @property
    def uses_batch(self) -> bool:
        """Whether the next forward pass normalises with the statistics of its own batch."""
        return self.training or self.statistics == "batch"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W)."""
        if self.training or not self.uses_batch:
            return super().forward(x)
        # Without buffers, so that testing a model never changes it.
        return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, statistics={self.statistics}"


def set_test_statistics(model: nn.Module, statistics: str) -> int:
    """Choose the test-time statistics of every :class:`SwitchableBatchNorm2d` of a model.

    Args:
        model: changed in place.
        statistics: one of :data:`STATISTICS`.

    Returns:
        The number of layers that were set.

    Raises:
        ValueError: for an unknown choice.
    """
    _checked(statistics)
    layers = [m for m in model.modules() if isinstance(m, SwitchableBatchNorm2d)]
    for layer in layers:
        layer.statistics = statistics
    return len(layers)


def _checked(statistics: str) -> str:
    if statistics not in STATISTICS:
        raise ValueError(f"BN_STATS is '{statistics}', expected one of: {', '.join(STATISTICS)}")
    return statistics
