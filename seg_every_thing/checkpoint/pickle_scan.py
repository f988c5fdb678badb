"""The instructions of a pickle, read and not run: what does it ask for?"""

import itertools
import mmap
import pickletools
import re
import struct
from typing import Container, Dict, List, Optional, Tuple

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


class RefusedError(ValueError):
    """The pickle asks for something that a file of numbers has no need of."""


def scan(content: mmap.mmap, allowed: Container[Tuple[str, str]]) -> None:
    """Read the instructions of a pickle to the end and carry out none.

    Args:
        content: from its start.
        allowed: module and name of what it may ask for.

    Raises:
        RefusedError: for an instruction or a name that is not allowed.
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
            raise RefusedError(f"it names '{_dotted(argument)}'")
        if opcode.name not in _OPCODES:
            raise RefusedError(f"it uses the instruction {opcode.name}")
        if opcode.name == "GLOBAL":
            module, _, name = argument.decode("utf-8").partition("\n")
            check_name(module, name, allowed)
        elif opcode.name == "STACK_GLOBAL":
            if len(pushed) < 2 or pushed[-1] is None or pushed[-2] is None:
                raise RefusedError("it computes the name of what it asks for")
            check_name(pushed[-2], pushed[-1], allowed)

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


def _text(opcode: str, argument: bytes) -> Optional[str]:
    """A text that may be a name; None for one that is too long to be."""
    if len(argument) > _LONGEST_NAME:  # in protocol 0 also the bytes of arrays
        return None
    if opcode == "UNICODE":
        return argument.decode("raw-unicode-escape")
    return argument.decode("utf-8", "surrogatepass")


def _dotted(argument: bytes) -> str:
    return argument.decode("utf-8", "replace").replace("\n", ".")


def check_name(module: str, name: str, allowed: Container[Tuple[str, str]]) -> None:
    """Raise RefusedError for a name that is not allowed."""
    if (module, name) not in allowed:
        raise RefusedError(f"it names '{module}.{name}'")
