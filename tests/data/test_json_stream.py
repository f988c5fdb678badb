"""Streams of JSON: equal to json.load however the file is cut, and clear about broken files."""

import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any, Dict, List

import pytest

from seg_every_thing.data import json_bytes
from seg_every_thing.data.json_stream import MemberWriter, iter_array, iter_members
from seg_every_thing.files import written_atomically

TRICKY: List[Any] = [
    {"a": [1, -2.5e-3, 1e10, 12345678901234567890], "b": None, "c": [True, False]},
    {"text": 'quote " backslash \\ brackets ]}[{ , é 猫 \u2028 😀', "": {}},
    [],
    {},
    [[[]]],
    "}]",
    0,
    -17,
    3.25,
    "",
    None,
    {"deep": {"er": [{"x": [1, [2, [3, {}]]]}]}},
    123456,
]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 16, 64, 1 << 20])
@pytest.mark.parametrize("style", [{}, {"indent": 2}, {"ensure_ascii": False}])
def test_array_equals_json_load(
    chunk: int, style: Dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_bytes, "_SIZE", chunk)
    path = tmp_path / "array.json"
    path.write_text(" \n" + json.dumps(TRICKY, **style) + "\n ", encoding="utf-8")
    assert list(iter_array(path)) == TRICKY
    assert [type(x) for x in iter_array(path)] == [type(x) for x in TRICKY]


@pytest.mark.parametrize("chunk", [1, 4, 1 << 20])
def test_members_equal_json_load(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_bytes, "_SIZE", chunk)
    content = {"info": {"year": 2017}, "images": [{"id": 1}, 2], "annotations": [], "list": [1, 2]}
    content["number"] = 42
    path = tmp_path / "object.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    expected = [("info", {"year": 2017}), ("images", {"id": 1}), ("images", 2), ("list", [1, 2])]
    assert list(iter_members(path)) == [*expected, ("number", 42)]
    assert list(iter_members(path, long_lists=())) == list(content.items())


def test_empty_documents_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[]")
    assert list(iter_array(path)) == []
    path.write_text("{ }")
    assert list(iter_members(path)) == []
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert list(iter_array(path)) == [1]


@pytest.mark.parametrize("chunk", [*range(1, 40), 1 << 20])
def test_what_only_pythons_json_takes(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not JSON to the letter, but Python writes it and pycocotools reads it."""
    monkeypatch.setattr(json_bytes, "_SIZE", chunk)
    path = tmp_path / "x.json"
    values = ["[NaN]", "-Infinity", '{"a": Infinity}', "1e999", "-123456789012345678901"]
    values += [r'"caf\udce9.jpg"', r'["\ud83d", "\uD83D\ude00\ud83d"]', r'"\ude00\ud83d\ude00"']
    for value in values:
        text = f'{{"a": [1, "x"], "images": [{{"b": 2.5}}, {value}, true], "c": {{"d": null}}}}'
        path.write_text(text)
        expected = json.loads(text)
        members = list(iter_members(path))
        assert [key for key, _ in members] == ["a", "images", "images", "images", "c"]
        found = {"a": members[0][1], "images": [v for _, v in members[1:4]], "c": members[4][1]}
        assert repr(found) == repr(expected)  # NaN is not equal to itself
        assert repr(found["images"][0]) == "{'b': 2.5}"
        path.write_text(f"[[3], {value}, 4]")
        assert repr(list(iter_array(path))) == repr(json.loads(f"[[3], {value}, 4]"))


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 11, 12, 13, 1 << 20])
def test_whole_pairs_are_streamed(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pair that a chunk's end would cut is no reason to read a file whole."""
    monkeypatch.setattr(json_bytes, "_SIZE", chunk)
    monkeypatch.setattr(json, "loads", None)
    path = tmp_path / "x.json"
    path.write_text(r'["\ud83d\ude00", "\ud83d\ude00\ud83d\ude00 a\u00e9\ud83d\ude00", "Na N"]')
    assert list(iter_array(path)) == ["😀", "😀😀 aé😀", "Na N"]


@pytest.mark.parametrize("value", ["1", "NaN"])
def test_keys_that_repeat(value: str, tmp_path: Path) -> None:
    """Within a record the last counts, as for json.load; a list of a file twice is an error."""
    path = tmp_path / "twice.json"
    path.write_text(f'[{{"a": {value}, "a": 2}}]')
    assert list(iter_array(path)) == [{"a": 2}]
    path.write_text(f'{{"images": [], "annotations": [{value}], "x": 0, "annotations": [3]}}')
    with pytest.raises(ValueError, match=r"twice\.json.*the key 'annotations' twice"):
        list(iter_members(path))
    path.write_text(f'{{"images": [], "x": {value}, "images": []}}')  # empty, and nothing to yield
    with pytest.raises(ValueError, match=r"twice\.json.*the key 'images' twice"):
        list(iter_members(path))


def test_zip_holds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "objects.json.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("objects.json", json.dumps(TRICKY))
        archive.writestr("__MACOSX/._objects.json", "junk")
    assert list(iter_array(path)) == TRICKY
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("second.json", "[]")
    with pytest.raises(ValueError, match=r"objects\.json\.zip.*one \.json file.*2"):
        list(iter_array(path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot read the archive.*objects.json.zip"):
        list(iter_array(path))


@pytest.mark.parametrize("chunk", [3, 1 << 20])
@pytest.mark.parametrize(
    "text, words",
    [
        ('[{"a": 1}, {"a": 2', ["its end", "cut off"]),
        ('[{"a": 1}, {"a": "tex', ["its end", "cut off"]),
        ('[{"a": 1}', ["its end", "cut off"]),
        ("", ["its end", "cut off"]),
        ('{"a": 1}', ["must hold a list"]),
        ("[1 2]", ["byte 3", "',' or ']'"]),
        ("[1] 2", ["byte 5", "trailing garbage"]),
        ("[1] {", ["byte 4", "trailing garbage"]),
        ('["é", {"a": nonsense and more than that}, 1]', ["byte 13", "nonsense"]),
        ('["\\q and some more text here", 1]', ["byte 2", "'\\' occurs before"]),
        ('["a\tb"]', ["byte 2", "invalid character inside string"]),
        ("[01]", ["near byte", "',' or ']'"]),
        ("[nan]", ["byte 1"]),
        ("[NaN, 3", ["character 7", "',' delimiter"]),
        ("[" * 100_000, ["nested too deeply"]),
        ("[NaN, " + "[" * 100_000, ["nested too deeply"]),
    ],
)
def test_broken_arrays(
    text: str, words: List[str], chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_bytes, "_SIZE", chunk)
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        list(iter_array(path))
    assert all(word in str(error.value) for word in ["broken.json", *words]), error.value
    assert "\n" not in str(error.value)


def test_broken_members_and_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    broken = ("[1]", '{"a" 1}', '{"a": 1', "{1: 2}", '{"a": 1,}', '{"images": [1, 2', '{"a": 1} 2')
    for text in broken:
        path.write_text(text)
        with pytest.raises(ValueError, match=r"broken\.json"):
            list(iter_members(path))
    path.write_bytes(b'["\xff\xfe"]')
    with pytest.raises(ValueError, match=r"broken\.json.*near byte 1: .*UTF8"):
        list(iter_array(path))
    with pytest.raises(ValueError, match=r"cannot read.*absent\.json.*No such file"):
        list(iter_array(tmp_path / "absent.json"))


def test_garbage_is_found_without_reading_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_bytes, "_SIZE", 100)
    read = [0]

    class Bar:
        def __init__(self, total: int, **_: Any) -> None:
            self.total = total

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def update(self, size: int) -> None:
            read[0] += size

    monkeypatch.setattr(json_bytes, "tqdm", Bar)
    path = tmp_path / "x.json"
    path.write_text("[" + '{"a": oops 1234567890 1234567890}, ' * 1000 + "1]")
    with pytest.raises(ValueError, match="near byte 7"):
        list(iter_array(path))
    assert 0 < read[0] < 1000
    # The progress of a whole file adds up to its size.
    read[0] = 0
    path.write_text(json.dumps(TRICKY[1:] * 10, ensure_ascii=False), encoding="utf-8")
    list(iter_array(path))
    assert read[0] == path.stat().st_size


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    record = json.dumps({"objects": [{"synsets": ["tree.n.01"], "x": i} for i in range(30)]})
    path.write_text("[" + ", ".join([record] * 4000) + "]")
    assert path.stat().st_size > 4_000_000
    tracemalloc.start()
    assert sum(len(r["objects"]) for r in iter_array(path)) == 120_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_writer_writes_what_it_is_told(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    with written_atomically(path) as f:
        writer = MemberWriter(f)
        writer.put("info", {"a": 1})
        writer.put("categories", [{"id": 1}, {"id": 2}])
        writer.start_list("images")
        writer.start_list("annotations")
        writer.extend([])
        writer.extend(['{"id": 1}', '{"id": 2}'])
        writer.extend(iter(['{"id": 3}']))
        writer.put("last", "é")
        writer.finish()
    assert json.loads(path.read_text()) == {
        "info": {"a": 1},
        "categories": [{"id": 1}, {"id": 2}],
        "images": [],
        "annotations": [{"id": 1}, {"id": 2}, {"id": 3}],
        "last": "é",
    }
    with written_atomically(path) as f:
        MemberWriter(f).finish()
    assert json.loads(path.read_text()) == {}


def test_failed_writing_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("old")
    with pytest.raises(ValueError, match="broken in between"), written_atomically(path) as f:
        f.write("new")
        raise ValueError("broken in between")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="cannot write.*out.json"), written_atomically(
        path / "out.json"
    ):
        pass
