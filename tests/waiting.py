"""Whether code waits for the device: a rule for GPUs, checked on a CPU.

A GPU works through a queue.  Code that asks for a value (``.item()``), for a number of elements
that only the device knows (``nonzero``, a bool index), or that copies between CPU and device, waits
until the queue is empty.
"""

import contextlib
import sys
from typing import Any, Callable, Collection, Dict, Iterator, List, Optional, Sequence, Tuple
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# What gives a value, or a tensor whose size depends on values.
_WAITING_OPERATORS = {
    *("_local_scalar_dense", "nonzero", "nonzero_numpy", "masked_select", "_unique", "_unique2"),
    *("unique_dim", "unique_consecutive", "bincount", "repeat_interleave"),
}
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
# What does not show among a CPU's operators.
_WAITING_METHODS = ("cpu", "cuda", "numpy", "tolist", "new_tensor")
_WAITING_FUNCTIONS = ("tensor", "as_tensor", "from_numpy")


class _Guard(TorchDispatchMode):
    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Optional[Dict] = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITING_OPERATORS:
            raise AssertionError(f"waits for the device: {func}")
        indices = args[1] if name in _INDEXING else []
        if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
            raise AssertionError(f"waits for the device: {func} with a bool tensor")
        return func(*args, **(kwargs or {}))


def _refuse(name: str) -> Any:
    def refused(*_: Any, **__: Any) -> Any:
        raise AssertionError(f"waits for the device: {name}")

    return refused


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in _WAITING_METHODS:
            stack.enter_context(mock.patch.object(torch.Tensor, name, _refuse(f".{name}()")))
        for name in _WAITING_FUNCTIONS:
            stack.enter_context(mock.patch.object(torch, name, _refuse(f"torch.{name}")))
        stack.enter_context(_Guard())
        yield


@contextlib.contextmanager
def forbid_waiting(
    allowed: Collection[Tuple[Any, str]] = (), guard: Callable[[], Any] = _guarded
) -> Iterator[List[str]]:
    """Raise AssertionError in code that would wait.

    Args:
        allowed: modules (or objects) and names of their functions that may wait.
        guard: what forbids it, a context manager.

    Yields:
        The names of those that were called, call by call.
    """
    waits: List[str] = []
    stack = contextlib.ExitStack()
    entered: List[Any] = []

    def enter() -> None:
        context = guard()
        context.__enter__()
        entered.append(context)

    def may_wait(function: Any, name: str) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            waits.append(name)
            entered.pop().__exit__(None, None, None)
            try:
                return function(*args, **kwargs)
            finally:
                enter()

        return wrapped

    with stack:
        for owner, name in allowed:
            wrapped = may_wait(getattr(owner, name), name)
            stack.enter_context(mock.patch.object(owner, name, wrapped))
        enter()
        try:
            yield waits
        finally:
            entered.pop().__exit__(*sys.exc_info())
