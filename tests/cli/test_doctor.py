"""`seg-every-thing doctor` as users start it, also where detectron2 does not load."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import pytest

from seg_every_thing import cli
from seg_every_thing.cli import doctor, main
from seg_every_thing.diagnosis import Diagnosis, Finding

ROOT = Path(__file__).resolve().parents[2]
NOTE = Finding(False, "no GPU", "add MODEL.DEVICE cpu")
ERROR = Finding(True, "cv2 is not installed", "pip install opencv-python")


def broken_run(folder: Path, *arguments: Any) -> "subprocess.CompletedProcess[str]":
    """A process in which neither torch nor detectron2 loads."""
    for name, said in {"torch": "libcudnn.so.9: no", "detectron2": "undefined symbol: x"}.items():
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "__init__.py").write_text(f"raise ImportError('{said}')\n")
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_works_where_detectron2_does_not_load(tmp_path: Path) -> None:
    done = broken_run(tmp_path, "-m", "seg_every_thing", "doctor", "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    errors = [f for f in found["findings"] if f["error"]]
    assert any("torch cannot be imported (libcudnn" in f["what"] for f in errors)
    assert any("compiled ops are built for another torch" in f["what"] for f in errors)
    assert found["versions"]["python"] and found["compiled_ops"] == "unknown"


def test_other_commands_point_to_it(tmp_path: Path) -> None:
    done = broken_run(tmp_path, "-m", "seg_every_thing", "train", "--config-file", "x.yaml")
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("(`seg-every-thing doctor` says what to mend)")


@pytest.mark.parametrize("findings, code", [([], 0), ([NOTE], 0), ([NOTE, ERROR], 1)])
def test_text_and_exit_code(
    findings: List[Finding],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = {"path": "/data", "set": True, "folders": ["coco"]}
    versions = {"torch": "2.3.1", "timm": None}
    found = Diagnosis(versions, "present", ["cpu"], root, {"timm": False}, findings)
    monkeypatch.setattr(doctor, "diagnose", lambda: found)
    assert main(["doctor"]) == code
    text = capsys.readouterr().out
    for line in ("torch           2.3.1", "timm            not there", "/data (coco)"):
        assert line in text
    assert ("No errors found." in text) == (code == 0)
    if code:  # errors come first
        parts = [
            "error: cv2 is",
            "  mend: pip install opencv-python",
            "note: no GPU",
            "  mend: add",
        ]
        assert sorted(parts, key=text.index) == parts


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n    {name}" in text for name in cli.COMMANDS)


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["docter"])
    assert end.value.code == 2 and "doctor" in capsys.readouterr().err
