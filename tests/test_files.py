"""Files are complete or not there."""

import json
import os
from pathlib import Path
from unittest import mock

import pytest

from seg_every_thing.files import make_output_dir, read_json, write_json, write_text


def test_write_text_makes_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "note.txt"
    write_text(path, "é\n")
    assert path.read_bytes() == b"\xc3\xa9\n"
    assert os.listdir(path.parent) == ["note.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_write_text_replaces(tmp_path: Path) -> None:
    path = str(tmp_path / "note.txt")
    write_text(path, "a longer first text")
    write_text(path, "second")
    assert Path(path).read_text() == "second"


@pytest.mark.parametrize("step", ["fdopen", "chmod", "replace"])
def test_failure_keeps_the_old_file_and_no_litter(tmp_path: Path, step: str) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    failing = mock.patch.object(os, step, side_effect=OSError(28, "No space left on device"))
    with failing, pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["note.txt"]


def test_failure_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    failing = mock.patch.object(os, "replace", side_effect=OSError(28, "No space left on device"))
    with failing, pytest.raises(OSError, match="cannot write") as e:
        write_text(path, "new")
    assert str(path) in str(e.value)


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "note.txt"
    with pytest.raises(OSError, match="cannot write") as e:
        write_text(path, "x")
    assert str(path) in str(e.value)


def test_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    content = {"AP": -1.0, "names": ["é", None], "n": 3}
    write_json(path, content)
    assert read_json(path) == content == json.loads(path.read_text())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_is_strict(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(ValueError):
        write_json(path, {"AP": value})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1] 2"])
def test_read_json_names_a_broken_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not valid JSON") as e:
        read_json(path)
    assert str(path) in str(e.value)


def test_read_json_names_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(ValueError, match="No such file") as e:
        read_json(path)
    assert str(path) in str(e.value)


def test_make_output_dir(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert make_output_dir(str(path)) == path
    assert make_output_dir(path) == path  # again
    assert os.listdir(path) == []


def test_make_output_dir_refuses_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("")
    with pytest.raises(OSError, match="cannot write to the output folder") as e:
        make_output_dir(path)
    assert str(path) in str(e.value)


def test_make_output_dir_finds_out_that_it_cannot_write(tmp_path: Path) -> None:
    failing = mock.patch("tempfile.TemporaryFile", side_effect=PermissionError(13, "denied"))
    with failing, pytest.raises(OSError, match="output folder.*denied"):
        make_output_dir(tmp_path)
