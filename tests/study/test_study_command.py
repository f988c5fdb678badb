"""`seg-every-thing study` from end to end in small, and after a kill."""

import json
import time
from pathlib import Path
from typing import Any, Dict, List

import forking
from helpers import TINY

OPTIONS = [str(v) for v in TINY[: TINY.index("SEED")]]


def arguments(output: Path, *more: str) -> List[str]:
    return [
        *("study", "--suite", "shapes", "--seeds", "1", "--output", str(output)),
        *("--num-train", "12", "--num-val", "6", "--jobs", "2", *more, "--opts", *OPTIONS),
    ]


def study(output: Path, *more: str) -> str:
    """Run the command to its end; what it logged."""
    log = output.with_name(output.name + ".log")
    code = forking.run(arguments(output, *more), log)
    assert code == 0, log.read_text()[-3000:]
    return log.read_text()


def comparable(output: Path) -> Dict[str, Any]:
    """Results without what depends on the clock or on what was there before."""
    results = json.loads((output / "results.json").read_text())
    for record in results["runs"].values():
        record.pop("seconds")
        record.pop("reused", None)
    results.pop("seconds")
    return results


def test_a_killed_study_ends_with_the_same_tables(tmp_path: Path) -> None:
    table = ("--tables", "1c")
    log = study(tmp_path / "whole", *table)
    assert "ETA" in log or "complete (" in log
    results = comparable(tmp_path / "whole")
    check_results(results, tmp_path / "whole")

    process = forking.start(arguments(tmp_path / "killed", *table), tmp_path / "log")
    runs = tmp_path / "killed" / "seed0"
    deadline = time.time() + 300
    while not list(runs.glob("*/*/done.json")) and time.time() < deadline:
        time.sleep(0.1)
    process.kill()
    process.join()
    done = {p: p.stat().st_mtime_ns for p in runs.rglob("done.json")}
    assert 2 <= len(done) < 9  # the detector and a part of the eight rows
    assert not (tmp_path / "killed" / "results.json").exists()
    time.sleep(3)  # its workers notice
    log = study(tmp_path / "killed", *table)
    assert "Reusing" in log
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert comparable(tmp_path / "killed") == results
    tables = [(tmp_path / name / "tables.md").read_text() for name in ("whole", "killed")]
    assert tables[0] == tables[1]


def check_results(results: Dict[str, Any], output: Path) -> None:
    assert results["same_initial_trunk"] == {"0": True}
    rows = results["tables"]["1c"]["rows"]
    assert list(rows) == ["class_agnostic", "class_agnostic_mlp", "clsbox", "clsbox_mlp"]
    mlp = rows["clsbox_mlp"]
    assert mlp["baseline"] == "clsbox"
    assert mlp["differs"] == {"MODEL.ROI_MASK_HEAD.MLP.ENABLED": [False, True]}
    # 16 channels of 14 x 14 to 128 to 28 x 28, with biases.
    assert mlp["more_parameters"] == (16 * 196 + 1) * 128 + 129 * 784
    for row in rows.values():
        assert set(row["directions"]) == {"shapes_A", "shapes_B"}
        for direction in row["directions"].values():
            assert {"segm/AP_B", "segm/AP_A", "bbox/AP"} <= set(direction)
    assert len(results["runs"]) == 9 and len(results["diagnostics"]) == 2
    assert (output / "diagnostics.png").is_file()
    text = (output / "tables.md").read_text()
    assert "## Table 1c" in text and "one seed" in text and "Failed" not in text


def test_tables_of_mask_rcnn_run_on_the_same_detector(tmp_path: Path) -> None:
    study(tmp_path, "--tables", "mask_rcnn_2d,mask_rcnn_2e")
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["tables"]) == {"mask_rcnn_2d", "mask_rcnn_2e"}
    assert len(results["runs"]) == 1 + 2 + 3 and "diagnostics" not in results
    assert results["same_initial_trunk"] == {"0": True}  # rows without a trunk do not count
    assert "## Table 2e of Mask R-CNN" in (tmp_path / "tables.md").read_text()


def test_end_to_end_rows_start_from_the_detector_and_failures_are_reported(tmp_path: Path) -> None:
    tables = ("--tables", "1d", "--only", "e2e_clsbox", "--only", "e2e_class_agnostic")
    study(tmp_path, *tables)
    results = json.loads((tmp_path / "results.json").read_text())
    runs = {name: r for name, r in results["runs"].items() if "e2e" in name}
    assert len(runs) == 4
    detector = results["runs"]["seed0/detector"]["trainable_parameters"]
    assert all(r["trainable_parameters"] > detector for r in runs.values())

    # A setting that only T reads breaks its rows; the others are kept.
    broken = arguments(tmp_path, *tables) + ["MODEL.WEIGHT_TRANSFER.ACTIVATION", "tanh"]
    assert forking.run(broken, tmp_path / "log") == 1
    log = (tmp_path / "log").read_text()
    assert "2 of 5 runs failed" in log.splitlines()[-1] and "tanh" in log
    text = (tmp_path / "tables.md").read_text()
    assert "## Failed" in text and "seed0/shapes_B/e2e_clsbox: " in text
    assert (tmp_path / "seed0" / "shapes_B" / "e2e_class_agnostic" / "done.json").is_file()
