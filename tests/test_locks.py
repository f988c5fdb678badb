"""One program at a time in an output folder; a dead one keeps nobody out."""

import logging
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest

from seg_every_thing.cli import main
from seg_every_thing.locks import folder_in_use

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no locks")

FORK = multiprocessing.get_context("fork")


def hold(folder: Path) -> None:
    with folder_in_use(folder):
        child = FORK.Process(target=time.sleep, args=(60,), daemon=True)  # as one that loads data
        child.start()
        (folder / "ready").write_text(str(child.pid))
        time.sleep(60)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Any]:
    """Another process that uses the folder ``tmp_path``."""
    process = FORK.Process(target=hold, args=(tmp_path,))
    process.start()
    while not (tmp_path / "ready").exists() or not (tmp_path / "ready").read_text():
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()
    os.kill(int((tmp_path / "ready").read_text()), 9)


def test_a_second_program_is_refused_unless_forced(
    tmp_path: Path, other: Any, caplog: pytest.LogCaptureFixture
) -> None:
    words = f"'{tmp_path}' is in use by process {other.pid} .*--force"
    for _ in range(2):  # being refused changes nothing
        with pytest.raises(ValueError, match=words), folder_in_use(tmp_path):
            pass
    caplog.set_level(logging.WARNING)
    with folder_in_use(tmp_path, force=True):
        assert f"in use by process {other.pid}" in caplog.text
    with pytest.raises(ValueError, match=words), folder_in_use(tmp_path):
        pass


def test_a_killed_program_keeps_nobody_out(tmp_path: Path, other: Any) -> None:
    other.kill()
    other.join()
    assert (tmp_path / ".in_use").exists()  # and its child lives
    with folder_in_use(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / ".in_use").read_text()
    assert not (tmp_path / ".in_use").exists()


def test_it_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), folder_in_use(tmp_path):
        raise KeyError
    with folder_in_use(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "command",
    [
        lambda folder: ["quickstart", "--output", folder],
        lambda folder: ["study", "--output", folder],
        lambda folder: ["train", "--config-file", "shapes/maskx.yaml", "OUTPUT_DIR", folder],
    ],
)
def test_commands_refuse(
    command: Callable[[str], Any], tmp_path: Path, other: Any, tiny_shapes: Path, capsys: Any
) -> None:
    before = set(os.listdir(tmp_path))
    with pytest.raises(SystemExit) as exit_info:
        main(command(str(tmp_path)))
    assert exit_info.value.code == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "error: " in x]
    assert f"is in use by process {other.pid}" in line and "--force" in line
    assert set(os.listdir(tmp_path)) == before
