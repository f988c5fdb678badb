"""The fast evaluation gives the numbers of plain pycocotools, whichever library does the work."""

import copy
import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pycocotools.mask as mask_util
import pytest
from conftest import unregister
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from seg_every_thing import PartialCOCOEvaluator
from seg_every_thing.benchmarks.made_up_results import made_up_predictions, write_ground_truth
from seg_every_thing.evaluation import coco_fast
from seg_every_thing.evaluation.coco_fast import evaluate_results, results_index

DATA = "test_coco_fast"
IMAGES, RESULTS, CLASSES = 12, 40, 5
Metrics = Dict[str, Dict[str, float]]


@pytest.fixture
def predictions(tmp_path: Path) -> Iterator[List[Dict[str, Any]]]:
    """Of images with and without objects and results; class 0 has no results, the last no truth."""
    path = tmp_path / "truth.json"
    write_ground_truth(path, IMAGES)
    truth = json.loads(path.read_text())
    for i, annotation in enumerate(truth["annotations"]):
        annotation.update(category_id=annotation["category_id"] % (CLASSES - 1) + 1)
        annotation.update(iscrowd=int(i % 9 == 0))
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] != 6]
    truth["categories"] = truth["categories"][:CLASSES]
    path.write_text(json.dumps(truth))
    register_coco_instances(DATA, {}, str(path), str(tmp_path))
    DatasetCatalog.get(DATA)
    made_up = made_up_predictions(IMAGES, RESULTS)
    for result in (r for image in made_up for r in image["instances"]):
        result["category_id"] = (result["category_id"] + 1) % CLASSES or 1
    made_up[3]["instances"] = []
    yield made_up
    unregister(DATA)


@pytest.fixture(params=["compiled", "faster-coco-eval", "pycocotools"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What does the matching."""
    if request.param == "compiled":
        if coco_fast.COCOeval_opt is COCOeval:
            pytest.skip("this detectron2 has no compiled COCOeval")
        return request.param
    monkeypatch.setattr(coco_fast, "COCOeval_opt", COCOeval)
    if request.param == "pycocotools":
        monkeypatch.setattr(coco_fast, "COCOeval_faster", None)
    elif coco_fast.COCOeval_faster is None:
        pytest.skip("needs faster-coco-eval: pip install faster-coco-eval")
    return request.param


def metrics_of(
    evaluator: COCOEvaluator, predictions: List[Any], img_ids: Optional[List[int]] = None
) -> Metrics:
    evaluator.reset()
    evaluator._predictions = copy.deepcopy(predictions)
    return evaluator.evaluate(img_ids)


def check_equal(ours: Metrics, plain: Metrics) -> None:
    assert ours.keys() == plain.keys()
    for task, metrics in plain.items():
        assert metrics["AP"] > 1
        for name, value in metrics.items():
            if math.isnan(value):  # ours leaves out classes without ground truth
                assert ours[task].get(name, -1) == -1
            else:
                assert ours[task][name] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("limit", [None, 5, 300])
def test_all_metrics_are_those_of_pycocotools(
    predictions: List[Any], library: str, limit: Optional[int]
) -> None:
    options = {"tasks": ("bbox", "segm"), "max_dets_per_image": limit, "distributed": False}
    plain = metrics_of(COCOEvaluator(DATA, use_fast_impl=False, **options), predictions)
    check_equal(metrics_of(PartialCOCOEvaluator(DATA, **options), predictions), plain)


def test_some_of_the_images(predictions: List[Any], library: str) -> None:
    options = {"tasks": ("bbox", "segm"), "distributed": False}
    plain = COCOEvaluator(DATA, use_fast_impl=False, **options)
    ids = [2, 4, 5, 11]  # image 4 has no results
    ours = metrics_of(PartialCOCOEvaluator(DATA, **options), predictions, ids)
    check_equal(ours, metrics_of(plain, predictions, ids))


@pytest.mark.parametrize(
    "spelled",
    [
        {"image_id": lambda i: -i},
        {"image_id": float},
        {"image_id": lambda i: f"image {i}"},
        {"category_id": lambda i: -i},
        {"category_id": lambda i: i + 0.5},
        {"category_id": str},
        {"width": float},
    ],
    ids=["-1", "1.0", "text", "category -1", "category 1.5", "category text", "width 640.0"],
)
def test_ids_and_sizes_of_any_kind(
    predictions: List[Any], tmp_path: Path, library: str, spelled: Dict[str, Callable[[int], Any]]
) -> None:
    plain = COCO(MetadataCatalog.get(DATA).json_file)
    results = [
        {**r, "category_id": r["category_id"] + 1} for p in predictions for r in p["instances"]
    ]
    odd = COCO()
    odd.dataset = copy.deepcopy(plain.dataset)
    odd_results = [dict(r) for r in results]
    keys = {"image_id": "images", "category_id": "categories", "width": "images"}
    for key, kind in spelled.items():
        for entry in odd.dataset[keys[key]]:
            own = "width" if key == "width" else "id"
            entry[own] = kind(entry[own])
        for entry in (odd.dataset["annotations"] + odd_results) * (key != "width"):
            entry[key] = kind(entry[key])
    odd.createIndex()
    for task in ("bbox", "segm"):
        expected = evaluate_results(plain, [dict(r) for r in results], task).stats
        assert evaluate_results(odd, odd_results, task).stats == pytest.approx(expected, rel=1e-12)
        assert expected[0] > 0


def test_no_results(predictions: List[Any], library: str) -> None:
    """What has ground truth is 0, and what has none is -1, as with results that are all wrong."""
    truth = COCO(MetadataCatalog.get(DATA).json_file)
    nowhere = {"image_id": 1, "category_id": CLASSES, "score": 0.1, "bbox": [0, 0, 1, 1]}
    expected = evaluate_results(truth, [nowhere], "bbox")
    found = evaluate_results(truth, [], "bbox")
    for key in ("precision", "recall"):
        assert (found.eval[key] == expected.eval[key]).all() and set(found.stats[:6]) <= {0, -1}
    assert (found.eval["precision"][:, :, -1] == -1).all()
    assert (found.eval["precision"][:, :, 0, 0] == 0).all()


def test_the_libraries_are_what_is_there(library: str) -> None:
    truth = COCO()
    truth.dataset = {"images": [{"id": 1, "height": 4, "width": 6}], "categories": [{"id": 3}]}
    bases = {c.__module__.split(".")[0] for c in coco_fast.evaluation_class(truth).__mro__}
    assert ("faster_coco_eval" in bases) == (library == "faster-coco-eval")
    assert ("detectron2" in bases) == (library == "compiled")


def test_the_official_one_is_used_where_it_is_asked_for(
    predictions: List[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(
        "seg_every_thing.evaluation.coco_fast.evaluation_class", lambda _: used.append(1)
    )
    evaluator = PartialCOCOEvaluator(DATA, tasks=("bbox",), use_fast_impl=False)
    assert metrics_of(evaluator, predictions)["bbox"]["AP"] > 1 and not used
    with pytest.raises(TypeError):  # what the class above leads to
        metrics_of(PartialCOCOEvaluator(DATA, tasks=("bbox",)), predictions)
    assert used
    # detectron2's own evaluators are as they were.
    assert coco_evaluation._evaluate_predictions_on_coco.__module__.startswith("detectron2")


def test_results_stay_as_they_are(predictions: List[Any]) -> None:
    truth = COCO(MetadataCatalog.get(DATA).json_file)
    results = [{**r, "category_id": r["category_id"] + 1} for r in predictions[0]["instances"]]
    before = copy.deepcopy(results)
    evaluate_results(truth, results, "segm")
    assert results == before
    index = results_index(truth, results, "segm")
    assert index.anns[2]["area"] == mask_util.area(results[1]["segmentation"])
    assert index.getAnnIds(imgIds=[1], catIds=[results[1]["category_id"]])
    boxes = results_index(truth, results, "bbox").anns
    assert boxes[2]["area"] == results[1]["bbox"][2] * results[1]["bbox"][3]


def test_an_image_that_is_not_in_the_ground_truth(predictions: List[Any]) -> None:
    predictions[1]["instances"][0]["image_id"] = 99
    with pytest.raises(ValueError, match="results on image 99, which is not in the ground truth"):
        metrics_of(PartialCOCOEvaluator(DATA, tasks=("bbox",)), predictions)
