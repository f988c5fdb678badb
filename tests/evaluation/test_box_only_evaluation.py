"""Objects without masks in the ground truth: boxes count, masks are neither helped nor harmed."""

from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
from conftest import Annotation, MakeDataset
from evaluating import (
    BOX_ONLY,
    NAMES,
    WITH_MASK,
    annotate,
    check_finite_and_written,
    evaluate,
    predict,
)

from seg_every_thing.evaluation.coco import ABSENT


def no_masks() -> List[Annotation]:
    box_only = annotate(BOX_ONLY, with_mask=False)
    return [
        box_only,
        {**box_only, "segmentation": []},
        {**box_only, "segmentation": None},
        {**box_only, "segmentation": [[50.0, 40, 90]]},
        {**box_only, "segmentation": [[50.0, 40, 90, 40]]},
    ]


@pytest.mark.parametrize("tasks", [("bbox", "segm"), None])
@pytest.mark.parametrize("kind", range(5), ids=["no key", "[]", "None", "1.5 points", "2 points"])
def test_box_only_objects_neither_help_nor_harm_masks(
    make_dataset: MakeDataset, tmp_path: Path, kind: int, tasks: Any
) -> None:
    dataset = make_dataset([[annotate(WITH_MASK), no_masks()[kind]]])
    right = predict(WITH_MASK, 0.5)
    found = predict(BOX_ONLY, 0.9)  # it scores higher: as a false positive it would halve AP
    part = predict((52, 42, 20, 20), 0.8)  # any mask within the box is beyond judgement
    outside = predict((10, 50, 30, 20), 0.7)  # this one is wrong

    def both(*predictions: Dict[str, Any]) -> Any:
        results = evaluate(dataset, [predictions], tmp_path, tasks=tasks)
        check_finite_and_written(results, tmp_path)
        return results["bbox"]["AP"], results["segm"]["AP"]

    recall_of_one_half = 51 / 101 * 100  # COCO samples the curve at 0, 0.01, ..., 1
    assert both(right) == pytest.approx((recall_of_one_half, 100))
    assert both(right, found) == pytest.approx((100, 100))
    assert both(found) == pytest.approx((recall_of_one_half, 0))
    assert both(right, part)[1] == pytest.approx(100)
    assert both(right, outside)[1] == pytest.approx(50)


def test_same_as_if_box_only_objects_were_not_there(make_dataset: MakeDataset) -> None:
    rng = np.random.default_rng(5)
    with_masks: List[List[Annotation]] = []
    mixed: List[List[Annotation]] = []
    predictions = []
    for _ in range(6):
        # Objects with masks to the left, box-only ones to the right.
        left = [[int(v) for v in (*rng.integers(0, 16, 2), *rng.integers(8, 30, 2))] for _ in "ab"]
        right = [[50 + x, y, w, h] for x, y, w, h in left]
        annotations = [annotate(b, category_id=int(rng.choice([1, 3]))) for b in left]
        with_masks.append(annotations)
        mixed.append([*annotations, *(annotate(b, False, int(rng.choice([1, 3]))) for b in right)])
        guesses = [[x + int(rng.integers(3)), y, w, h] for x, y, w, h in left]
        scores = rng.random(2)
        classes = rng.integers(0, 2, 2)
        predictions.append(
            [predict(b, float(s), int(c)) for b, s, c in zip(guesses, scores, classes)]
        )
    expected = evaluate(make_dataset(with_masks), predictions)
    results = evaluate(make_dataset(mixed), predictions)
    assert results["segm"] == pytest.approx(expected["segm"])
    assert 0 < results["segm"]["AP"] < 100
    assert results["bbox"]["AP"] < expected["bbox"]["AP"]


def test_a_class_with_boxes_only_has_no_mask_metrics(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("cup")
    dataset = make_dataset([[annotate(WITH_MASK), annotate(BOX_ONLY, False, category_id=3)]])
    predictions = [[predict(WITH_MASK, 0.9), predict(BOX_ONLY, 0.8, category=1)]]
    split = str(tmp_path / "a.txt")
    results = evaluate(dataset, predictions, tmp_path, class_split=split)
    assert results["bbox"]["AP_A"] == results["bbox"]["AP_B"] == pytest.approx(100)
    assert results["segm"]["AP"] == results["segm"]["AP_A"] == pytest.approx(100)
    assert results["segm"]["AP_B"] == ABSENT
    check_finite_and_written(results, tmp_path)


def test_a_data_set_of_boxes_only(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([[annotate(WITH_MASK, False)], [annotate(BOX_ONLY, False)]])
    results = evaluate(dataset, [[predict(WITH_MASK, 0.9)], []], tmp_path)
    assert results["bbox"]["AP"] == pytest.approx(51 / 101 * 100)
    assert results["segm"] == dict.fromkeys(NAMES, ABSENT)
    check_finite_and_written(results, tmp_path)
