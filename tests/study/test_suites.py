"""The studies as data: fair rows, configs that agree with them, and commands to run them."""

import json
import os
import shlex
from pathlib import Path
from typing import Any, List

import pytest

from seg_every_thing.cli import main
from seg_every_thing.config import load_config
from seg_every_thing.data.splits import COCO_CLASSES, resolve_class_split
from seg_every_thing.model_zoo import get_config, get_config_file
from seg_every_thing.study.definitions import rows as r
from seg_every_thing.study.definitions.comparison import check_changes, differences
from seg_every_thing.study.definitions.paper import MASK_AP, paper_values
from seg_every_thing.study.definitions.suites import COCO, DEMO, SHAPES, SUITES, Suite
from seg_every_thing.study.reporting.results import runs_of
from seg_every_thing.study.running.commands import arguments_of
from seg_every_thing.study.running.runner import Run, row_options


@pytest.fixture(autouse=True)
def shapes(tiny_shapes: Path) -> None:
    """Configs of Shapes would draw the whole data set otherwise."""


def config_of(suite: Suite, row: r.Row, split: str = "") -> Any:
    run = Run(row, split or suite.directions[0].split if row.has_sets else "", 0)
    return load_config(get_config_file(suite.bases[row.stage]), row_options(suite, run))


ALL = [(suite, name) for suite in (*SUITES.values(), DEMO) for name in suite.rows()]


@pytest.mark.parametrize("suite, name", ALL, ids=lambda x: getattr(x, "name", x))
def test_a_row_differs_from_its_baseline_in_what_it_declares(suite: Suite, name: str) -> None:
    row = suite.rows()[name]
    if not row.baseline:
        tops = {"class_agnostic", "e2e_class_agnostic", "fig3_class_agnostic", "mrcnn_sigmoid"}
        tops |= {"mrcnn_s16_roialign_avg", "mrcnn_s32_roialign", "fcn32s", "fcdn"}
        tops |= {"filled_box", "grabcut", "b2m_class_agnostic"}
        tops |= {"e2e_clsbox_box_losses"}
        assert row.name in tops
        return
    baseline = suite.rows().get(row.baseline)
    assert baseline is not None, "every row is compared with a row of the suite"
    found = check_changes(row, config_of(suite, row), config_of(suite, baseline))
    assert set(found) == set(row.changes)
    assert found or row.teacher  # self-training is not of the config
    # Budget, data order and what is frozen are never among the differences of a pair.
    if not name.endswith(("_r_101", "b2m_end_to_end")):
        assert not [key for key in found if key.startswith(("SOLVER.", "DATALOADER.", "INPUT."))]


def test_the_demo_has_the_detector_of_the_studies_in_short() -> None:
    ours, theirs = (config_of(suite, r.DETECTOR) for suite in (DEMO, SHAPES))
    assert set(differences(ours, theirs)) == {"SOLVER.MAX_ITER", "DATASETS.TEST"}
    assert ours.SOLVER.MAX_ITER < theirs.SOLVER.MAX_ITER
    assert (DEMO.detector_threads, SHAPES.detector_threads) == (2, 1)


def test_an_undeclared_difference_is_refused() -> None:
    ours, base = config_of(SHAPES, r.CLS), config_of(SHAPES, r.CLSBOX)
    ours.SOLVER.MAX_ITER += 1
    with pytest.raises(ValueError, match="'cls' is no fair comparison .* SOLVER.MAX_ITER"):
        check_changes(r.CLS, ours, base)


def test_an_override_that_hides_the_difference_is_refused() -> None:
    ours, base = config_of(SHAPES, r.CLS), config_of(SHAPES, r.CLSBOX)
    ours.MODEL.WEIGHT_TRANSFER.INPUT = base.MODEL.WEIGHT_TRANSFER.INPUT = "box"
    with pytest.raises(ValueError, match="does not differ in MODEL.WEIGHT_TRANSFER.INPUT"):
        check_changes(r.CLS, ours, base)


LEAVES = [(suite, name) for suite in SUITES.values() for name in sorted(suite.leaves)]


@pytest.mark.parametrize("suite, name", LEAVES, ids=lambda x: getattr(x, "name", x))
def test_a_leaf_config_is_its_row(suite: Suite, name: str) -> None:
    leaf = get_config(suite.leaves[name])
    assert differences(leaf, config_of(suite, suite.rows()[name])) == {}


def test_every_coco_row_has_a_leaf() -> None:
    assert set(COCO.leaves) == set(COCO.rows())


def test_tables_hold_the_rows_of_the_paper() -> None:
    for key, rows in MASK_AP.items():
        assert set(rows) <= {row.name for row in COCO.tables[key].rows}
    assert paper_values("2", "e2e_maskx", 1)["segm/AP50_B"] == 52.2
    assert paper_values("1a", "cls_normalized", 0) == {}
    for suite in SUITES.values():
        for table in suite.tables.values():
            names = {row.name for row in table.rows}
            assert {n for a, b, _ in (*table.claims, *table.ours) for n in (a, b)} <= names
            assert {n for pair in table.unharmed for n in pair} <= names


def test_runs_are_shared_between_tables() -> None:
    runs = runs_of(SHAPES, ["1a", "1c"], [0])
    assert len(runs) == len(set(runs)) == 2 * (8 + 2) + 2  # both directions; two with all masks
    figure = runs_of(SHAPES, ["fig3"], [0, 1])
    assert len(figure) == 2 * 2 * 25 and {run.row.stage for run in figure} == {"stage_two"}


def dry_run(capsys: Any, *arguments: str) -> List[List[str]]:
    assert main(["study", "--seeds", "1", "--dry-run", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [shlex.split(line) for line in lines if not line.startswith("#")]


def config_from(command: List[str]) -> Any:
    assert command[:5] == ["python", "-m", "seg_every_thing", "train", "--config-file"]
    rest = command[6:]
    if rest[0] == "--num-gpus":
        assert rest[1] == "8"
        rest = rest[2:]
    return load_config(get_config_file(command[5]), rest)


def test_dry_run_prints_a_command_for_each_coco_row(capsys: Any) -> None:
    commands = dry_run(capsys, "--suite", "coco", "--tables", "1a,1b,1c,1d,2")
    assert len(commands) == len(runs_of(COCO, ["1a", "1b", "1c", "1d", "2"], [0]))
    outputs = set()
    for command in commands:
        cfg = config_from(command)
        outputs.add(cfg.OUTPUT_DIR)
        row = COCO.rows()[Path(cfg.OUTPUT_DIR).name]
        split = Path(cfg.OUTPUT_DIR).parent.name
        assert differences(cfg, config_of(COCO, row, split)) == {}
        mask_classes = "all" if row.all_masks else split
        assert mask_classes == cfg.DATASETS.MASK_CLASSES
        assert cfg.TEST.CLASS_SPLIT == split in ("voc", "nonvoc")
        assert cfg.SOLVER.REFERENCE_WORLD_SIZE == 8
        batch, rate = (8, 0.01) if row.name.endswith("r_101") else (16, 0.02)
        assert batch == cfg.SOLVER.IMS_PER_BATCH
        assert rate == cfg.SOLVER.BASE_LR
    assert len(outputs) == len(commands)


def test_dry_run_of_figure_3_has_the_classes_of_the_paper(capsys: Any) -> None:
    data = Path(os.getenv("DETECTRON2_DATASETS", "datasets"))
    published = data.parent / "specs" / "data" / "coco_randsplits.json"
    expected = json.loads(published.read_text())["splits"] if published.is_file() else None
    commands = dry_run(capsys, "--suite", "coco", "--tables", "fig3")
    assert len(commands) == 50
    seen = set()
    for command in commands:
        cfg = config_from(command)
        name = cfg.DATASETS.MASK_CLASSES
        split = resolve_class_split(name, COCO_CLASSES)
        assert name == cfg.TEST.CLASS_SPLIT and len(split.set_b) == 80 - len(split.set_a)
        assert name.endswith(f"_A{len(split.set_a)}B{len(split.set_b)}")
        seen.add((name, cfg.MODEL.ROI_MASK_HEAD.PREDICTOR))
        if expected is not None:
            assert list(split.set_a) == sorted(expected[name]["A_index0"])
    assert len(seen) == 50
    if expected is None:
        pytest.skip("sizes checked; class by class only with the published list of splits")


def test_dry_run_on_shapes_trains_the_detector_first(capsys: Any, tiny_shapes: Path) -> None:
    commands = dry_run(capsys, "--suite", "shapes", "--tables", "1d", "--only", "e2e_clsbox")
    assert [Path(c[5]).name for c in commands] == ["detector.yaml"] + 2 * ["Base-EndToEnd.yaml"]
    detector, *rows = map(config_from, commands)
    assert {cfg.MODEL.WEIGHTS for cfg in rows} == {detector.OUTPUT_DIR + "/model_final.pth"}


def test_tables_of_mask_rcnn_have_short_names(capsys: Any) -> None:
    suite = ("--suite", "shapes", "--tables")
    short = dry_run(capsys, *suite, "mask_rcnn_2b,2c,2d,2e,agnostic")
    whole = ",".join(f"mask_rcnn_{name}" for name in ("2b", "2c", "2d", "2e", "agnostic"))
    assert short == dry_run(capsys, *suite, whole)
    assert len(short) == 1 + 14  # the detector, and each row once
    assert dry_run(capsys, *suite, "2") != dry_run(capsys, *suite, "2b")


def test_a_row_that_depends_on_the_seed_says_so_in_its_command() -> None:
    arguments = arguments_of(COCO, Run(r.RANDOM, "voc", 7), Path("out"), ())
    assert "random:7" in arguments
    assert load_config(get_config_file(arguments[1]), arguments[2:]).SEED == 7


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--tables", "1a,9"), "no table '9'"),
        (("--tables", "1b", "--only", "cls"), "no row 'cls' in these tables"),
        (("--seeds", "0"), "at least 1"),
    ],
)
def test_bad_arguments(capsys: Any, arguments: Any, message: str) -> None:
    with pytest.raises(SystemExit) as e:
        main(["study", "--dry-run", *arguments])
    assert e.value.code == 1
    assert message in capsys.readouterr().err


def test_one_direction_is_the_first(capsys: Any) -> None:
    both = dry_run(capsys, "--suite", "voc", "--only", "b2m_best")
    one = dry_run(capsys, "--suite", "voc", "--only", "b2m_best", "--one-direction")
    assert len(both) == 2 and one == both[:1]
    assert config_from(one[0]).DATASETS.MASK_CLASSES == "voc_even"
