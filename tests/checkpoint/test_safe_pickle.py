"""Pickles of arrays are read; pickles that ask for anything else are refused, and do nothing."""

import collections
import os
import pickle
import re
import struct
from pathlib import Path
from typing import Any, List, Tuple
from unittest import mock

import numpy as np
import pytest
from caffe2_reference import python2_pickle

from seg_every_thing.checkpoint.safe_pickle import load_pickle

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)

# {"w": ARRAY, "cfg": "a\xff\n"} as pickled by Python 2.7 with numpy 1.16.
FROM_PYTHON_2 = [
    b"(dp1\nS'cfg'\np2\nS'a\\xff\\n'\np3\nsS'w'\ncnumpy.core.multiarray\n_reconstruct\np4\n(cnumpy\n"
    b"ndarray\np5\n(I0\ntS'b'\ntRp6\n(I1\n(I2\nI3\ntcnumpy\ndtype\np7\n(S'f4'\nI0\nI1\ntRp8\n(I3\n"
    b"S'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x00\\x00\\x00\\x00\\x00\\x00\\x80?\\x00\\x00\\x00@\\x00"
    b"\\x00@@\\x00\\x00\\x80@\\x00\\x00\\xa0@'\ntbs.",
    b"}q\x01(U\x03cfgq\x02U\x03a\xff\nq\x03U\x01wcnumpy.core.multiarray\n_reconstruct\nq\x04(cnumpy"
    b"\nndarray\nq\x05(K\x00tU\x01btRq\x06(K\x01(K\x02K\x03tcnumpy\ndtype\nq\x07(U\x02f4K\x00K\x01t"
    b"Rq\x08(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbI00\nU\x18\x00\x00\x00\x00\x00"
    b"\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@\x00\x00\xa0@tbu.",
    b"\x80\x02}q\x01(U\x03cfgq\x02U\x03a\xff\nq\x03U\x01wcnumpy.core.multiarray\n_reconstruct\nq"
    b"\x04cnumpy\nndarray\nq\x05K\x00\x85U\x01b\x87Rq\x06(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x07U"
    b"\x02f4K\x00K\x01\x87Rq\x08(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x18"
    b"\x00\x00\x00\x00\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@\x00\x00\xa0@tbu.",
]


def load(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "X.pkl"
    path.write_bytes(data)
    return load_pickle(path)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, np.ndarray):
        return type(b) is np.ndarray and a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and a == b


VALUES: List[Any] = [
    # In protocol 0 six characters a zero: where the scan stops looking, one is cut in two.
    [np.frombuffer(b"a" * n + bytes(100), np.uint8) for n in range(7)],
    {"blobs": {"w": ARRAY, "again": ARRAY}, "cfg": "A: é\n", "lr": 0.5, "n": [1, -(2**70), True]},
    collections.OrderedDict([("b", (None, 1.5)), ("a", {"x": [ARRAY[0]]})]),
    [np.arange(3), np.array([True, False]), np.array(2.5), np.zeros((0, 3), np.float16)],
    [np.float32(2.5), np.int64(-1), np.bool_(True), np.array([1j, 2])],
    (b"", b"\x00\xff", "text", {1: 2, (3, "x"): 4}),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_arrays_and_plain_values(value: Any, protocol: int, tmp_path: Path) -> None:
    assert same(load(tmp_path, pickle.dumps(value, protocol)), value)


def test_arrays_are_writable_native_and_keep_their_order(tmp_path: Path) -> None:
    for protocol in (2, 5):
        for array in (ARRAY, np.asfortranarray(ARRAY), ARRAY.astype(">f4"), ARRAY[:, ::2]):
            loaded = load(tmp_path, pickle.dumps(array, protocol))
            np.testing.assert_array_equal(loaded, array)
            assert loaded.dtype == np.dtype("=f4")
            loaded += 1  # would fail on a read-only view of the file
    fortran = load(tmp_path, pickle.dumps(np.asfortranarray(ARRAY), 2))
    assert fortran.flags.f_contiguous


@pytest.mark.parametrize("data", FROM_PYTHON_2)
def test_pickles_of_python_2(data: bytes, tmp_path: Path) -> None:
    content = load(tmp_path, data)
    assert sorted(content) == ["cfg", "w"] and content["cfg"] == "a\xff\n"
    assert same(content["w"], ARRAY)


@pytest.mark.parametrize("protocol", [0, 2])
def test_the_tests_own_writer_agrees_with_pickle(protocol: int, tmp_path: Path) -> None:
    value = {"a": ARRAY, "s": "x" * 300, "n": (1, None, 0.25)}
    data = python2_pickle(value, protocol)
    assert same(pickle.loads(data, encoding="latin1"), value)
    assert same(load(tmp_path, data), value)


@pytest.mark.parametrize("module", [b"numpy.core.", b"numpy._core."])
def test_names_of_numpy_1_and_2(module: bytes, tmp_path: Path) -> None:
    data = pickle.dumps({"w": ARRAY, "s": np.float32(3)}, 2)
    data, count = re.subn(rb"numpy\._?core\.", module, data)
    assert count == 2
    assert same(load(tmp_path, data), {"w": ARRAY, "s": np.float32(3)})


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_keys_that_python_3_wrote_as_bytes(protocol: int, tmp_path: Path) -> None:
    """As after pickle.load(f, encoding="bytes"); values stay as they are."""
    blobs = collections.OrderedDict([(b"w", ARRAY), (b"caf\xe9", [1, {b"a": b"a"}])])
    loaded = load(tmp_path, pickle.dumps({b"blobs": blobs, 3: b"\xff"}, protocol))
    expected = collections.OrderedDict([("w", ARRAY), ("caf\xe9", [1, {"a": b"a"}])])
    assert same(loaded, {"blobs": expected, 3: b"\xff"})
    with pytest.raises(ValueError, match="X.pkl' is not a valid pickle: it has a key twice"):
        load(tmp_path, pickle.dumps({"model": {b"w": 1, "w": 2}}, protocol))


def test_states_of_ordered_dicts_are_dropped(tmp_path: Path) -> None:
    value = collections.OrderedDict(w=ARRAY)
    value._metadata = {"": 1}  # as PyTorch's state_dict has it
    loaded = load(tmp_path, pickle.dumps(value, 2))
    assert same(loaded, collections.OrderedDict(w=ARRAY)) and not hasattr(loaded, "_metadata")


def test_shared_values_stay_shared_and_cost_nothing(tmp_path: Path) -> None:
    value: Any = [ARRAY]
    for _ in range(200):  # 2 ** 200 paths to the array
        value = [value, value]
    loaded = load(tmp_path, pickle.dumps(value, 2))
    assert loaded[0] is loaded[1]


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Tuple[Any, Tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("nested", [False, True])
def test_calls_are_refused_and_not_made(protocol: int, nested: bool, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    value: Any = Calls(os.mkdir, str(canary))
    if nested:
        value = {"model": {"w": ARRAY, "x": [(1, value)]}, "__author__": "me"}
    data = pickle.dumps(value, protocol)
    with pytest.raises(ValueError, match=r"refused to unpickle '.*X.pkl': it names 'posix.mkdir'"):
        load(tmp_path, data)
    assert not canary.exists()
    pickle.loads(data)
    assert canary.exists()  # so the file was dangerous


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_unpickling_itself_refuses_what_the_scan_might_miss(protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps({"w": ARRAY, "x": Calls(os.mkdir, str(tmp_path / "canary"))}, protocol)
    with mock.patch("seg_every_thing.checkpoint.safe_pickle.scan") as scan:
        with pytest.raises(ValueError, match="it names 'posix.mkdir'"):
            load(tmp_path, data)
        assert scan.called and not (tmp_path / "canary").exists()


def name(module: str, attribute: str) -> bytes:
    """Protocol 4: the name alone."""
    parts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, attribute)]
    return b"".join(parts) + b"\x93"


FORBIDDEN: List[Tuple[str, str]] = [
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("__builtin__", "eval"),
    ("os", "system"),
    ("numpy", "load"),
    ("numpy", "memmap"),
    ("numpy.core.multiarray", "os.system"),
    ("numpy.core.multiarray", "_reconstruct.__globals__"),
    ("numpy.core", "multiarray._reconstruct"),
    ("numpy", "ndarray.tofile"),
    ("numpy", "dtype.__class__"),
    ("numpy.f2py.diagnose", "run"),
    ("numpy.testing._private.utils", "runstring"),
    ("collections", "OrderedDict.fromkeys"),
    ("collections", "namedtuple"),
    ("_codecs", "decode"),
    ("_codecs", "register"),
    ("copyreg", "_reconstructor"),
    ("copy_reg", "_reconstructor"),
    ("torch", "load"),
    ("seg_every_thing.checkpoint.safe_pickle", "load_pickle"),
]


@pytest.mark.parametrize("module, attribute", FORBIDDEN)
def test_names_that_are_not_listed_are_refused(module: str, attribute: str, tmp_path: Path) -> None:
    message = f"it names '{module}.{attribute}'"
    for data in (
        f"c{module}\n{attribute}\n.".encode(),
        b"\x80\x04" + name(module, attribute) + b".",
        b"\x80\x04N" + name(module, attribute) + b"0.",  # dropped again
        f"(i{module}\n{attribute}\n.".encode(),
    ):
        with pytest.raises(ValueError, match="refused to unpickle") as error:
            load(tmp_path, data)
        assert message in str(error.value)


MEMOISED = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x940h\x00h\x01\x93."
COMPUTED = {
    "through the memo": (MEMOISED, "it names 'os.system'"),
    "memo that is no text": (
        b"\x80\x04N\x94\x8c\x06system\x94h\x00h\x01\x93.",
        "computes the name",
    ),
    "from a tuple": (b"\x80\x04\x8c\x02os\x8c\x06system\x86\x93.", "computes the name"),
    "byte strings": (b"U\x02osU\x06system\x93.", "computes the name"),
    "reordered": (b"\x80\x04\x8c\x06system\x8c\x02os\x8c\x01x0\x93.", "computes the name"),
    "extension": (b"\x82\x01.", "instruction EXT1"),
    "persistent": (b"Pabc\n.", "instruction PERSID"),
    "persistent, binary": (b"N\x88Q.", "instruction BINPERSID"),
    "object": (b"(cnumpy\nndarray\n(I3\nto.", "instruction OBJ"),
    "new object": (b"cnumpy\nndarray\n(I3\nt\x81.", "instruction NEWOBJ"),
    "outside buffer": (b"\x80\x05\x97.", "instruction NEXT_BUFFER"),
}


@pytest.mark.parametrize("case", COMPUTED)
def test_other_ways_to_name_or_make_something(case: str, tmp_path: Path) -> None:
    data, message = COMPUTED[case]
    with pytest.raises(ValueError, match="refused to unpickle") as error:
        load(tmp_path, data)
    assert message in str(error.value)


NDARRAY = b"cnumpy\nndarray\n"
MADE = b"cnumpy.core.multiarray\n_reconstruct\n(" + NDARRAY + b"(I0\ntS'b'\ntR"
F4 = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
OBJECTS = b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
RECORD = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'|'\nN(S'a'\nt(dI4\nI1\nI0\ntb"


def filled(shape: bytes, dtype: bytes, data: bytes) -> bytes:
    return MADE + b"(I1\n" + shape + dtype + b"I00\n" + data + b"tb."


ABUSES = {
    "objects from addresses": (filled(b"(I1\nt", OBJECTS, b"S'AAAAAAAA'\n"), "of the type 'O8'"),
    "objects in a list": (filled(b"(I1\nt", OBJECTS, b"(lNa"), "of the type 'O8'"),
    "records": (filled(b"(I1\nt", RECORD, b"S'AAAA'\n"), "array of records"),
    "records by code": (b"cnumpy\ndtype\n(S'f4,O'\nI0\nI1\ntR.", "of the type 'f4,O'"),
    "dtype from a dictionary": (b"cnumpy\ndtype\n((dtR.", "of the type of type dict"),
    "dtype that is none": (filled(b"(I1\nt", b"N", b"S'AAAA'\n"), "something else than numbers"),
    "class that is none": (MADE.replace(NDARRAY, b"cnumpy\ndtype\n") + b".", "'numpy.dtype'"),
    "function as a value": (b"(dS'f'\n" + NDARRAY + b"s.", "it holds 'numpy.ndarray'"),
    "function as a key": (b"(d" + NDARRAY + b"S'f'\ns.", "it holds 'numpy.ndarray'"),
    "array never filled": (MADE + b".", "it holds of type _Array as a value"),
    "call of ndarray": (NDARRAY + b"(I3\ntR.", "it calls 'numpy.ndarray'"),
    "codec": (b"c_codecs\nencode\n(VAAAA\nVzip\ntR.", "it encodes text as 'zip'"),
    "codec with a handler": (b"c_codecs\nencode\n(VAAAA\nVlatin1\nVx\ntR.", "not a valid pickle"),
    "bytes of a size": (b"c__builtin__\nbytes\n(I99\ntR.", "calls 'bytes' with arguments"),
    "change of a function": (
        b"c_codecs\nencode\n(N(dS'__code__'\nNstb.",
        "changes '_codecs.encode'",
    ),
    "change of a class": (NDARRAY + b"(dS'x'\nNsb.", "it changes 'numpy.ndarray'"),
    "change of a dictionary": (b"(d(dS'items'\nNsb.", "not a valid pickle"),
}


@pytest.mark.parametrize("case", ABUSES)
def test_abuse_of_what_is_listed(case: str, tmp_path: Path) -> None:
    data, message = ABUSES[case]
    with pytest.raises(ValueError, match="X.pkl'") as error:
        load(tmp_path, data)
    assert message in str(error.value)
    # and nothing stays behind
    assert same(load(tmp_path, pickle.dumps({"w": ARRAY, "b": b"\xff"}, 2))["w"], ARRAY)


BOMBS = {
    "shape": (filled(b"(I1000000000\nI1000000000\nt", F4, b"S'AAAA'\n"), "which takes 4000000000"),
    "negative shape": (filled(b"(I-1\nt", F4, b"S'AAAA'\n"), "whose shape is not one of sizes"),
    "memo": (b"\x80\x02Nr\xff\xff\xff\xff.", "its memo has an entry 4294967295"),
    "memo in text": (b"Np99999999999\n.", "its memo has an entry 99999999999"),
    "length": (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "it is truncated"),
    "negative length": (b"T\xff\xff\xff\xffx.", "of -1 bytes"),
    "nest": (b"\x80\x02N" + b"\x85" * 300_000 + b"}N\x87.", "more than 50000 tuples"),
    "deep list": (b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "recursion"),
    "endless list": (b"]q\x00h\x00a.", "it contains itself"),
}


@pytest.mark.parametrize("case", BOMBS)
def test_sizes_that_cannot_be(case: str, tmp_path: Path) -> None:
    data, message = BOMBS[case]
    with pytest.raises(ValueError, match="X.pkl' is not a valid pickle: ") as error:
        load(tmp_path, data)
    assert message in str(error.value)


def test_truncated_files_are_refused_at_every_length(tmp_path: Path) -> None:
    for data in (FROM_PYTHON_2[0], FROM_PYTHON_2[2], pickle.dumps({"w": ARRAY}, 4)):
        for length in range(len(data)):
            with pytest.raises(ValueError, match="X.pkl'"):
                load(tmp_path, data[:length])


def test_random_bytes_never_do_more_than_fail(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for data in [rng.bytes(n) for n in range(1, 300)]:
        with pytest.raises(ValueError, match="X.pkl'"):
            load(tmp_path, data)
    original = np.frombuffer(FROM_PYTHON_2[2], np.uint8)
    failed = 0
    for _ in range(500):  # one byte changed
        data = original.copy()
        data[rng.integers(len(data))] = rng.integers(256)
        try:
            content = load(tmp_path, data.tobytes())
        except ValueError:
            failed += 1
        else:
            assert isinstance(content, (dict, str, int, float, tuple, list, np.ndarray, type(None)))
    assert 100 < failed < 500


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read '.*missing.pkl': No such file"):
        load_pickle(tmp_path / "missing.pkl")
    with pytest.raises(ValueError, match="cannot read '.*': Is a directory"):
        load_pickle(tmp_path)
    with pytest.raises(ValueError, match="X.pkl' is not a valid pickle"):
        load(tmp_path, b"")
    with pytest.raises(ValueError, match="zip archive"):
        load(tmp_path, b"PK\x03\x04" + bytes(100))
    with pytest.raises(ValueError, match="3 bytes follow its end"):
        load(tmp_path, pickle.dumps(1) + b"abc")
