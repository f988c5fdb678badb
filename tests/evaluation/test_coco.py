"""COCO metrics by set: equal to COCOeval on the set's classes, and finite whatever is missing."""

import copy
import json
import math
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import Annotation, MakeDataset, unregister
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from evaluating import (
    BOX_ONLY,
    NAMES,
    WITH_MASK,
    annotate,
    check_finite_and_written,
    evaluate,
    instances_of,
    predict,
    run,
)
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from seg_every_thing import PartialCOCOEvaluator
from seg_every_thing.data.catalog import class_names_of
from seg_every_thing.evaluation.coco import ABSENT, split_metrics

SIZE = 240
CLASSES = ("ant", "bee", "cow", "doe", "elk")
SUBSETS = ([0, 1, 2, 3, 4], [0, 2], [1, 3, 4], [3], [3, 0])  # class 3 has no ground truth


# --- split_metrics is COCOeval on fewer classes -------------------------------------------------


def ellipse_rle(box: Sequence[float]) -> Dict[str, Any]:
    x, y, w, h = box
    rows, columns = np.mgrid[:SIZE, :SIZE] + 0.5
    inside = ((columns - x - w / 2) / w) ** 2 + ((rows - y - h / 2) / h) ** 2 <= 0.25
    rle = mask_util.encode(np.asfortranarray(inside.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def random_box(rng: np.random.Generator) -> List[float]:
    w, h = np.exp(rng.uniform(np.log(8), np.log(200), 2))  # small, medium and large ones
    return [float(rng.uniform(0, SIZE - w)), float(rng.uniform(0, SIZE - h)), float(w), float(h)]


def random_ground_truth(rng: np.random.Generator) -> Dict[str, Any]:
    annotations = []
    for i in range(60):
        box = random_box(rng)
        rle = ellipse_rle(box)
        annotations.append(
            {
                "id": i + 1,
                "image_id": int(rng.integers(1, 9)),
                "category_id": 10 * int(rng.choice([0, 1, 2, 4])) + 5,
                "bbox": box,
                "segmentation": rle,
                "area": float(mask_util.area(rle)),
                "iscrowd": int(rng.random() < 0.05),
            }
        )
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": SIZE, "height": SIZE} for i in range(1, 9)
        ],
        "annotations": annotations,
        "categories": [{"id": 10 * i + 5, "name": name} for i, name in enumerate(CLASSES)],
    }


def random_predictions(
    rng: np.random.Generator, ground_truth: Dict[str, Any]
) -> List[Dict[str, Any]]:
    """Shifted objects, some of a wrong class, and some out of thin air."""
    predictions = []
    for annotation in ground_truth["annotations"]:
        scale = np.array([1, 1, 0.5, 0.5]) * annotation["bbox"][2] * 0.08
        box = (np.array(annotation["bbox"]) + rng.normal(0, scale)).clip(1, SIZE)
        right = rng.random() < 0.8
        category = annotation["category_id"] if right else 10 * int(rng.integers(5)) + 5
        predictions.append((annotation["image_id"], category, box.tolist()))
    for _ in range(25):
        category = 10 * int(rng.integers(5)) + 5
        predictions.append((int(rng.integers(1, 9)), category, random_box(rng)))
    return [
        {
            "image_id": image_id,
            "category_id": category,
            "bbox": box,
            "segmentation": ellipse_rle(box),
            "score": float(rng.random()),
        }
        for image_id, category, box in predictions
    ]


def coco_eval_of(
    content: Dict[str, Any],
    predictions: Sequence[Dict[str, Any]],
    task: str,
    category_ids: Optional[Sequence[int]] = None,
) -> COCOeval:
    ground_truth = COCO()
    ground_truth.dataset = copy.deepcopy(content)
    ground_truth.createIndex()
    predictions = copy.deepcopy(list(predictions))
    for prediction in predictions:
        if task == "segm":  # as detectron2 does: areas are those of the masks
            del prediction["bbox"]
    coco_eval = COCOeval(ground_truth, ground_truth.loadRes(predictions), task)
    if category_ids is not None:
        coco_eval.params.catIds = list(category_ids)
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    return coco_eval


def stats_in_percent(coco_eval: COCOeval) -> Dict[str, float]:
    values = [float(v) * 100 if v > -1 else ABSENT for v in coco_eval.stats[:6]]
    return dict(zip(NAMES, values))


@pytest.fixture(scope="module")
def ground_truth() -> Dict[str, Any]:
    return random_ground_truth(np.random.default_rng(1))


@pytest.fixture(scope="module")
def predictions(ground_truth: Dict[str, Any]) -> List[Dict[str, Any]]:
    return random_predictions(np.random.default_rng(2), ground_truth)


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_split_metrics_equal_a_restricted_evaluation(
    ground_truth: Dict[str, Any], predictions: List[Dict[str, Any]], task: str
) -> None:
    whole = coco_eval_of(ground_truth, predictions, task)
    for classes in SUBSETS:
        part = coco_eval_of(ground_truth, predictions, task, [10 * i + 5 for i in classes])
        expected = stats_in_percent(part)
        assert split_metrics(whole, classes) == pytest.approx(expected, abs=1e-9)
        if classes != [3]:
            assert 5 < expected["AP"] < 95 and len(set(expected.values())) > 4
    assert split_metrics(whole, [3]) == dict.fromkeys(NAMES, ABSENT)
    assert ABSENT == -1


@pytest.fixture
def random_dataset(tmp_path: Path, ground_truth: Dict[str, Any]) -> Any:
    name = "test_random_boxes"
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(ground_truth))
    register_coco_instances(name, {}, str(path), str(tmp_path))
    yield name
    unregister(name)


@pytest.mark.parametrize("use_fast_impl", [True, False])
def test_evaluator_reports_both_sets(
    random_dataset: str,
    ground_truth: Dict[str, Any],
    predictions: List[Dict[str, Any]],
    tmp_path: Path,
    use_fast_impl: bool,
) -> None:
    (tmp_path / "a.txt").write_text("ant\ncow\n")
    images = {
        i: instances_of(
            [
                {**p, "category_id": p["category_id"] // 10}
                for p in predictions
                if p["image_id"] == i
            ],
            (SIZE, SIZE),
        )
        for i in range(1, 9)
    }
    options = {"output_dir": str(tmp_path / "out"), "use_fast_impl": use_fast_impl}
    evaluator = PartialCOCOEvaluator(
        random_dataset, class_split=str(tmp_path / "a.txt"), tasks=("bbox", "segm"), **options
    )
    results = run(evaluator, images)
    stock = run(COCOEvaluator(random_dataset, tasks=("bbox", "segm"), **options), images)

    assert results.keys() == {"bbox", "segm"}
    for task, metrics in results.items():
        for suffix, ids in (("", None), ("_A", [5, 25]), ("_B", [15, 35, 45])):
            part = stats_in_percent(coco_eval_of(ground_truth, predictions, task, ids))
            reported = {name: metrics[name + suffix] for name in NAMES}
            assert reported == pytest.approx(part, abs=1e-6)
        assert metrics["AP_A"] != metrics["AP_B"]
        finite = {k: v for k, v in stock[task].items() if math.isfinite(v)}
        assert {k: metrics[k] for k in finite} == pytest.approx(finite, abs=1e-6)
        assert "AP-doe" not in metrics  # it has no ground truth
        sets = {name + suffix for name in NAMES for suffix in ("", "_A", "_B")}
        assert metrics.keys() == sets | {f"AP-{c}" for c in CLASSES if c != "doe"}
    check_finite_and_written(results, tmp_path / "out")


def test_without_a_split_there_are_no_sets(random_dataset: str) -> None:
    results = run(
        PartialCOCOEvaluator(random_dataset, tasks=("bbox",)),
        {1: instances_of([], (SIZE, SIZE))},
    )
    assert results["bbox"].keys() == {*NAMES, *(f"AP-{c}" for c in CLASSES if c != "doe")}


# --- what may be missing ------------------------------------------------------------------------


def test_area_and_iscrowd_may_be_missing(make_dataset: MakeDataset) -> None:
    # 50 x 40 = 2000 pixels: a medium object.  make_dataset writes neither key.
    dataset = make_dataset([[annotate((10, 10, 50, 40))]])
    content = json.loads(Path(MetadataCatalog.get(dataset).json_file).read_text())
    assert not {"area", "iscrowd"} & content["annotations"][0].keys()
    results = evaluate(dataset, [[predict((10, 10, 50, 40), 0.9)]])
    for metrics in results.values():
        assert metrics["AP"] == metrics["APm"] == pytest.approx(100)
        assert metrics["APs"] == metrics["APl"] == ABSENT


def test_no_large_object_is_absent_not_zero(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([[annotate(WITH_MASK)]])  # 900 pixels: small
    for metrics in evaluate(dataset, [[predict(WITH_MASK, 0.9)]]).values():
        assert metrics["APs"] == pytest.approx(100)
        assert metrics["APl"] == metrics["APm"] == ABSENT == -1


def test_keypoints_without_predictions_are_finite(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    dataset = make_dataset([[annotate(WITH_MASK)]])
    results = evaluate(dataset, [[]], tmp_path, tasks=("bbox", "keypoints"))
    check_finite_and_written(results, tmp_path)


def test_no_images_seen(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([[annotate(WITH_MASK)]])
    assert evaluate(dataset, [], tmp_path) == {}
    assert not (tmp_path / "metrics.json").exists()


def test_images_without_ground_truth(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([[], []])
    results = evaluate(dataset, [[predict(WITH_MASK, 0.9)], []], tmp_path)
    assert results["segm"] == results["bbox"] == dict.fromkeys(NAMES, ABSENT)
    check_finite_and_written(results, tmp_path)


def test_a_test_set_without_annotations(make_dataset: MakeDataset, tmp_path: Path) -> None:
    """As COCO test-dev: predictions are written, nothing is evaluated."""
    dataset = make_dataset([[]])
    path = Path(MetadataCatalog.get(dataset).json_file)
    content = json.loads(path.read_text())
    del content["annotations"]
    path.write_text(json.dumps(content))
    assert evaluate(dataset, [[predict(WITH_MASK, 0.9)]], tmp_path) == {}
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [p["category_id"] for p in written] == [1]


def test_predictions_are_written_once_with_ids_of_the_data_set(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    # "dog" is the second class, and its id is 3: it must not be mapped twice.
    dataset = make_dataset([[annotate(WITH_MASK, False, category_id=3)]])
    results = evaluate(dataset, [[predict(WITH_MASK, 0.9, category=1)]], tmp_path)
    written = json.loads((tmp_path / "coco_instances_results.json").read_text())
    assert [p["category_id"] for p in written] == [3]
    assert results["bbox"]["AP-dog"] == pytest.approx(100)


def test_evaluating_twice_gives_the_same(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([[annotate(WITH_MASK), annotate(BOX_ONLY, False)]])
    evaluator = PartialCOCOEvaluator(dataset, tasks=("segm", "bbox"))
    images = {1: instances_of([predict(WITH_MASK, 0.5), predict(BOX_ONLY, 0.9)], (80, 96))}
    first = run(evaluator, images)
    assert run(evaluator, images) == first
    assert first["segm"]["AP"] == pytest.approx(100)


def test_data_set_made_by_a_function(mixed_dataset: str, tmp_path: Path) -> None:
    """Without a JSON file: detectron2 converts the data set, objects without masks and all."""
    name = f"{mixed_dataset}_in_memory"
    DatasetCatalog.register(name, lambda: DatasetCatalog.get(mixed_dataset))
    try:
        MetadataCatalog.get(name).thing_classes = ["cup", "dog", "kite"]
        right = predict((4, 6, 20, 24), 0.9)
        results = evaluate(name, [[right]], tmp_path)
    finally:
        unregister(name)
    assert results["segm"]["AP-cup"] == pytest.approx(51 / 101 * 100)
    assert results["bbox"]["AP-cup"] == pytest.approx(34 / 101 * 100)
    check_finite_and_written(results, tmp_path)


def test_real_coco(coco_root: Path, tmp_path: Path) -> None:
    """The ground truth as the prediction is right in both sets."""
    images = {}
    for record in DatasetCatalog.get("coco_2017_val")[:25]:
        size = (record["height"], record["width"])
        guesses = []
        for a in record["annotations"]:
            if not a["iscrowd"]:
                rle = mask_util.merge(mask_util.frPyObjects(a["segmentation"], *size))
                guesses.append({**a, "segmentation": rle, "score": 0.9})
        images[record["image_id"]] = instances_of(guesses, size)
    evaluator = PartialCOCOEvaluator(
        "coco_2017_val", class_split="voc", tasks=("bbox", "segm"), output_dir=str(tmp_path)
    )
    evaluator.reset()
    for image_id, instances in images.items():
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    results = evaluator.evaluate(img_ids=sorted(images))
    for metrics in results.values():
        assert metrics["AP"] > 99 and metrics["AP_A"] > 99 and metrics["AP_B"] > 99
    check_finite_and_written(results, tmp_path)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"segmentation": [1.0, 2, 3, 4, 5, 6]}, {"bbox": None}])
def test_bad_annotation_names_the_file(make_dataset: MakeDataset, change: Annotation) -> None:
    dataset = make_dataset([[annotate(WITH_MASK)]])
    path = Path(MetadataCatalog.get(dataset).json_file)
    class_names = class_names_of(dataset)
    content = json.loads(path.read_text())
    content["annotations"][0].update(change)
    path.write_text(json.dumps(content))
    assert class_names == ["cup", "dog", "kite"]  # known already: the evaluator meets it first
    with pytest.raises(ValueError, match="annotation file") as e:
        PartialCOCOEvaluator(dataset)
    assert str(path) in str(e.value)


def test_missing_annotation_file(mixed_dataset: str) -> None:
    path = Path(MetadataCatalog.get(mixed_dataset).json_file)
    path.unlink()
    with pytest.raises(FileNotFoundError) as e:
        PartialCOCOEvaluator(mixed_dataset)
    assert str(path) in str(e.value)


def test_broken_annotation_file(mixed_dataset: str) -> None:
    path = Path(MetadataCatalog.get(mixed_dataset).json_file)
    path.write_text("{")
    with pytest.raises(ValueError) as e:
        PartialCOCOEvaluator(mixed_dataset)
    assert str(path) in str(e.value)


def test_broken_annotation_file_of_known_classes(mixed_dataset: str) -> None:
    DatasetCatalog.get(mixed_dataset)  # from now on detectron2 knows the classes
    path = Path(MetadataCatalog.get(mixed_dataset).json_file)
    path.write_text("{")
    with pytest.raises(ValueError) as e:
        PartialCOCOEvaluator(mixed_dataset)
    assert str(path) in str(e.value)


def test_unregistered_data_set() -> None:
    with pytest.raises(ValueError, match="'no_such_data' is not registered"):
        PartialCOCOEvaluator("no_such_data")


def test_split_that_does_not_fit(mixed_dataset: str) -> None:
    with pytest.raises(ValueError, match="split 'nonvoc'"):
        PartialCOCOEvaluator(mixed_dataset, class_split="nonvoc")
