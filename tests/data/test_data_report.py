"""The report: each object in one row, in the file as in the log."""

import json
from pathlib import Path
from unittest import mock

import pytest

from seg_every_thing.data import data_report
from seg_every_thing.data.data_report import (
    BOX_ONLY,
    CROWD,
    DROPPED,
    EVALUATION,
    TRAINING,
    USED,
    DataReport,
    write_data_report,
)


def some_report(name: str = "mine", used: int = 12) -> DataReport:
    report = DataReport(name, TRAINING, "mine.json")
    for _ in range(used):
        report.count(USED)
    report.count(DROPPED, "with a box without area", "annotation 5")
    for i in range(30):
        report.count(BOX_ONLY, "with an unusable mask", f"annotation {i}", "it is no mask")
    return report


def test_rows_add_up_and_name_ten() -> None:
    content = some_report().as_json()
    assert content["objects"] == 43 == sum(row["objects"] for row in content["rows"])
    used, box_only, dropped = content["rows"]
    assert used == {"row": "used", "which": "", "objects": 12, "first": []}
    assert box_only["objects"] == 30 and len(box_only["first"]) == 10
    assert box_only["first"][0] == {"object": "annotation 0", "why": "it is no mask"}
    assert dropped["first"] == [{"object": "annotation 5"}]


def test_the_file_keeps_the_other_purpose(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data_report.json"
    write_data_report(path.parent, EVALUATION, [some_report("val", 1)])
    write_data_report(path.parent, TRAINING, [some_report("train")])
    write_data_report(path.parent, EVALUATION, [some_report("val", 2)])
    content = json.loads(path.read_text())
    assert [r["data_set"] for r in content["training"]] == ["train"]
    assert [r["objects"] for r in content["evaluation"]] == [33]


@pytest.mark.parametrize("broken", ["", "{", "[]", "5", "null"])
def test_a_broken_file_is_replaced(tmp_path: Path, broken: str) -> None:
    (tmp_path / "data_report.json").write_text(broken)
    write_data_report(tmp_path, TRAINING, [some_report()])
    assert json.loads((tmp_path / "data_report.json").read_text()).keys() == {"training"}


def test_one_process_of_many_writes(tmp_path: Path) -> None:
    with mock.patch.object(data_report.comm, "is_main_process", return_value=False):
        write_data_report(tmp_path, TRAINING, [some_report()])
    assert not list(tmp_path.iterdir())


def test_what_is_unusable_is_an_error_or_set_aside() -> None:
    report = some_report()
    report.check("error")  # nothing is
    report.refuse("annotation 7: no")
    with pytest.raises(ValueError, match="^annotation 7: no. Mend that, or go on"):
        report.check("error")
    report.check("set_aside")


def test_nothing_to_evaluate_is_said(caplog: pytest.LogCaptureFixture) -> None:
    nothing = "no object to evaluate"
    report = DataReport("mine", EVALUATION)
    report.log()
    assert nothing in caplog.text
    report.count(CROWD)
    caplog.clear()
    report.log()
    assert nothing in caplog.text
    report.count(BOX_ONLY)
    caplog.clear()
    report.log()
    DataReport("mine", TRAINING).log()
    assert nothing not in caplog.text
