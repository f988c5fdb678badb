"""The rooms of the package: which way imports run, how long a file is, and the map of the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "seg_every_thing"
LONGEST_FILE = 300


def test_imports_run_one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    cli = pytest.importorskip("importlinter.cli", reason="import-linter is not installed")
    monkeypatch.chdir(ROOT)
    assert (
        cli.lint_imports(config_filename="pyproject.toml", no_cache=True) == cli.EXIT_STATUS_SUCCESS
    )


def test_no_file_holds_too_much() -> None:
    lengths = {f: len(f.read_text(encoding="utf-8").splitlines()) for f in PACKAGE.rglob("*.py")}
    too_long = {str(f.relative_to(ROOT)): n for f, n in lengths.items() if n > LONGEST_FILE}
    assert not too_long


def test_the_map_of_the_code_is_true() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^  ([a-z_]+/)  ", text, re.MULTILINE))
    rooms = {f"{f.parent.name}/" for f in PACKAGE.glob("*/__init__.py")}
    assert shown == rooms


def test_tests_mirror_the_package() -> None:
    folders = {
        str(f.parent.relative_to(ROOT / "tests")) for f in (ROOT / "tests").rglob("test_*.py")
    }
    rooms = {str(f.parent.relative_to(PACKAGE)) for f in PACKAGE.rglob("__init__.py")}
    assert folders <= rooms
