"""Tests that need a GPU: skipped where there is none, and chosen by ``pytest -m gpu``."""

import pytest
import torch

NEEDS_GPU = "needs a GPU that CUDA can use, and `pytest -m gpu`"

cuda = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason=NEEDS_GPU),
    ],
)
each_device = pytest.mark.parametrize("device", ["cpu", cuda])
