"""What plays numpy's unpickling functions, which trust their input, and is not to be tricked."""

import math
import re
from collections import OrderedDict
from typing import Any, Callable, Dict, Optional, Tuple

import numpy as np

from .pickle_scan import RefusedError

_DTYPE = re.compile(r"[<>|=]?[biufc]\d{1,2}")


class _StandIn:
    """Plays one function or class that pickles of arrays name; cannot be altered by a pickle."""

    __slots__ = ("_build", "_name")

    def __init__(self, name: str, build: Optional[Callable[..., Any]] = None) -> None:
        self._name, self._build = name, build

    def __call__(self, *args: Any) -> Any:
        if self._build is None:
            raise RefusedError(f"it calls '{self._name}'")
        return self._build(*args)

    def __setstate__(self, _: Any) -> None:
        raise RefusedError(f"it changes '{self._name}'")

    def __repr__(self) -> str:
        return self._name


def _brief(value: Any) -> str:
    """For messages: never the content of a container, which a hostile file can make endless."""
    if isinstance(value, str):
        return repr(value[:30])
    return f"'{value}'" if isinstance(value, _StandIn) else f"of type {type(value).__name__}"


class _Dtype:
    """A number type; only its byte order can be set afterwards."""

    __slots__ = ("value",)

    def __init__(self, code: str, *_: Any) -> None:
        # Objects and records are left out: their states hold flags and fields that numpy trusts.
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise RefusedError(f"it holds an array of the type {_brief(code)}")
        self.value = np.dtype(code)

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        _, order, subarray, names, fields = state[:5]
        if order not in ("<", ">", "|", "=") or (subarray, names, fields) != (None, None, None):
            raise RefusedError("it holds an array of records")
        self.value = self.value.newbyteorder(order)


class _Array:
    """An array that gets its content after it is made, as numpy's pickles have it."""

    __slots__ = ("value",)

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind is not _NDARRAY:
            raise RefusedError(f"it makes an array of the class {_brief(kind)}")
        self.value: Optional[np.ndarray] = None

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        _, shape, dtype, fortran_order, data = state
        self.value = _array_of(data, dtype, shape, "F" if fortran_order else "C")


class _OrderedDict(dict):
    """An OrderedDict without attributes: a state, such as that of PyTorch's, is dropped."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        pass


def _array_of(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """(shape) array from its bytes, which must be as many as the shape says."""
    if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray, str)):
        raise RefusedError("it holds an array of something else than numbers")
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("it holds an array whose shape is not one of sizes")
    if isinstance(data, str):  # a string of Python 2
        data = data.encode("latin-1")
    size = math.prod(shape) * dtype.value.itemsize
    if size != len(data):
        raise ValueError(
            f"it holds an array of shape {tuple(shape)} and type {dtype.value}, which takes {size} "
            f"bytes, with {len(data)}"
        )
    array = np.empty(0, dtype.value) if size == 0 else np.frombuffer(data, dtype.value)
    # A copy, because bytes cannot be written to.
    return array.reshape(shape, order=order).astype(dtype.value.newbyteorder("="), order="K")


def _scalar_of(dtype: Any, data: Any) -> Any:
    return _array_of(data, dtype, (1,), "C")[0]


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    return _array_of(data, dtype, shape, order if order == "F" else "C")


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in protocols 0 to 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedError(f"it encodes text as {_brief(encoding)}")
    return text.encode("latin-1")


def _empty_bytes(*args: Any) -> bytes:
    if args:
        raise RefusedError("it calls 'bytes' with arguments")
    return b""


_NDARRAY = _StandIn("numpy.ndarray")

ALLOWED: Dict[Tuple[str, str], _StandIn] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _StandIn("numpy.dtype", _Dtype),
    ("_codecs", "encode"): _StandIn("_codecs.encode", _encode),
    ("__builtin__", "bytes"): _StandIn("bytes", _empty_bytes),
    ("collections", "OrderedDict"): _StandIn("collections.OrderedDict", _OrderedDict),
}
for _core in ("numpy.core", "numpy._core"):
    ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _StandIn("numpy's _reconstruct", _Array)
    ALLOWED[f"{_core}.multiarray", "scalar"] = _StandIn("numpy's scalar", _scalar_of)
    ALLOWED[f"{_core}.numeric", "_frombuffer"] = _StandIn("numpy's _frombuffer", _array_from_buffer)


def plain(value: Any, done: Dict[int, Any]) -> Any:
    """Put what the stand-ins made in their place; nothing but plain values may be left.

    Keys that are bytes become text: they are a string of Python 2, written again by Python 3.

    Args:
        value: as unpickled.
        done: results by id, to fill; empty at first.

    Raises:
        RefusedError: for any other value.
        ValueError: for a value that contains itself, or a key that is there as bytes and as text.
    """
    if value is None or isinstance(
        value, (bool, int, float, str, bytes, bytearray, np.ndarray, np.number, np.bool_)
    ):
        return value
    if id(value) in done:
        if done[id(value)] is _UNFINISHED:
            raise ValueError("it contains itself")
        return done[id(value)]
    done[id(value)] = _UNFINISHED
    result: Any
    if isinstance(value, dict):
        kind = OrderedDict if isinstance(value, _OrderedDict) else dict
        result = kind((_key(plain(k, done)), plain(v, done)) for k, v in value.items())
        if len(result) != len(value):
            raise ValueError("it has a key twice, as bytes and as text")
    elif isinstance(value, (list, tuple, set, frozenset)):
        result = type(value)(plain(v, done) for v in value)
    elif isinstance(value, (_Array, _Dtype)) and value.value is not None:
        result = value.value
    else:
        raise RefusedError(f"it holds {_brief(value)} as a value")
    done[id(value)] = result
    return result


def _key(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


_UNFINISHED = object()
