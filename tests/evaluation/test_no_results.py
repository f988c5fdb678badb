"""A model that finds nothing at all: 0 where there was something to find, -1 where not."""

import logging
from pathlib import Path

import pytest
import torch
from conftest import HEIGHT, WIDTH, MakeDataset
from detectron2.data import MetadataCatalog
from evaluating import (
    BOX_ONLY,
    NAMES,
    WITH_MASK,
    annotate,
    check_finite_and_written,
    evaluate,
    instances_of,
)

from seg_every_thing import PartialCOCOEvaluator
from seg_every_thing.evaluation.coco import ABSENT

NOTHING = dict.fromkeys(NAMES, ABSENT)


@pytest.mark.parametrize("use_fast_impl", [True, False])
@pytest.mark.parametrize("with_mask", [True, False])
def test_metrics_without_ground_truth_are_absent(
    make_dataset: MakeDataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    with_mask: bool,
    use_fast_impl: bool,
) -> None:
    (tmp_path / "a.txt").write_text("cup")
    # 900 pixels: a small object.  The other one, of 1440, is medium, and no mask: it is ignored.
    dataset = make_dataset([[annotate(WITH_MASK)], [annotate(BOX_ONLY, with_mask)]])
    options = {"class_split": str(tmp_path / "a.txt"), "use_fast_impl": use_fast_impl}
    with caplog.at_level(logging.WARNING, "detectron2"):
        results = evaluate(dataset, [[], []], tmp_path, **options)
    found = {**dict.fromkeys(NAMES, 0.0), "APl": ABSENT}
    for task, metrics in results.items():
        medium = 0.0 if with_mask or task == "bbox" else ABSENT
        cup = {**found, "APm": medium}
        assert metrics == {
            **cup,
            **{f"{name}_A": value for name, value in cup.items()},
            **{f"{name}_B": ABSENT for name in NAMES},
            "AP-cup": 0.0,
        }
    assert results.keys() == {"bbox", "segm"}
    assert "No predictions from the model!" in caplog.text
    check_finite_and_written(results, tmp_path)


def test_a_data_set_without_objects(make_dataset: MakeDataset, tmp_path: Path) -> None:
    results = evaluate(make_dataset([[], []]), [[], []], tmp_path)
    assert results == {"bbox": NOTHING, "segm": NOTHING}


def test_images_that_do_not_count(make_dataset: MakeDataset) -> None:
    evaluator = PartialCOCOEvaluator(make_dataset([[annotate(WITH_MASK)], []]), tasks=("bbox",))
    evaluator.reset()
    none = {"instances": instances_of([], (HEIGHT, WIDTH))}
    evaluator.process([{"image_id": 1}, {"image_id": 2}], [none, none])
    assert evaluator.evaluate(img_ids=[1])["bbox"]["AP"] == 0
    assert evaluator.evaluate(img_ids=[2]) == {"bbox": NOTHING}


def test_keypoints(make_dataset: MakeDataset) -> None:
    object_ = {**annotate((10, 10, 50, 40)), "keypoints": [14, 14, 2], "num_keypoints": 1}
    dataset = make_dataset([[object_, annotate(BOX_ONLY)]])
    MetadataCatalog.get(dataset).keypoint_names = ["middle"]
    evaluator = PartialCOCOEvaluator(dataset, tasks=("keypoints",))
    evaluator.reset()
    instances = instances_of([], (HEIGHT, WIDTH))
    instances.pred_keypoints = torch.zeros(0, 1, 3)
    evaluator.process([{"image_id": 1}], [{"instances": instances}])
    metrics = evaluator.evaluate()["keypoints"]
    assert metrics["AP"] == metrics["APm"] == metrics["AP-cup"] == 0
    assert metrics["APl"] == ABSENT
