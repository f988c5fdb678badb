"""A stage counts as complete for its very weights, and no longer once it is done again."""

import logging
from pathlib import Path
from typing import Any, List

import pytest
from helpers import shapes_config

from seg_every_thing.study.running import stages
from seg_every_thing.study.running.done import DONE, WEIGHTS, finished, write_done


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    (tmp_path / WEIGHTS).write_bytes(b"weights")
    record = write_done(tmp_path, {"fingerprint": "abc", "metrics": {"AP": 1.0}})
    assert finished(tmp_path, "abc") == record
    return tmp_path


def test_another_fingerprint_or_nothing(stage: Path) -> None:
    assert finished(stage, "other") is None
    (stage / DONE).unlink()
    assert finished(stage, "abc") is None


@pytest.mark.parametrize("content", [b"weighty", b"weight", b"", None])
def test_other_weights(content: Any, stage: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    if content is None:
        (stage / WEIGHTS).unlink()
    else:
        (stage / WEIGHTS).write_bytes(content)
    assert finished(stage, "abc") is None
    assert WEIGHTS in caplog.text and "done again" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"fingerprint": "abc"}'])
def test_a_broken_record(content: str, stage: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (stage / DONE).write_text(content)
    assert finished(stage, "abc") is None
    assert DONE in caplog.text and "done again" in caplog.text


def test_a_stage_that_is_done_again_is_not_complete(
    tiny_shapes: Path, stage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: List[bool] = []

    class Stopping(stages.StageTrainer):
        def train(self) -> Any:
            seen.append((stage / DONE).exists())
            raise KeyboardInterrupt

    monkeypatch.setattr(stages, "StageTrainer", Stopping)
    with pytest.raises(KeyboardInterrupt):
        stages.train_model(shapes_config("detector", stage))
    assert seen == [False] and finished(stage, "abc") is None
