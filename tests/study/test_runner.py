"""The quickstart from end to end in small, and what its figures mean."""

import json
from pathlib import Path
from typing import Any, List
from unittest import mock

import pytest
from conftest import unregister
from detectron2.data import MetadataCatalog
from helpers import TINY, shapes_config
from pycocotools.coco import COCO

from seg_every_thing.cli import main
from seg_every_thing.cli import quickstart as quickstart_command
from seg_every_thing.data.datasets.shapes import SHAPES_SET_A
from seg_every_thing.study.definitions.suites import DEMO
from seg_every_thing.study.reporting.overlap import overlap_metrics, shared_boxes
from seg_every_thing.study.reporting.report import COLUMNS, recovery
from seg_every_thing.study.reporting.tables import seeds_table
from seg_every_thing.study.running import stages
from seg_every_thing.study.running.stages import fingerprint

pytestmark = pytest.mark.usefixtures("forked_workers")


def quickstart(output: Path, *opts: Any) -> None:
    tiny: List[Any] = [v for v in TINY if v != "SEED"][:-1]
    arguments = ["quickstart", "--output", str(output), "--num-train", "12", "--num-val", "6"]
    assert main([*arguments, "--opts", *(str(v) for v in [*tiny, *opts])]) == 0


def test_quickstart_makes_table_gallery_and_json_and_reuses_them(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    quickstart(tmp_path / "demo")
    for name in ("shapes_train", "shapes_val"):
        unregister(name)
    result = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert set(result["rows"]) == {"class_agnostic", "maskx", "maskx_box_losses", "oracle"}
    for metrics in result["rows"].values():
        assert {"segm/AP_A", "segm/AP_B", "segm/AP", "bbox/AP", "segm/AP_shared_B"} <= set(metrics)
    assert result["seed"] == 0 and result["reused"] == []
    assert {"recovery_B", "recovery_B_box_losses"} <= set(result)
    assert {"torch", "detectron2", "seg_every_thing"} <= set(result["versions"])
    assert {"detector", *result["rows"]} <= set(result["seconds"])
    # One detector: its boxes are the same whatever is trained on top.
    assert len({m["bbox/AP"] for m in result["rows"].values()}) == 1
    page = (tmp_path / "demo" / "gallery" / "index.html").read_text()
    assert page.count("<img") == 6
    assert "class-agnostic" in page and "http://" not in page and "https://" not in page
    output = capfd.readouterr()
    assert "mask AP, B" in output.out + output.err
    check_annotated(tmp_path / "demo" / "annotate", output.out + output.err)
    masks = (tmp_path / "demo" / "annotate" / "masks.json").stat()

    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pth")}
    assert len(stamps) >= 5
    quickstart(tmp_path / "demo")
    again = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert again["rows"] == result["rows"]
    assert again["reused"] == [
        *("class_agnostic", "detector", "maskx", "maskx_box_losses", "oracle")
    ]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pth")} == stamps
    output = capfd.readouterr()
    assert "Reusing 5 results" in output.out + output.err
    check_annotated(tmp_path / "demo" / "annotate", output.out + output.err)
    again_masks = (tmp_path / "demo" / "annotate" / "masks.json").stat()
    assert (again_masks.st_mtime_ns, again_masks.st_ino) == (masks.st_mtime_ns, masks.st_ino)


def check_annotated(folder: Path, log: str) -> None:
    """Set B's boxes have masks, which stand beside those that were taken away."""
    boxes, masks = (json.loads((folder / f"{n}.json").read_text()) for n in ("boxes", "masks"))
    names = {c["id"]: c["name"] for c in boxes["categories"]}
    for before, after in zip(boxes["annotations"], masks["annotations"]):
        in_a = names[before["category_id"]] in SHAPES_SET_A
        assert bool(before["segmentation"]) == in_a
        assert ("score" in after) == (not in_a)
    comparison = json.loads((folder / "comparison.json").read_text())
    assert not {*comparison["by_class"]} & {*SHAPES_SET_A}
    assert f"mean IoU {comparison['all']['IoU']:.1f} with those taken away" in log
    assert (folder / "review" / "index.html").is_file() and str(folder / "masks.json") in log


def test_a_failing_row_is_named_and_the_others_are_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        # Only the rows with T read this key.
        quickstart(tmp_path, "MODEL.WEIGHT_TRANSFER.ACTIVATION", "tanh")
    assert exit_info.value.code == 1
    line = [x for x in capfd.readouterr().err.splitlines() if "error: " in x][-1]
    assert "maskx failed" in line and "maskx_box_losses failed" in line
    assert "tanh" in line and "oracle" not in line
    assert (tmp_path / "seed0" / "shapes_A" / "oracle" / "done.json").is_file()
    assert not (tmp_path / "results.json").exists()


def test_recovery_is_the_closed_share_of_the_gap() -> None:
    def rows(low: float, middle: float, high: float) -> Any:
        values = {"class_agnostic": low, "maskx": middle, "other": low, "oracle": high}
        return {name: {"segm/AP_B": value} for name, value in values.items()}

    assert recovery(rows(10, 25, 30)) == pytest.approx(0.75)
    assert recovery(rows(10, 25, 30), "other") == 0
    assert recovery(rows(10, 5, 30)) == pytest.approx(-0.25)
    assert recovery(rows(10, 12, 10)) is None


def test_seeds_are_summed_up_as_mean_and_standard_deviation() -> None:
    rows = DEMO.tables["demo"].rows[:2]
    seeds = [
        {row.name: {key: value + i for key, _ in COLUMNS} for i, row in enumerate(rows)}
        for value in (1.0, 3.0)
    ]
    headers, cells = seeds_table(rows, seeds)
    assert len(headers) == 1 + len(COLUMNS)
    assert cells[0] == ["class-agnostic", *["2.0 ± 1.4"] * len(COLUMNS)]
    assert cells[1][1:] == ["3.0 ± 1.4"] * len(COLUMNS)


def test_several_seeds_are_summed_up_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_seed(_: Any, __: Any, seed: int) -> Any:
        values = {"class_agnostic": 10.0, "maskx": 15.0, "maskx_box_losses": 19.0 - seed}
        values["oracle"] = 20.0 if seed != 4 else 10.0  # seed 4 has no gap
        return {"rows": {n: {key: v for key, _ in COLUMNS} for n, v in values.items()}}

    monkeypatch.setattr(quickstart_command, "_run_seed", run_seed)
    monkeypatch.setattr(quickstart_command, "_annotate", lambda *_: None)
    size = ["--num-train", "1", "--num-val", "1"]
    assert main(["quickstart", "--output", str(tmp_path), *size, "--seed", "0", "1", "4"]) == 0
    assert json.loads((tmp_path / "results_seeds.json").read_text()) == {
        "seeds": [0, 1, 4],
        "recovery_B": {"maskx": [0.5, 0.5, None], "maskx_box_losses": [0.9, 0.8, None]},
    }


def test_an_override_that_makes_rows_unlike_ends_the_demo_before_it_trains(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        quickstart(tmp_path, "MODEL.ROI_MASK_HEAD.BOX_LOSS.ENABLED", True)
    assert "row 'maskx_box_losses' is no fair comparison" in capfd.readouterr().err
    assert not (tmp_path / "seed0").exists()


def test_fingerprints_tell_results_apart(tiny_shapes: Path, tmp_path: Path) -> None:
    base = shapes_config("maskx", tmp_path)
    assert fingerprint(base) == fingerprint(shapes_config("maskx", tmp_path / "elsewhere"))
    others = [
        fingerprint(shapes_config("oracle", tmp_path)),
        fingerprint(shapes_config("maskx", tmp_path, "SEED", 2)),
        fingerprint(base, "another detector"),
    ]
    before = fingerprint(base)
    assert len({before, *others}) == 4
    with mock.patch.object(stages, "RECIPE", "what another version of the code does"):
        assert fingerprint(base) not in {before, *others}


def write_truth(path: Path) -> Path:
    """Two 10x10 objects that overlap by half, and one alone; COCO polygons."""
    boxes = [(0, 0, 10, 10), (5, 0, 10, 10), (30, 0, 10, 10)]
    annotations = []
    for i, (x, y, w, h) in enumerate(boxes):
        polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
        annotations.append(
            {
                **{"id": i + 1, "image_id": 1, "category_id": i + 1, "bbox": [x, y, w, h]},
                **{"area": w * h, "iscrowd": 0, "segmentation": [polygon]},
            }
        )
    content = {
        "images": [{"id": 1, "width": 50, "height": 20, "file_name": "x.png"}],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"c{i}"} for i in (1, 2, 3)],
    }
    path.write_text(json.dumps(content))
    return path


def test_overlap_metrics_count_shared_boxes_alone(tmp_path: Path) -> None:
    truth = write_truth(tmp_path / "truth.json")
    assert shared_boxes(COCO(str(truth))) == {1: True, 2: True, 3: False}
    annotations = json.loads(truth.read_text())["annotations"]
    # Object 1 is found exactly, object 2 not at all, object 3 (not shared) not at all.
    found = {k: annotations[0][k] for k in ("image_id", "category_id", "segmentation", "bbox")}
    coco = COCO(str(truth))
    found["segmentation"] = coco.annToRLE(coco.anns[1])
    found["segmentation"]["counts"] = found["segmentation"]["counts"].decode()
    metrics = overlap_metrics(
        truth, [{**found, "score": 0.9}], {"": (0, 1, 2), "_A": (0,), "_B": (1, 2)}
    )
    assert metrics == {
        "segm/AP_shared": pytest.approx(50),
        "segm/AP_shared_A": pytest.approx(100),
        "segm/AP_shared_B": pytest.approx(0),
        "boxes": 3,
        "shared_boxes": 2,
    }


def test_overlap_metrics_without_any_detection(tmp_path: Path) -> None:
    metrics = overlap_metrics(write_truth(tmp_path / "truth.json"), [], {"": (0, 1, 2)})
    assert metrics["segm/AP_shared"] == 0


def test_most_boxes_of_shapes_hold_other_objects(tiny_shapes: Path) -> None:
    shared = shared_boxes(COCO(MetadataCatalog.get("shapes_train").json_file))
    assert 0.3 < sum(shared.values()) / len(shared) < 0.8
