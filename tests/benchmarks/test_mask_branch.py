"""The benchmark on tiny sizes: what it counts, and never how fast this machine is."""

import argparse
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch

from seg_every_thing.benchmarks import mask_branch as benchmarks
from seg_every_thing.benchmarks import turns
from seg_every_thing.benchmarks.mask_branch import (
    MaskBranch,
    MaskBranchStep,
    benchmark_mask_branch,
    benchmark_table,
)
from seg_every_thing.benchmarks.measuring import (
    FreshProcess,
    OutOfMemoryError,
    peak_allocated,
    peak_resident,
    processor_name,
)
from seg_every_thing.cli import benchmark as command

TINY: Dict[str, int] = {"rois": 4, "channels": 8, "side": 4, "box_features": 16}
CPU = torch.device("cpu")


def tiny_step(model: str, num_classes: int) -> MaskBranchStep:
    torch.manual_seed(0)
    return MaskBranchStep(MaskBranch(model, num_classes, **TINY))


@pytest.mark.parametrize("model", ["ours", "ours+boxes", "ours+mlp", "stock"])
def test_a_step_reaches_everything_but_the_detector(model: str) -> None:
    step = tiny_step(model, 5)
    assert 0 < step.run() < 10
    assert step.features.grad.any()
    assert all(p.grad is not None for p in step.parameters)
    assert all(p.grad is None for p in step.roi_heads.box_predictor.parameters())
    step.drop_gradients()
    assert step.features.grad is None
    assert all(p.grad is None for p in step.parameters)
    assert min(step.seconds()) > 0


def test_sizes() -> None:
    trunk = 4 * (8 * 8 * 9 + 8) + (8 * 8 * 4 + 8)
    transfer = (5 * 16 * 8 + 8) + (8 * 8 + 8)
    expected = {
        "ours": trunk + transfer,
        "ours+boxes": trunk + transfer,
        "ours+mlp": trunk + transfer + (8 * 64 * 64 + 64),
        "stock": trunk + 5 * (8 + 1),
    }
    for model, parameters in expected.items():
        sizes = tiny_step(model, 5).sizes()
        assert sizes["parameters"] == parameters
        assert sizes["detector_bytes"] == 4 * (6 + 4 * 5) * (16 + 1)
        assert (sizes["rois"], sizes["distinct_classes"]) == (4, 4)
    assert tiny_step("ours", 3).sizes()["distinct_classes"] == 3


def test_all_models_get_the_same_batch() -> None:
    ours, stock = tiny_step("ours", 50), tiny_step("stock", 50)
    assert torch.equal(ours.features, stock.features)
    assert torch.equal(ours.proposals.gt_classes, stock.proposals.gt_classes)


def test_memory_grows_with_the_classes_for_stock_alone() -> None:
    few, many = 50, 5000
    ours = {k: tiny_step("ours", k).peak_bytes() for k in (few, many)}
    stock = {k: tiny_step("stock", k).peak_bytes() for k in (few, many)}
    assert ours[few] == ours[many]
    logits = 4 * TINY["rois"] * (many - few) * (2 * TINY["side"]) ** 2
    assert stock[many] - stock[few] > logits  # how many copies depends on the convolution's kind
    expected = MaskBranch("stock", many, **TINY).expected_bytes
    assert 0.8 < expected / stock[many] < 2.5
    assert tiny_step("ours", many).peak_bytes() == ours[many]  # the same number each time


def test_peak_allocated_by_hand() -> None:
    def together() -> None:
        a = torch.empty(1000)
        b = torch.empty(500, dtype=torch.float64)
        del a, b

    def one_after_the_other() -> None:
        torch.empty(1000)
        torch.empty(500, dtype=torch.float64)

    assert peak_allocated(together, CPU) == 8000
    assert peak_allocated(one_after_the_other, CPU) == 4000
    assert peak_allocated(lambda: None, CPU) == 0
    kept = []
    assert peak_allocated(lambda: kept.append(torch.empty(25)), CPU) == 100
    kept.clear()  # unseen
    assert peak_allocated(one_after_the_other, CPU) == 4000


def test_peak_resident_sees_memory_that_is_gone_again() -> None:
    size = 2**26
    grown = peak_resident(lambda: torch.ones(size, dtype=torch.uint8))
    if grown is None:
        pytest.skip("/proc/self/clear_refs is needed, which only Linux has")
    assert grown > 0.9 * size


class Probe:
    """What a fresh process can do."""

    def facts(self) -> Any:
        return os.getpid(), torch.get_num_threads(), torch.rand(()).item()

    def fail(self) -> None:
        raise KeyError("no such thing")

    def exhaust(self) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    def die(self) -> None:
        os._exit(9)


def test_fresh_processes() -> None:
    first, second = FreshProcess(Probe), FreshProcess(Probe)
    try:
        a, b = first.ask("facts"), second.ask("facts")
        assert len({a[0], b[0], os.getpid()}) == 3
        assert a[1] == b[1] == torch.get_num_threads()
        assert a[2] == b[2]  # the same seed
        with pytest.raises(RuntimeError, match="KeyError: 'no such thing'"):
            first.ask("fail")
        with pytest.raises(OutOfMemoryError, match="out of memory"):
            first.ask("exhaust")
        assert first.ask("facts")[0] == a[0]  # it lives on
        with pytest.raises(OutOfMemoryError, match="killed .*9"):
            first.ask("die")
    finally:
        first.close()
        second.close()
    with pytest.raises(ProcessLookupError):
        os.kill(b[0], 0)


def test_result(monkeypatch: pytest.MonkeyPatch) -> None:
    # 24 KiB of logits for 3 classes, 195 MiB for 100,000.
    monkeypatch.setattr(benchmarks, "available_bytes", lambda device: 100 * 2**20)
    result = benchmark_mask_branch([100_000, 3, 3], repeats=2, **TINY)
    assert set(result) == {"rows", "versions", "device", "processor", "threads"}
    assert set(result["versions"]) == {"torch", "detectron2", "python", "seg_every_thing"}
    assert result["device"] == "cpu"
    assert result["threads"] == torch.get_num_threads()
    rows = result["rows"]
    skipped = rows.pop(3)
    assert [(r["name"], r["num_classes"]) for r in rows] == [
        ("ours", 3), ("ours", 100_000), ("stock", 3), ("ours+boxes", 3), ("ours+mlp", 3),
    ]  # fmt: skip
    assert set(skipped) == {"name", "num_classes", "skipped"}
    assert (skipped["name"], skipped["num_classes"]) == ("stock", 100_000)
    assert "needs about 0.2 GiB of memory, 0.1 GiB are free" in skipped["skipped"]
    for row in rows:
        assert set(row) == {
            "name", "num_classes", "seconds", "seconds_min", "seconds_max",
            "seconds_p95", "cpu_seconds",
            "repeats", "peak_bytes", "resident_bytes", "parameters", "detector_bytes", "rois",
            "distinct_classes",
        }  # fmt: skip
        assert 0 < row["seconds_min"] <= row["seconds"] <= row["seconds_max"]
        assert row["peak_bytes"] > 4 * row["parameters"]
        assert row["repeats"] == 2
    json.dumps(result, allow_nan=False)


class FakeProcess:
    """Takes no time; stock's runs out of memory in its second turn."""

    asked: List[str] = []

    def __init__(self, build: partial) -> None:
        self.branch = build.args[0]
        self.turns = 0

    def ask(self, method: str) -> Any:
        if method == "sizes":
            return {"peak_bytes": 1}
        self.asked.append(f"{self.branch.model} {self.branch.num_classes}")
        self.turns += 1
        if self.branch.model == "stock" and self.turns == 2:
            raise OutOfMemoryError("its process was killed (exit code -9)")
        return float(self.turns), self.turns / 4

    def close(self) -> None:
        pass


def test_rows_take_turns_and_one_that_dies_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "FreshProcess", FakeProcess)
    monkeypatch.setattr(FakeProcess, "asked", [])
    rows = benchmark_mask_branch([2], repeats=3)["rows"]
    order = ["ours 2", "stock 2", "ours+boxes 2", "ours+mlp 2"]
    assert FakeProcess.asked == [*order, *order[::-1], *order[:1], *order[2:]]
    assert rows[1] == {
        "name": "stock", "num_classes": 2, "skipped": "its process was killed (exit code -9)",
    }  # fmt: skip
    for row in (rows[0], rows[2], rows[3]):
        assert (row["seconds_min"], row["seconds"], row["seconds_max"]) == (1.0, 2.0, 3.0)
        assert row["cpu_seconds"] == 0.5


def test_table() -> None:
    def row(name: str, num_classes: int, seconds: float, mebibytes: int) -> Dict[str, Any]:
        times = {"seconds": seconds, "seconds_min": seconds / 2, "seconds_max": seconds * 2}
        times["cpu_seconds"] = seconds / 4
        size = {"peak_bytes": mebibytes * 2**20, "parameters": 3_999_488}
        return {"name": name, "num_classes": num_classes, **times, **size}

    rows = [row("ours", 80, 2.0, 100), row("stock", 80, 3.0, 250)]
    rows.append({"name": "stock", "num_classes": 20000, "skipped": "too large"})
    lines = benchmark_table({"rows": rows}).splitlines()
    assert lines[2:] == [
        "| ours | 80 | 2.000 (1.000, 4.000) | 1.00 | 0.500 | 100 | 1.00 | 3,999,488 |",
        "| stock | 80 | 3.000 (1.500, 6.000) | 1.50 | 0.750 | 250 | 2.50 | 3,999,488 |",
        "| stock | 20000 | too large | | | | | |",
    ]
    assert {line.count("|") for line in lines} == {9}
    assert "too large" in benchmark_table({"rows": rows[2:]})


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(arguments)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(num_classes: List[int], **kwargs: Any) -> Dict[str, Any]:
        return benchmark_mask_branch(num_classes, **{**TINY, **kwargs})

    monkeypatch.setattr(command, "benchmark_mask_branch", measure)
    output = tmp_path / "new folder" / "result.json"
    arguments = ["--suite", "mask_branch", "--output", str(output), "--num-classes", "2"]
    command.run(parse(*arguments, "--rois", "3", "--repeats", "1", "--device", "cpu"))
    result = json.loads(output.read_text())
    assert [r["rois"] for r in result["rows"]] == [3, 3, 3, 3]
    assert result["command"] == (
        f"seg-every-thing benchmark --suite mask_branch --output '{output}' --num-classes 2 "
        f"--rois 3 --device cpu --repeats 1"
    )
    assert [p.name for p in output.parent.iterdir()] == ["result.json"]


def test_defaults_are_those_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    names = {f"benchmark_{suite}" for suite in command.SUITES} & set(vars(command))
    for name in [*sorted(names), "run_prepare_vg_benchmark"]:
        monkeypatch.setattr(
            command,
            name,
            lambda *size, **kwargs: (
                asked.append((*size, kwargs)) or {"rows": [], "processor": "none", "threads": 1}
            ),
        )
    assert len(names) + 1 == len(command.SUITES)  # or one of them would measure for minutes here
    for suite in command.SUITES:
        command.run(parse("--suite", suite, "--output", f"{tmp_path}/x.json", "--device", "cpu"))
        assert f"--suite {suite}" in json.loads((tmp_path / "x.json").read_text())["command"]
    by_suite = dict(zip(command.SUITES, asked))
    assert by_suite == {
        "mask_branch": ([80, 1203, 3001, 20000], {"rois": 128, "repeats": 5, "device": "cpu"}),
        "vocabulary": ([80, 3001], {}),
        "prepare_vg": (108077, {"repeats": 5}),
        "training": ((800, 1216), {"rois": 128, "repeats": 5, "device": "cpu"}),
        "evaluation": (5000, {"results": 100, "repeats": 5}),
        "inference": ({"repeats": 5, "device": "cpu", "model_folders": []},),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "box_branch"], "unknown suite 'box_branch': expected one of mask_branch"),
        (["--num-classes", "80", "0"], "the number of classes must be at least 1, got 0"),
        (["--rois", "0"], "the number of RoIs must be at least 1, got 0"),
        (["--repeats", "-1"], "the number of repeats must be at least 1, got -1"),
        (["--device", "quantum"], "cannot use the device 'quantum'"),
        (["--output", "{tmp}"], "cannot write '{tmp}': it is a folder"),
        (["--output", "{tmp}/file/x.json"], "cannot write to the output folder '{tmp}/file'"),
    ],
)
def test_bad_input(
    arguments: List[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: Any) -> None:
        raise AssertionError("bad input was found too late")

    monkeypatch.setattr(benchmarks, "_measure", measured)
    (tmp_path / "file").write_text("")
    defaults = ["--suite", "mask_branch", "--output", f"{tmp_path}/x.json"]
    given = [a.replace("{tmp}", str(tmp_path)) for a in arguments]
    expected = re.escape(message.replace("{tmp}", str(tmp_path)))
    with pytest.raises((ValueError, OSError), match=expected) as error:
        command.run(parse(*defaults, *given))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x.json").exists()


def test_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one number of classes"):
        benchmark_mask_branch([])


def test_processor_name() -> None:
    assert processor_name("cpu")
