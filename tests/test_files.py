"""Files are complete or not there."""

import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, Tuple
from unittest import mock

import numpy as np
import pytest
import torch
from full_disk import full_disk
from matplotlib.figure import Figure

from seg_every_thing.files import (
    AtomicPathManager,
    full_disk_named,
    make_output_dir,
    read_json,
    write_array,
    write_json,
    write_text,
    written_atomically,
)


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


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1] 2", b"[" * 100_000])
def test_read_json_names_a_broken_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not valid JSON") as e:
        read_json(path)
    assert str(path) in str(e.value)


def test_read_json_passes_over_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "a.json") == [1]


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


@pytest.mark.parametrize("utf_8", [False, True])
def test_make_output_dir_refuses_no_name(utf_8: bool) -> None:
    with pytest.raises(ValueError, match="output folder has an empty name"):
        make_output_dir("", utf_8=utf_8)


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


def _figure(f: Any) -> None:
    figure = Figure()
    figure.subplots().plot([1, 2])
    figure.savefig(f, format="png")


WRITERS: Dict[str, Tuple[str, Callable[[Any], Any]]] = {
    "text": ("w", lambda f: f.write("é" * 3000)),
    "bytes": ("wb", lambda f: f.write(bytes(6000))),
    # Larger than any buffer, so that it fails while it is written and not at the end.
    "large bytes": ("wb", lambda f: f.write(bytes(6_000_000))),
    "PyTorch": ("wb", lambda f: torch.save({"a": torch.zeros(1500)}, f)),
    "large, PyTorch": ("wb", lambda f: torch.save({"a": torch.zeros(1_500_000)}, f)),
    "numpy": ("wb", lambda f: np.save(f, np.zeros(1500, np.float32))),
    "large, numpy": ("wb", lambda f: np.save(f, np.zeros(1_500_000, np.float32))),
    "matplotlib": ("wb", _figure),
}


@pytest.mark.parametrize("room", [0, 5000])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk(writer: str, room: int, tmp_path: Path) -> None:
    """PyTorch raises a RuntimeError of its own then, numpy an OSError without a reason."""
    path = tmp_path / "out"
    mode, write = WRITERS[writer]
    path.write_text("old")
    failing = pytest.raises(OSError)
    with full_disk(room) as disk, failing as error, written_atomically(path, mode) as f:
        write(f)
    assert str(error.value) == f"cannot write '{path}': No space left on device"
    assert disk.was_full and os.listdir(tmp_path) == ["out"] and path.read_text() == "old"
    with full_disk(10_000_000) as disk, written_atomically(path, mode) as f:
        write(f)
    assert not disk.was_full and path.stat().st_size > 5000


def test_files_of_libraries_are_what_they_write_themselves(tmp_path: Path) -> None:
    array = np.arange(10_000.0).reshape(100, 100)
    write_array(tmp_path / "a.npy", array)
    np.save(tmp_path / "b.npy", array)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    with written_atomically(tmp_path / "a.pth", "wb") as f:
        torch.save(torch.from_numpy(array), f)
    assert torch.equal(torch.load(tmp_path / "a.pth", weights_only=True), torch.from_numpy(array))


def test_an_error_of_what_is_read_is_not_one_of_writing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"), written_atomically(tmp_path / "x") as f:
        f.write(Path(tmp_path / "absent").read_text())
    with pytest.raises(KeyError), full_disk(3), written_atomically(tmp_path / "x", "wb") as f:
        f.write(b"abc")
        raise KeyError
    assert os.listdir(tmp_path) == []


def test_of_two_files_the_one_that_does_not_fit_is_named(tmp_path: Path) -> None:
    first, second = written_atomically(tmp_path / "a.txt"), written_atomically(tmp_path / "b.txt")
    failing = pytest.raises(OSError, match="a.txt': No space left")
    with full_disk(100), failing, first as a, second:
        a.write("x" * 2_000_000)
    assert os.listdir(tmp_path) == []


def test_a_path_manager_whose_files_are_complete(tmp_path: Path) -> None:
    manager, path = AtomicPathManager(), tmp_path / "x.txt"
    for mode in ("w", "wb"):
        failing = pytest.raises(OSError, match="x.txt': No space left")
        with full_disk(), failing, manager.open(str(path), mode) as f:
            f.write("a" if mode == "w" else b"a")
        assert not manager.exists(str(path))
    with manager.open(str(path), "w") as f:
        f.write("a")
    with manager.open(str(path), "a") as f:
        f.write("b")
    with manager.open(str(path)) as f:
        assert f.read() == "ab"


def test_full_disks_of_others_are_given_a_name(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device")
    failing = pytest.raises(OSError, match=f"cannot write '{tmp_path}': No space left on device")
    with failing, full_disk_named(tmp_path):
        raise full
    for other in (OSError(28, "No space", "a.txt"), OSError(2, "No such file"), OSError("text")):
        with pytest.raises(OSError) as error, full_disk_named(tmp_path):
            raise other
        assert error.value is other


NOT_UTF_8 = os.fsdecode(b"caf\xe9\n")


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    path = tmp_path / NOT_UTF_8 / "a.txt"
    write_text(path, f"{NOT_UTF_8}: é")
    assert path.read_bytes() == b"caf\\udce9\n: \xc3\xa9"
    write_json(path, {NOT_UTF_8: [NOT_UTF_8]})
    assert read_json(path) == {NOT_UTF_8: [NOT_UTF_8]}
    path.unlink()
    path.mkdir()
    with pytest.raises(OSError) as error:
        write_text(path, "x")
    assert str(error.value).isprintable() and r"caf\udce9\n/a.txt" in str(error.value)
    with pytest.raises(ValueError) as error:
        read_json(path)
    assert str(error.value).isprintable()
