"""The states of the random generators, in a form that a checkpoint of plain values may hold."""

import contextlib
import random
from typing import Any, Dict, Iterator

import numpy as np
import torch

States = Dict[str, Any]


def generator_states(gpu: bool = False) -> States:
    """States of the generators of Python, numpy and torch, as tensors and plain values.

    Args:
        gpu: also of this process's GPU, if there is one.
    """
    version, python, gauss = random.getstate()
    _, keys, *rest = np.random.get_state()
    states = {
        "python": [version, torch.tensor(python), gauss],
        "numpy": [torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if gpu and torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_generator_states(states: States) -> None:
    """Set the generators to what :func:`generator_states` returned."""
    version, python, gauss = states["python"]
    random.setstate((version, tuple(python.tolist()), gauss))
    keys, *rest = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


@contextlib.contextmanager
def generators_at(states: States) -> Iterator[None]:
    """Run a block with the generators of the CPU in other states, and put theirs back."""
    before = generator_states()
    set_generator_states(states)
    try:
        yield
    finally:
        set_generator_states(before)
