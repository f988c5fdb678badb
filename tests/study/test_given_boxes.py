"""Rows on photographs with boxes given: fair, in the right directions, and what they come to."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
import yaml
from helpers import CONFIGS, TINY

from seg_every_thing.data.pseudo_masks import PseudoMasks
from seg_every_thing.model_zoo import get_config
from seg_every_thing.study.definitions import found_rows as f
from seg_every_thing.study.definitions import photo_rows as p
from seg_every_thing.study.definitions.comparison import differences
from seg_every_thing.study.definitions.suites import PHOTOS, SUITES, VOC, Direction, Suite
from seg_every_thing.study.definitions.table import Table
from seg_every_thing.study.reporting.results import gap_closed, metrics_of, runs_of, spread
from seg_every_thing.study.reporting.tables import given_boxes_table
from seg_every_thing.study.running.commands import command_of
from seg_every_thing.study.running.feature_cache import FeatureCache
from seg_every_thing.study.running.given_boxes import (
    _taught,
    body_cache_name,
    cache_body,
    train_given_boxes,
)
from seg_every_thing.study.running.runner import Run, StudyRunner, row_config
from seg_every_thing.study.running.stages import row_fingerprint


@pytest.mark.parametrize("suite", [PHOTOS, VOC], ids=lambda s: s.name)
def test_main_rows_run_in_both_directions_the_others_in_one(suite: Suite) -> None:
    runs = runs_of(suite, ["given"], [0, 1, 2])
    assert len(runs) == len(set(runs))
    directions: Dict[str, int] = {}
    for run in runs:
        directions[run.row.name] = directions.get(run.row.name, 0) + 1
    assert directions["b2m_best"] == directions["b2m_projection"] == 2 * 3
    assert directions["b2m_supervised"] == 3  # mirrored: the same model in both directions
    assert directions["b2m_boxes_alone"] == directions["b2m_self_2"] == 3
    assert directions["filled_box"] == directions["grabcut"] == 1  # no seed and no split
    assert set(directions) == {row.name for row in p.GIVEN.rows}


def test_what_learns_nothing_is_read_mirrored_and_for_every_seed() -> None:
    metrics = {"given/mIoU_A": 1.0, "given/mIoU_B": 2.0}
    records = {Run(p.GRABCUT, "voc", 0).name: {"metrics": metrics}}
    assert metrics_of(PHOTOS, records, p.GRABCUT, 0, 2) == metrics
    mirrored = {"given/mIoU_A": 2.0, "given/mIoU_B": 1.0}
    assert metrics_of(PHOTOS, records, p.GRABCUT, 1, 1) == mirrored


def test_share_of_the_gap_by_hand() -> None:
    table = Table("t", (p.AGNOSTIC, p.BEST, p.SUPERVISED), gaps={"b2m_best": p._GAP})
    means = {"b2m_class_agnostic": 50.0, "b2m_best": 56.0, "b2m_supervised": 58.0}
    summary = {k: {"voc": {"given/mIoU_B": spread([v - 1, v + 1])}} for k, v in means.items()}
    assert gap_closed(table, summary, "voc", "given/mIoU_B") == {"b2m_best": 75.0}
    assert gap_closed(table, summary, "nonvoc", "given/mIoU_B") == {}
    summary["b2m_supervised"] = summary["b2m_class_agnostic"]
    assert gap_closed(table, summary, "voc", "given/mIoU_B") == {}  # there is no gap
    text = given_boxes_table(PHOTOS, "given", table, summary)
    assert "56.0 ± 1.4" in text and "AP" not in text


def test_rows_that_find_their_boxes_show_their_ap() -> None:
    metrics = ("given/mIoU_B", "segm/AP_B", "bbox/AP_B", "segm/AP_A", "bbox/AP_A")
    summary = {
        name: {"voc": {m: spread([value + i]) for i, m in enumerate(metrics)}}
        for name, value in (("class_agnostic", 10.0), ("box_losses", 20.0), ("supervised", 40.0))
    }
    lines = given_boxes_table(PHOTOS, "found", f.FOUND, summary).splitlines()
    header, _, low, best = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:4])
    assert header[-4:] == ["B mask AP", "B box AP", "A mask AP", "A box AP"]
    assert low[-4:] == ["11.0", "12.0", "13.0", "14.0"]
    assert best[1] == "20.0" and best[6].startswith("33 %")  # of 30 points box losses close 10


@pytest.mark.parametrize("suite", [PHOTOS, VOC], ids=lambda s: s.name)
def test_rows_that_find_their_boxes_stand_on_one_detector(suite: Suite) -> None:
    runs = runs_of(suite, ["found"], [0])
    assert all(run.row.on_detector for run in runs)
    assert {run.row.stage for run in runs} == {"stage_two", "end_to_end"}
    detector = row_config(suite, Run(suite.detector, "", 0), ())
    for stage in ("stage_two", "end_to_end"):
        base = get_config(suite.bases[stage])
        body = differences(base, detector)
        assert not [key for key in body if key.startswith(("MODEL.TIMM", "MODEL.FPN", "MODEL.RPN"))]
    assert set(SUITES[f"{suite.name}_choice"].tables) == {"given"}  # no detector is trained there


def test_commands_of_rows_that_no_single_training_makes() -> None:
    for row in (p.GRABCUT, p.SELF_1):
        command = command_of(VOC, Run(row, "voc_even", 1), Path("out"), 0, ("SOLVER.MAX_ITER", "9"))
        study = f"seg-every-thing study --suite voc --only {row.name} --seeds 2 --output out"
        assert command == f"{study} --opts SOLVER.MAX_ITER 9"
    best = command_of(VOC, Run(p.BEST, "voc_even", 1), Path("out"), 0)
    assert "train --config-file voc/box_to_mask.yaml" in best and "SEED 1" in best


@pytest.fixture
def small_suite(tiny_shapes: Path, tmp_path: Path) -> Suite:
    """The rows on Shapes, with a body of a few channels."""
    base: Any = yaml.safe_load((CONFIGS / "photos" / "Base-Box-To-Mask.yaml").read_text())
    model = base["MODEL"]
    model["BACKBONE"]["NAME"] = "build_resnet_backbone"
    model["RESNETS"] = {"DEPTH": 50, "RES2_OUT_CHANNELS": 16, "STEM_OUT_CHANNELS": 8}
    model["RESNETS"].update(OUT_FEATURES=["res2", "res3"], WIDTH_PER_GROUP=8)
    model["ROI_HEADS"].update(IN_FEATURES=["res2", "res3"], NUM_CLASSES=48)
    base["DATASETS"] = {"TRAIN": ("shapes_train",), "TEST": ("shapes_val",)}
    base["DATASETS"]["MASK_CLASSES"] = base["TEST"]["CLASS_SPLIT"] = "shapes_A"
    base["INPUT"].update(MIN_SIZE_TRAIN=(64,), MIN_SIZE_TEST=64)
    file = tmp_path / "base.yaml"
    file.write_text(yaml.safe_dump(base))
    bases = {"reference": str(file), "given_boxes": str(file)}
    direction = (Direction("A -> B", "shapes_A"), Direction("B -> A", "shapes_B"))
    return Suite("shapes", "shapes_train", bases, {"given": p.GIVEN}, direction)


def _nothing() -> None:
    """Data sets are registered in this process already."""


def test_rows_train_and_are_evaluated_at_both_thresholds(
    small_suite: Suite, tmp_path: Path
) -> None:
    runner = StudyRunner(small_suite, tmp_path / "out", _nothing, [str(x) for x in TINY])
    found = {}
    for row in (p.BEST, p.BOXES_ALONE, p.FILLED_BOX):
        run = Run(row, "shapes_A", 0)
        assert runner.completed(run) is None
        record = train_given_boxes(runner._fresh(run), row)
        assert runner.completed(run) == record
        found[row.name] = record["metrics"]
    assert found["filled_box"]["given/mIoU_B"] > 10
    for name in ("b2m_best", "b2m_boxes_alone"):
        assert {"given/mIoU_B", "given_fit/mIoU_B", "given/boundary_IoU_A"} <= set(found[name])
    assert SUITES["voc"] is VOC


def test_features_of_a_frozen_body_are_computed_once_and_for_both_sides(
    small_suite: Suite, tmp_path: Path
) -> None:
    runner = StudyRunner(small_suite, tmp_path / "out", _nothing, [str(x) for x in TINY])
    run = Run(p.BEST, "shapes_A", 0)
    cfg = runner.config(run)
    cache = tmp_path / body_cache_name(cfg)
    cache_body(cfg, cache)
    assert len(FeatureCache(cache / "train")) == 2 * 12  # and none of them is its own mirror image
    assert len(FeatureCache(cache / "test")) == 6
    plain = train_given_boxes(runner._fresh(run), p.BEST)["metrics"]
    cached = train_given_boxes(runner._fresh(run), p.BEST, cache)["metrics"]
    assert cached == pytest.approx(plain, abs=0.5)
    names = [job.name for job in runner._jobs([], [run, Run(p.AGNOSTIC, "shapes_A", 0)], {})]
    assert names == [body_cache_name(cfg), run.name, Run(p.AGNOSTIC, "shapes_A", 0).name]
    other = Run(p.END_TO_END, "shapes_A", 0)
    assert [job.needs for job in runner._jobs([], [other], {})] == [()]


def test_rows_of_self_training_learn_from_the_model_of_the_row_before(
    small_suite: Suite, tmp_path: Path
) -> None:
    runner = StudyRunner(small_suite, tmp_path / "out", _nothing, [str(x) for x in TINY])
    best, self_1, self_2 = (Run(row, "shapes_A", 0) for row in (p.BEST, p.SELF_1, p.SELF_2))
    assert runner._with_teachers([self_2, best]) == [best, self_1, self_2]
    features, *jobs = runner._jobs([], [best, self_1, self_2], {})
    before = (features.name,)
    assert [job.needs for job in jobs] == [
        before,
        (*before, best.name),
        (*before, self_1.name),
    ]
    records = [job.function(*job.arguments) for job in (features, *jobs)][1:]
    assert [runner.completed(run) for run in (best, self_1, self_2)] == records
    assert len({record["weights"] for record in records}) == 3
    assert len({record["initial_trunk"] for record in records}) == 1
    for student, teacher in ((self_1, records[0]), (self_2, records[1])):
        masks = PseudoMasks(runner.folder(student) / "pseudo_masks")
        assert len(masks) and masks.index["teacher"]["sha256"] == teacher["weights"]
    # What is complete needs no teacher; another teacher makes another student.
    assert runner._with_teachers([self_2]) == [self_2]
    shutil.rmtree(runner.folder(best))
    assert runner._with_teachers([self_1]) == [self_1]
    other = replace(self_2, row=replace(p.SELF_2, teacher=p.BEST.name))
    assert runner.completed(other) is None


def test_a_teacher_has_its_crf_with_and_without_cached_features(
    small_suite: Suite, tmp_path: Path
) -> None:
    options = [*map(str, TINY), "TEST.CRF", "True"]
    runner = StudyRunner(small_suite, tmp_path / "out", _nothing, options)
    run = Run(p.SELF_CRF, "shapes_A", 0)
    cfg = runner.config(run)
    cache = tmp_path / body_cache_name(cfg)
    cache_body(cfg, cache)
    teacher = runner.teacher(run)
    train_given_boxes(runner._fresh(teacher), teacher.row, cache)
    weights = runner.folder(teacher) / "model_final.pth"
    masks = []
    for name, features in (("cached", FeatureCache(cache / "train")), ("computed", None)):
        cfg.OUTPUT_DIR = str(tmp_path / name)
        masks.append(np.load(_taught(cfg, weights, features).folder / "masks.npy").astype(int))
    assert len(masks[0]) and np.abs(masks[0] - masks[1]).max() <= 2
    cfg.OUTPUT_DIR, cfg.TEST.CRF = str(tmp_path / "without"), False
    cfg.MODEL.ROI_MASK_HEAD.PSEUDO_LOSS.CRF = False
    without = np.load(_taught(cfg, weights, None).folder / "masks.npy").astype(int)
    assert np.abs(masks[0] - without).max() > 20


def test_features_are_those_of_one_body_and_one_preprocessing(
    small_suite: Suite, tmp_path: Path
) -> None:
    runner = StudyRunner(small_suite, tmp_path / "out", _nothing, [str(x) for x in TINY])
    run = Run(p.BEST, "shapes_A", 0)
    names, prints = set(), set()
    for content in ("a", "b"):
        (tmp_path / "body.pth").write_text(content * 9)
        os.utime(tmp_path / "body.pth", ns=(0, ord(content)))
        for deviation in (1.0, 2.0):
            cfg = runner.config(run)
            cfg.MODEL.WEIGHTS, cfg.MODEL.PIXEL_STD = str(tmp_path / "body.pth"), [deviation] * 3
            names.add(body_cache_name(cfg))
            prints.add(row_fingerprint(cfg, ""))
    assert len(names) == len(prints) == 4
