"""What killed programs leave behind is swept, what others are writing is not."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from seg_every_thing import leftovers
from seg_every_thing.files import make_output_dir, write_text, written_atomically
from seg_every_thing.leftovers import move_unless_there, temporary_file, temporary_folder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks")

FORK = multiprocessing.get_context("fork")
Kind = Callable[[Path], Any]


@pytest.fixture(autouse=True)
def every_program_is_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_swept", set())


def wait_within(kind: Kind, folder: Path) -> None:
    with kind(folder / "results.json"):
        (folder / "ready").touch()
        time.sleep(60)


@pytest.fixture
def writing(tmp_path: Path) -> Iterator[Callable[[Kind], Any]]:
    """Start a process that is writing a file or folder for a while."""
    started = []

    def start(kind: Kind) -> Any:
        process = FORK.Process(target=wait_within, args=(kind, tmp_path))
        process.start()
        started.append(process)
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        (tmp_path / "ready").unlink()
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def age(folder: Path) -> None:
    """Let temporary files be older than the moment that it takes to lock them."""
    for path in folder.iterdir():
        os.utime(path, (time.time() - 10, time.time() - 10))


def full_folder(target: Path) -> Any:
    made = temporary_folder(target)

    class Full:
        def __enter__(self) -> None:
            (made.__enter__() / "image.png").write_text("x")

        __exit__ = made.__exit__

    return Full()


@pytest.mark.parametrize("kind", [written_atomically, temporary_file, full_folder])
@pytest.mark.parametrize("next_run", [make_output_dir, lambda f: write_text(f / "other.txt", "")])
def test_the_next_run_sweeps(kind: Kind, next_run: Any, tmp_path: Path, writing: Any) -> None:
    process = writing(kind)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".results.json.")
    age(tmp_path)
    next_run(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} <= {"other.txt"}


@pytest.mark.parametrize("kind", [written_atomically, full_folder])
def test_what_is_in_use_stays(kind: Kind, tmp_path: Path, writing: Any) -> None:
    writing(kind)
    age(tmp_path)
    make_output_dir(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_files_of_others_and_young_ones_stay(tmp_path: Path) -> None:
    with temporary_file(tmp_path / "x") as path:
        young = path.with_name(path.name.replace(".x.", ".y."))
        young.write_text("")
        assert {"." + p.name.split(".")[1] for p in (path, young)} == {".x", ".y"}
        for name in (".x.swp", ".results.json.abc", "a.seg-every-thing"):
            (tmp_path / name).write_text("")
            os.utime(tmp_path / name, (0, 0))
        make_output_dir(tmp_path)
        assert len(list(tmp_path.iterdir())) == 5
    assert len(list(tmp_path.iterdir())) == 4 and young.exists()


def test_a_folder_is_moved_to_its_place_once(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with temporary_folder(tmp_path / "data") as made:
            (made / "x").write_text(content)
            move_unless_there(made, tmp_path / "data")
    assert (tmp_path / "data" / "x").read_text() == "first"
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o755
    assert os.listdir(tmp_path) == ["data"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), temporary_folder(tmp_path / "file") as made:
        move_unless_there(made, tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == ["data", "file"]
