"""From records to means, verdicts, Figure 3, neighbours and tables, by hand-made numbers."""

from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest
import torch

from seg_every_thing.data.splits import ClassSplit
from seg_every_thing.study.definitions.suites import COCO, SHAPES
from seg_every_thing.study.reporting.diagnostics import class_vectors_of, diagnose, similarities
from seg_every_thing.study.reporting.plots import plot_diagnostics, plot_figure_3
from seg_every_thing.study.reporting.results import figure_3, orderings, spread, summarize
from seg_every_thing.study.reporting.tables import (
    ablation_table,
    cell,
    diagnostics_table,
    figure_3_table,
    metrics_table,
    orderings_table,
    plain_table,
)

TABLE = SHAPES.tables["1c"]


def record(on_b: float, on_a: float) -> Dict[str, Any]:
    return {"metrics": {"segm/AP_B": on_b, "segm/AP_A": on_a, "segm/APl_B": -1.0, "bbox/AP": 40.0}}


def records() -> Dict[str, Any]:
    """Two seeds of Table 1c; one run is missing, one failed."""
    found: Dict[str, Any] = {}
    for seed, (low, high) in enumerate([(10.0, 16.0), (14.0, 18.0)]):
        found[f"seed{seed}/shapes_A/class_agnostic"] = record(low, 30.0)
        found[f"seed{seed}/shapes_A/class_agnostic_mlp"] = record(low + 1 - 2 * seed, 29.0 - seed)
        found[f"seed{seed}/shapes_A/clsbox"] = record(high, 31.0)
        found[f"seed{seed}/shapes_A/clsbox_mlp"] = record(high - 2, 32.0)
    found["seed0/shapes_B/clsbox"] = record(20.0, 20.0)
    found["seed1/shapes_B/clsbox"] = {"error": "ValueError: no"}
    return found


def test_spread_is_the_sample_standard_deviation() -> None:
    assert spread([1.0, 3.0]) == {"mean": 2.0, "std": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert spread([5.0])["std"] is None
    assert cell(spread([1.0, 3.0])) == "2.0 ± 1.4" and cell(spread([5.0])) == "5.0"


def test_summary_holds_what_there_is() -> None:
    summary = summarize(SHAPES, TABLE, records(), [0, 1])
    assert summary["class_agnostic"]["shapes_A"]["segm/AP_B"]["mean"] == 12
    assert summary["clsbox"]["shapes_A"]["segm/AP_B"]["values"] == [16, 18]
    assert summary["clsbox"]["shapes_B"]["segm/AP_B"]["values"] == [20]
    assert "shapes_B" not in summary["class_agnostic"]
    assert "segm/APl_B" not in summary["clsbox"]["shapes_A"]  # no large object: no value
    text = ablation_table(SHAPES, "1c", TABLE, summary)
    assert "| class-agnostic | 12.0 ± 2.8 | 30.0 ± 0.0 | - | - |" in " ".join(text.split())


def test_a_row_with_all_masks_is_read_in_both_directions() -> None:
    found = {"seed0/shapes_A/oracle": record(33.0, 31.0)}
    summary = summarize(SHAPES, SHAPES.tables["1a"], found, [0])["oracle"]
    assert summary["shapes_A"]["segm/AP_B"]["mean"] == 33
    assert summary["shapes_B"]["segm/AP_B"]["mean"] == 31
    assert summary["shapes_B"]["segm/AP_A"]["mean"] == 33


def test_verdicts_compare_the_same_seeds() -> None:
    found = orderings(SHAPES, TABLE, records(), [0, 1])
    by_claim = {(x["claim"], x["metric"]): x for x in found}
    mlp = by_claim["class-agnostic + MLP > class-agnostic", "segm/AP_B"]
    assert mlp["difference"]["values"] == [1, -1] and mlp["verdict"] == "open"
    reversed_ = by_claim["transfer, cls+box + MLP > transfer, cls+box", "segm/AP_B"]
    assert reversed_["difference"]["values"] == [-2, -2] and reversed_["verdict"] == "reversed"
    harm = by_claim["class-agnostic + MLP does not harm set A, against class-agnostic", "segm/AP_A"]
    assert harm["difference"]["values"] == [-1, -2] and harm["verdict"] == "harmed"
    fine = by_claim[
        "transfer, cls+box + MLP does not harm set A, against transfer, cls+box", "segm/AP_A"
    ]
    assert fine["verdict"] == "unharmed"
    assert {x["direction"] for x in found} == {"A -> B"}  # the other one lacks a row of each pair
    table_1a = orderings(SHAPES, SHAPES.tables["1a"], records(), [0, 1])
    holds = [x for x in table_1a if x["claim"] == "transfer, cls+box > class-agnostic"]
    assert [x["verdict"] for x in holds] == ["holds"]
    assert orderings(SHAPES, TABLE, records(), [0])[0]["verdict"] == "one seed"
    assert "| open" in orderings_table(found) and "-2.0 ± 0.0" in orderings_table(found)


def test_tables_of_mask_rcnn_have_no_sets(tmp_path: Path) -> None:
    table = SHAPES.tables["mask_rcnn_2b"]
    found = {
        f"seed{seed}/shapes_A/mrcnn_{name}": {"metrics": {"segm/AP": ap, "bbox/AP": 30.0}}
        for seed, aps in enumerate([(20.0, 24.0), (21.0, 25.5)])
        for name, ap in zip(("softmax", "sigmoid"), aps)
    }
    summary = summarize(SHAPES, table, found, [0, 1])
    assert list(summary["mrcnn_softmax"]) == ["shapes_A"]
    text = " ".join(plain_table(SHAPES, "mask_rcnn_2b", table, summary).split())
    assert "| softmax over classes | 20.5 ± 0.7 | - | - | 30.0 ± 0.0 |" in text
    (found_ordering,) = orderings(SHAPES, table, found, [0, 1])
    assert found_ordering["metric"] == "segm/AP" and found_ordering["verdict"] == "holds"
    assert found_ordering["difference"]["values"] == [4.0, 4.5]


def test_figure_3_is_the_relative_gain_on_set_b(tmp_path: Path) -> None:
    split, other = SHAPES.random_splits[12][:2]
    found = {
        f"seed0/{split}/fig3_class_agnostic": record(20.0, 0.0),
        f"seed0/{split}/fig3_clsbox": record(25.0, 0.0),
        f"seed0/{other}/fig3_class_agnostic": record(0.0, 0.0),
        f"seed0/{other}/fig3_clsbox": record(1.0, 0.0),
    }
    masks = {name: 50.0 for names in SHAPES.random_splits.values() for name in names}
    points = figure_3(SHAPES, found, [0, 1], masks)
    assert [p["relative_gain"] for p in points] == [pytest.approx(25.0), None]
    assert points[0]["num_classes"] == 12 and points[0]["masks_per_class"] == 50
    line = figure_3_table(points).splitlines()[-1]
    assert [x.strip() for x in line.split("|")[1:4]] == ["12", "2", "50.0 ± 0.0"]
    plot_figure_3(points, tmp_path / "plots" / "figure.png")
    assert (tmp_path / "plots" / "figure.png").stat().st_size > 5000


SPLIT = ClassSplit((0, 1), (2, 3))


def test_neighbours_are_the_nearest_after_centring_on_set_a() -> None:
    # Set A has its mean at (5, 5), so from there its vectors point along the axes.
    vectors = np.array([[6.0, 5], [4, 5], [8, 5], [5, 9]])
    assert similarities(vectors, SPLIT) == pytest.approx(np.array([[1.0, -1], [0, 0]]))


def test_diagnosis_is_the_mean_over_seeds(tmp_path: Path) -> None:
    vectors = [np.array([[6.0, 5], [4, 5], [8, 5], [5, 9]])] * 2
    names = ["a", "b", "c", "d"]
    low = [{"segm/AP-c": 10.0, "segm/AP-d": 5.0}, {"segm/AP-c": 20.0, "segm/AP-d": 5.0}]
    high = [{"segm/AP-c": 30.0, "segm/AP-d": 6.0}, {"segm/AP-c": 20.0, "segm/AP-d": 6.0}]
    found = diagnose(vectors, low, high, names, SPLIT)
    c, d = found["classes"]
    assert (c["class"], c["class_agnostic"], c["transfer"], c["gain"]) == ("c", 15, 25, 10)
    assert c["neighbours"][0] == ["a", pytest.approx(1.0)]
    assert d["gain"] == 1
    assert found["rank_correlation"] is None  # two classes are too few
    assert diagnostics_table(found).splitlines()[2].startswith("| c ")
    plot_diagnostics({"A -> B": found}, tmp_path / "d.png")
    assert (tmp_path / "d.png").stat().st_size > 5000


def test_rank_correlation_is_spearmans() -> None:
    split = ClassSplit((0, 1), (2, 3, 4, 5))
    angles = np.deg2rad([0, 10, 30, 50])
    directions = np.stack([np.cos(angles), np.sin(angles)], 1)
    vectors = np.concatenate([[[1.0, 0], [-1, 0]], directions])
    names = list("abcdef")
    gains = [4.0, 2.0, 3.0, 1.0]  # falls with the angle, but for one exchange
    low = [{f"segm/AP-{n}": 0.0 for n in names}]
    high = [{f"segm/AP-{n}": g for n, g in zip("cdef", gains)}]
    found = diagnose([vectors], low, high, names, split)
    assert found["rank_correlation"] == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)


def test_class_vectors_come_from_the_checkpoint(tmp_path: Path) -> None:
    prefix = "roi_heads.box_predictor."
    state = {
        prefix + "cls_score.weight": torch.tensor([[1.0], [2], [9]]),  # the last is background
        prefix + "bbox_pred.weight": torch.arange(8.0).view(8, 1),
    }
    torch.save({"model": state}, tmp_path / "m.pth")
    expected = [[1, 0, 1, 2, 3], [2, 4, 5, 6, 7]]
    assert class_vectors_of(tmp_path / "m.pth").tolist() == expected
    torch.save({"model": {}}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="empty.pth"):
        class_vectors_of(tmp_path / "empty.pth")


def test_tables_for_coco_show_the_paper_apart_from_what_was_measured() -> None:
    summary = summarize(COCO, COCO.tables["1a"], {"seed0/voc/clsbox": record(7.0, 8.0)}, [0])
    text = ablation_table(COCO, "1a", COCO.tables["1a"], summary)
    header, _, *lines = text.splitlines()
    assert header.count("paper (transcribed)") == 2
    row = next(line for line in lines if "transfer, cls+box " in line)
    assert "20.2 \\| 35.2" in row and "7.0" in row
    table_2 = metrics_table(COCO, "2", COCO.tables["2"], {})
    assert table_2.count("paper (transcribed)") == 12
    assert "paper" not in ablation_table(SHAPES, "1a", SHAPES.tables["1a"], {})
