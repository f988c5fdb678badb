"""Which checkpoint a training goes on from, and what is said where that one is broken."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from seg_every_thing.checkpoint.loading import last_checkpoint, newest_whole, readable_checkpoint
from seg_every_thing.checkpoint.safe_checkpointer import load_tensors


def write(folder: Path, name: str, age: int, broken: bool = False, **content: Any) -> Path:
    path = folder / name
    torch.save({"model": {"w": torch.ones(3)}, "iteration": 1, **content}, path)
    if broken:
        path.write_bytes(path.read_bytes()[:-50])
    os.utime(path, (10_000 - age, 10_000 - age))
    return path


def test_nothing_was_saved(tmp_path: Path) -> None:
    assert last_checkpoint(str(tmp_path)) is None
    assert last_checkpoint(str(tmp_path / "nowhere")) is None


def test_the_last_checkpoint(tmp_path: Path) -> None:
    path = write(tmp_path, "model_0000001.pth", 1)
    write(tmp_path, "model_0000003.pth", 0)
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth\n")
    assert last_checkpoint(str(tmp_path)) == str(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("model_0000009.pth", "names 'model_0000009.pth', which does not exist"),
        ("", "is empty"),
        (None, "does not exist"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_broken_pointer_offers_the_newest_whole_one(
    tmp_path: Path, content: Any, reason: str
) -> None:
    write(tmp_path, "model_0000001.pth", 3)
    write(tmp_path, "model_0000003.pth", 2)
    write(tmp_path, "model_0000005.pth", 1, broken=True)
    torch.save({"w": torch.ones(1)}, tmp_path / "weights.pth")  # no state of a training
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "last_checkpoint").write_bytes(data)
    with pytest.raises(ValueError, match=reason) as error:
        last_checkpoint(str(tmp_path))
    assert "newest whole checkpoint there is 'model_0000003.pth'" in str(error.value)
    assert f"write that name into '{tmp_path}/last_checkpoint'" in str(error.value)


def test_newest_whole_one(tmp_path: Path) -> None:
    assert newest_whole(str(tmp_path)) is None
    write(tmp_path, "model_0000001.pth", 5)
    whole = write(tmp_path, "model_0000003.pth", 4)
    write(tmp_path, "model_0000005.pth", 3, broken=True)
    write(tmp_path, "model_0000007.pth", 2, model={"w": torch.tensor([float("nan")])})
    (tmp_path / "model_0000009.pth").write_bytes(b"")
    write(tmp_path, "model_best.pth", 1)
    assert newest_whole(str(tmp_path)) == "model_0000003.pth"
    assert newest_whole(str(tmp_path), but=str(whole)) == "model_0000001.pth"


@pytest.mark.parametrize("left", ["model_0000001.pth", None])
def test_a_truncated_last_checkpoint_offers_another_one(tmp_path: Path, left: Any) -> None:
    if left:
        write(tmp_path, left, 1)
    broken = write(tmp_path, "model_final.pth", 0, broken=True)
    reading = readable_checkpoint(str(broken), str(tmp_path))
    with pytest.raises(ValueError, match="checkpoint '.*model_final.pth'") as error, reading:
        load_tensors(str(broken))
    offered = f"'{left}'" if left else "No other checkpoint"
    assert offered in str(error.value) and "\n" not in str(error.value)
