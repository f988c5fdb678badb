"""Files of decisions, as a review page downloads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from seg_every_thing.annotation.decisions import read_decisions


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "decisions.json"
    path.write_text(json.dumps(content))
    return path


def test_decisions_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    decisions = {"10": "reject", "9": "accept", "a b": "reject"}
    path = written(tmp_path, {"version": 1, "source": "abc", "decisions": decisions})
    assert list(read_decisions(path, "abc").items()) == list(decisions.items())
    assert read_decisions(path) == decisions


def test_decisions_of_another_run_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"version": 1, "source": "abc", "decisions": {}})
    with pytest.raises(ValueError, match="decisions.json' are of another run"):
        read_decisions(path, "def")


@pytest.mark.parametrize(
    "content",
    [[], {}, None, {"version": 2, "decisions": {}}, {"version": 1, "decisions": ["1"]}],
)
def test_other_files_are_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ValueError, match="decisions.json' is no file of decisions of version 1"):
        read_decisions(written(tmp_path, content))


@pytest.mark.parametrize("decision", ["maybe", "", None, True, ["accept"], {"a": 1}])
def test_other_decisions_are_refused(tmp_path: Path, decision: Any) -> None:
    content = {"version": 1, "source": "", "decisions": {"1": "accept", "7": decision}}
    with pytest.raises(ValueError, match="decision on object '7' is .*: write 'accept' or"):
        read_decisions(written(tmp_path, content))
