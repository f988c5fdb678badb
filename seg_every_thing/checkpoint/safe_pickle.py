"""Pickles that hold numbers and nothing else: arrays and plain containers, no code.

A pickle is a small program, and loading one from elsewhere is running it.  Here its instructions
are read first, and a file that names anything but numpy arrays is refused before any of it runs.
What it may name is then played by the stand-ins below, so numpy's own unpickling functions, which
trust their input, are never called.
"""

import itertools
import math
import mmap
import pickle
import pickletools
import re
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np

_OPCODES = frozenset(
    re.findall(
        r"\w+",
        """PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG
        LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
        SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_LIST LIST
        APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
        EMPTY_SET ADDITEMS FROZENSET PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL
        STACK_GLOBAL REDUCE BUILD""",
    )
)
"""All that arrays, containers, strings and numbers need in protocols 0 to 5."""

_BY_CODE = {opcode.code: opcode for opcode in pickletools.opcodes}

_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}

_LONGEST_NAME = 256
_MAX_TUPLES = 50_000  # hashing much deeper nests of tuples overflows the interpreter's stack

_DTYPE = re.compile(r"[<>|=]?[biufc]\d{1,2}")


class _RefusedError(ValueError):
    """The pickle asks for something that a file of numbers has no need of."""


def load_pickle(path: Union[str, Path]) -> Any:
    """Read a pickle that may hold numpy arrays of numbers, plain containers, strings and numbers.

    Protocols 0 to 5, also as written by Python 2 (its strings are read as Latin-1).

    Args:
        path: a local file.

    Returns:
        The content.  Arrays are of native byte order and own their memory.

    Raises:
        ValueError: when the file cannot be read, is not one whole pickle, or names anything else;
            in the last case none of it has run.  The message names the file.
    """
    try:
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:2] == b"PK":
                raise ValueError("it is a zip archive, such as PyTorch's .pth files")
            _scan(content)
            content.seek(0)
            value = _Unpickler(content, encoding="latin1").load()
        return _plain(value, {})
    except OSError as e:
        raise ValueError(f"cannot read '{path}': {e.strerror or e}") from e
    except _RefusedError as e:
        raise ValueError(
            f"refused to unpickle '{path}': {e}; only numpy arrays of numbers, plain containers, "
            f"strings and numbers are accepted"
        ) from e
    except MemoryError as e:
        raise ValueError(f"cannot unpickle '{path}': it needs more memory than there is") from e
    except Exception as e:  # pickle reports corrupt bytes with errors of any kind
        raise ValueError(f"'{path}' is not a valid pickle: {e or type(e).__name__}") from e


def _scan(content: mmap.mmap) -> None:
    """Read the instructions of a pickle to the end and carry out none.

    Raises:
        _RefusedError: for an instruction or a name that is not allowed.
        ValueError: when the bytes are not exactly one pickle.
    """
    memo: Dict[int, Optional[str]] = {}
    pushed: List[Optional[str]] = []  # the texts that the last instructions pushed; None = unknown
    tuples = 0
    for count in itertools.count(1):
        code = content.read(1)
        opcode = _BY_CODE.get(code.decode("latin-1"))
        if opcode is None:
            raise ValueError(f"unknown instruction {code!r}" if code else "it is truncated")
        argument = _argument(content, opcode)
        if opcode.name == "INST":
            raise _RefusedError(f"it names '{_dotted(argument)}'")
        if opcode.name not in _OPCODES:
            raise _RefusedError(f"it uses the instruction {opcode.name}")
        if opcode.name == "GLOBAL":
            module, _, name = argument.decode("utf-8").partition("\n")
            _check_name(module, name)
        elif opcode.name == "STACK_GLOBAL":
            if len(pushed) < 2 or pushed[-1] is None or pushed[-2] is None:
                raise _RefusedError("it computes the name of what it asks for")
            _check_name(pushed[-2], pushed[-1])

        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if opcode.name == "MEMOIZE" else _index(opcode.name, argument)
            if not 0 <= index <= count:  # unpickling would make a table of that length
                raise ValueError(f"its memo has an entry {index}")
            memo[index] = pushed[-1] if pushed else None
        elif opcode.name in ("GET", "BINGET", "LONG_BINGET"):
            pushed.append(memo.get(_index(opcode.name, argument)))
        elif opcode.name in ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"):
            pushed.append(_text(opcode.name, argument))
        elif opcode.name not in ("PROTO", "FRAME"):  # those leave the stack as it is
            pushed = []
        pushed = pushed[-2:]

        tuples += opcode.name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET")
        if tuples > _MAX_TUPLES:
            raise ValueError(f"it has more than {_MAX_TUPLES} tuples")
        if opcode.name == "STOP":
            break
    rest = len(content) - content.tell()
    if rest:
        raise ValueError(f"{rest} bytes follow its end")


def _argument(content: mmap.mmap, opcode: pickletools.OpcodeInfo) -> bytes:
    """The argument of an instruction without its length and its newline; b"" where it is long."""
    if opcode.arg is None:
        return b""
    size = opcode.arg.n
    if size == pickletools.UP_TO_NEWLINE:
        lines = [content.readline() for _ in range(2 if opcode.name in ("GLOBAL", "INST") else 1)]
        if not all(line.endswith(b"\n") for line in lines):
            raise ValueError("it is truncated")
        return b"".join(lines)[:-1]
    if size in _LENGTHS:
        form = _LENGTHS[size]
        size = struct.unpack(form, _exactly(content, struct.calcsize(form)))[0]
    if size <= _LONGEST_NAME:
        return _exactly(content, size)
    if size > len(content) - content.tell():
        raise ValueError("it is truncated")
    content.seek(size, 1)
    return b""


def _exactly(content: mmap.mmap, size: int) -> bytes:
    if size < 0:
        raise ValueError(f"it holds something of {size} bytes")
    data = content.read(size)
    if len(data) != size:
        raise ValueError("it is truncated")
    return data


def _index(opcode: str, argument: bytes) -> int:
    return int(argument) if opcode in ("GET", "PUT") else int.from_bytes(argument, "little")


def _text(opcode: str, argument: bytes) -> str:
    if opcode == "UNICODE":
        return argument[:_LONGEST_NAME].decode("raw-unicode-escape")
    return argument.decode("utf-8", "surrogatepass")


def _dotted(argument: bytes) -> str:
    return argument.decode("utf-8", "replace").replace("\n", ".")


def _check_name(module: str, name: str) -> None:
    if (module, name) not in _ALLOWED:
        raise _RefusedError(f"it names '{module}.{name}'")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        _check_name(module, name)
        return _ALLOWED[module, name]


class _StandIn:
    """Plays one function or class that pickles of arrays name; cannot be altered by a pickle."""

    __slots__ = ("_build", "_name")

    def __init__(self, name: str, build: Optional[Callable[..., Any]] = None) -> None:
        self._name, self._build = name, build

    def __call__(self, *args: Any) -> Any:
        if self._build is None:
            raise _RefusedError(f"it calls '{self._name}'")
        return self._build(*args)

    def __setstate__(self, _: Any) -> None:
        raise _RefusedError(f"it changes '{self._name}'")

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
            raise _RefusedError(f"it holds an array of the type {_brief(code)}")
        self.value = np.dtype(code)

    def __setstate__(self, state: Tuple[Any, ...]) -> None:
        _, order, subarray, names, fields = state[:5]
        if order not in ("<", ">", "|", "=") or (subarray, names, fields) != (None, None, None):
            raise _RefusedError("it holds an array of records")
        self.value = self.value.newbyteorder(order)


class _Array:
    """An array that gets its content after it is made, as numpy's pickles have it."""

    __slots__ = ("value",)

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind is not _NDARRAY:
            raise _RefusedError(f"it makes an array of the class {_brief(kind)}")
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
        raise _RefusedError("it holds an array of something else than numbers")
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
        raise _RefusedError(f"it encodes text as {_brief(encoding)}")
    return text.encode("latin-1")


def _empty_bytes(*args: Any) -> bytes:
    if args:
        raise _RefusedError("it calls 'bytes' with arguments")
    return b""


_NDARRAY = _StandIn("numpy.ndarray")

_ALLOWED: Dict[Tuple[str, str], _StandIn] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _StandIn("numpy.dtype", _Dtype),
    ("_codecs", "encode"): _StandIn("_codecs.encode", _encode),
    ("__builtin__", "bytes"): _StandIn("bytes", _empty_bytes),
    ("collections", "OrderedDict"): _StandIn("collections.OrderedDict", _OrderedDict),
}
for _core in ("numpy.core", "numpy._core"):
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _StandIn("numpy's _reconstruct", _Array)
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _StandIn("numpy's scalar", _scalar_of)
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _StandIn(
        "numpy's _frombuffer", _array_from_buffer
    )


def _plain(value: Any, done: Dict[int, Any]) -> Any:
    """Put what the stand-ins made in their place; nothing but plain values may be left."""
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
        result = kind((_plain(k, done), _plain(v, done)) for k, v in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        result = type(value)(_plain(v, done) for v in value)
    elif isinstance(value, (_Array, _Dtype)) and value.value is not None:
        result = value.value
    else:
        raise _RefusedError(f"it holds {_brief(value)} as a value")
    done[id(value)] = result
    return result


_UNFINISHED = object()
