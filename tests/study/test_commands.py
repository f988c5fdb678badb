"""Runs as commands: complete ones are used again, begun ones gone on with, others begun anew."""

from pathlib import Path
from typing import Any, List

import pytest

from seg_every_thing.files import write_json
from seg_every_thing.study.definitions.suites import SUITES
from seg_every_thing.study.running import commands
from seg_every_thing.study.running.runner import Run

SUITE = SUITES["coco"]
ROW = next(row for row in SUITE.rows().values() if not row.on_detector or row.stage != "stage_two")
RUN = Run(ROW, "voc", 0)


class Command:
    """Stands in for a training: notes what it finds, and may be interrupted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: List[List[str]] = []
        self.code = 0

    def __call__(self, command: List[str]) -> int:
        assert "--resume" in command
        self.found.append(sorted(p.name for p in self.folder.glob("*.pth")))
        (self.folder / "model_final.pth").write_text("weights")
        if not self.code:
            config = command[command.index("--config-file") + 1]
            name = commands.load_config(config, []).DATASETS.TEST[0]
            write_json(self.folder / "inference" / name / "metrics.json", {"segm/AP": 1.0})
        return self.code


def test_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Command(tmp_path / RUN.name)
    monkeypatch.setattr(commands, "call_and_end_together", command)

    def run(*overrides: str) -> Any:
        return commands.run_commands(SUITE, [RUN], tmp_path, 0, overrides)[RUN.name]

    command.folder.mkdir(parents=True)
    (command.folder / "of_someone_else.pth").write_text("")
    command.code = 143
    assert "exit code 143" in run()["error"]
    command.code = 0
    assert run()["metrics"] == {"segm/AP": 1.0}
    # It was begun on an empty folder, and gone on with where it was.
    assert command.found == [[], ["model_final.pth"]]
    assert run()["reused"] and len(command.found) == 2
    (command.folder / "model_final.pth").write_text("other weights")
    assert "reused" not in run()
    run("SOLVER.BASE_LR", "0.5")
    assert command.found[2:] == [[], []]
