"""The tables of FCN and FC-DenseNet: from end to end in small, their ceilings and pictures."""

import json
import shutil
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import CONFIGS
from PIL import Image
from tiramisu_helpers import camvid, unregister_semantic  # noqa: F401

from seg_every_thing.cli import main
from seg_every_thing.config import load_config
from seg_every_thing.evaluation.label_ceilings import coarsened, label_ceilings
from seg_every_thing.study.definitions.paper import paper_rows
from seg_every_thing.study.definitions.suites import CAMVID, SHAPES
from seg_every_thing.study.reporting.results import orderings, runs_of
from seg_every_thing.study.reporting.tables import orderings_table, plain_table
from seg_every_thing.study.running.stages import fingerprint

pytestmark = pytest.mark.usefixtures("forked_workers")

TINY: List[str] = [
    *("MODEL.FC_DENSENET.STEM_CHANNELS", "5"),
    *("INPUT.MIN_SIZE_TRAIN", "(40,)", "INPUT.MIN_SIZE_TEST", "40", "MODEL.DEVICE", "cpu"),
    *("SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "3", "SOLVER.WARMUP_ITERS", "0"),
]


def study(data: Path, output: Path, *more: str) -> int:
    arguments = ["study", "--suite", "camvid", "--tables", "tiramisu", "--seeds", "2"]
    paths = ["--data-root", str(data), "--output", str(output)]
    only = ["--only", "fcdn", "--only", "fcdn_no_skips"]
    return main([*arguments, *paths, *only, "--jobs", "2", *more, "--opts", *TINY])


def test_a_study_without_a_detector(camvid: Path, tmp_path: Path) -> None:  # noqa: F811
    output = tmp_path / "out"
    assert study(camvid.parent, output) == 0
    check_pictures(output)
    results = json.loads((output / "results.json").read_text())
    names = {f"seed{seed}/{row}" for seed in (0, 1) for row in ("fcdn", "fcdn_no_skips")}
    assert set(results["runs"]) == names
    table = results["tables"]["tiramisu"]
    values = table["rows"]["fcdn"]["directions"][""]["sem_seg/mean_IU"]
    assert len(values["values"]) == 2 and values["std"] is not None
    assert table["rows"]["fcdn_no_skips"]["differs"] == {"MODEL.FC_DENSENET.SKIPS": [True, False]}
    assert table["rows"]["fcdn_no_skips"]["more_parameters"] < 0
    (ordering,) = table["orderings"]  # the other rows were not run
    assert ordering["source"] == "ours" and ordering["metric"] == "sem_seg/mean_IU"
    text = (output / "tables.md").read_text()
    assert "difference in mean IU" in text and "direction" not in text
    assert "FC-DenseNet56, CamVid test, paper (transcribed)" in text
    page = (output / "gallery_tiramisu" / "index.html").read_text()
    assert page.count("<img") == 3 and "without skips" in page
    assert "background: rgb(0, 128, 192)" in page and ">cyclist<" in page

    before = {p: p.stat().st_mtime_ns for p in output.rglob("*.pth")}
    assert study(camvid.parent, output) == 0
    again = json.loads((output / "results.json").read_text())["runs"]
    assert all(run["reused"] for run in again.values())
    assert again == {name: {**run, "reused": True} for name, run in results["runs"].items()}
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*.pth")} == before


def check_pictures(output: Path) -> None:
    """The second panel has the colours of the labels, where void is black."""
    picture = np.asarray(Image.open(output / "gallery_tiramisu" / "00000.png"))
    assert picture.shape[1] > 4 * 320
    metadata = MetadataCatalog.get("camvid_val")
    labels = np.asarray(Image.open(DatasetCatalog.get("camvid_val")[0]["sem_seg_file_name"]))
    colors = np.zeros((256, 3), np.uint8)
    colors[:11] = metadata.stuff_colors
    expected = colors[labels[20]]  # the labels are columns
    scale = 8  # 40 pixels to 320
    row = picture[-4 * scale, 52 * scale :]
    start = next(x for x in range(60) if (row[x] == expected[0]).all() and x % 2 == 0)
    middle = row[start + scale // 2 :: scale][: len(expected)]
    assert (middle == expected).mean() > 0.9


def test_fingerprints_know_the_files(camvid: Path) -> None:  # noqa: F811
    def current() -> str:
        return fingerprint(load_config(str(CONFIGS / CAMVID.leaves["fcdn"]), TINY))

    before = current()
    assert current() == before
    for folder in ("train", "trainannot"):
        source = camvid / folder / "frame_0.png"
        shutil.copy(source, source.with_name("frame_9.png"))
    assert current() != before


def test_missing_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        study(tmp_path / "nothing", tmp_path / "out")
    unregister_semantic()
    assert ended.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "camvid" in line and "DETECTRON2_DATASETS" in line


def test_tables_of_both_suites() -> None:
    for suite in (CAMVID, SHAPES):
        runs = runs_of(suite, ["fcn", "tiramisu"], [0, 1, 2])
        assert len(runs) == 3 * (5 + 4)
        assert {run.split for run in runs} == {""} and runs[0].name == "seed0/fcn32s_fixed"
    with pytest.raises(KeyError):
        CAMVID.tables["1a"]


def record(mean_iu: float) -> Any:
    return {"metrics": {"sem_seg/mean_IU": mean_iu, "sem_seg/pixel_acc": 90.0}}


def test_orderings_of_mean_iu() -> None:
    found = {
        f"seed{seed}/{row}": record(value + seed)
        for seed in (0, 1)
        for row, value in (("fcn32s_fixed", 20.0), ("fcn32s", 30.0), ("fcn16s", 40 - 20.0 * seed))
    }
    tests = orderings(CAMVID, CAMVID.tables["fcn"], found, [0, 1])
    assert [(x["difference"]["mean"], x["verdict"]) for x in tests] == [
        (10, "holds"),
        (0, "open"),
    ]
    assert "difference in mean IU" in orderings_table(tests)


def test_the_papers_figures_stand_apart() -> None:
    text = plain_table(CAMVID, "fcn", CAMVID.tables["fcn"], {})
    lines = [line for line in text.splitlines() if "paper (transcribed)" in line]
    assert len(lines) == 4 and "62.7" in lines[-1]
    assert paper_rows("1a") == {}
    for key, table in SHAPES.tables.items():
        for values in paper_rows(key).values():
            assert set(values) <= set(table.metrics)


def test_coarse_labels_by_hand() -> None:
    label = torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1], [1, 1, 1, 9]])
    assert torch.equal(coarsened(label, 2, 9, 1)[label != 9], label[label != 9])
    # Cells of two: the shares of class 1 are 0, 1/2, 1 and 1, void left out.
    found = coarsened(label, 2, 9, 2)
    assert found[:2, :2].sum() == 0 and found[2:].min() == 1
    # One cell: class 1 has 8 of 16, class 0 has 6, void the rest.
    assert torch.equal(coarsened(label, 2, 9, 4), torch.ones_like(label))
    # Sizes that the stride does not divide are filled up with void.
    assert coarsened(label[:3], 2, 9, 2).shape == (3, 4)


def test_ceilings_fall_with_the_stride(camvid: Path) -> None:  # noqa: F811
    opts = ["INPUT.MIN_SIZE_TEST", "0"]
    cfg = load_config(str(CONFIGS / CAMVID.leaves["fcn8s"]), opts)
    found = label_ceilings(cfg, (8, 4, 1))
    assert found[1]["mean_IU"] == 100 and found[1]["pixel_acc"] == 100
    assert found[8]["mean_IU"] < found[4]["mean_IU"] < 100
