"""The command `self-train`: its arguments arrive, and bad input is one line."""

from pathlib import Path
from typing import Any

import pytest

from seg_every_thing.cli import main, self_train


def test_arguments_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Any = []
    monkeypatch.setattr(self_train, "self_train", lambda *a: calls.append(a))
    given = ["--config-file", "a.yaml", "--rounds", "2", "--output", str(tmp_path)]
    assert main(["self-train", *given, "--num-gpus", "3", "--force", "--opts", "SEED", "1"]) == 0
    assert main(["self-train", *given[:2], *given[4:]]) == 0
    assert calls == [
        ("a.yaml", 2, tmp_path, ["SEED", "1"], 3, True),
        ("a.yaml", 1, tmp_path, [], 1, False),
    ]


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["self-train", "--config-file", "missing.yaml", "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as e:
        main(arguments)
    assert e.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("seg-every-thing: error: ") and "missing.yaml" in lines[-1]
