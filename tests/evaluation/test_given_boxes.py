"""Masks at ground-truth boxes: means over objects by hand, sets, sizes, ranks, what is left out."""

import json
import logging
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from conftest import HEIGHT, WIDTH, MakeDataset, box_mask
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Instances
from detectron2.utils import comm
from evaluating import BOX_ONLY, WITH_MASK, annotate

from seg_every_thing import GivenBoxEvaluator
from seg_every_thing.evaluation.coco import ABSENT
from seg_every_thing.evaluation.given_boxes import (
    GIVEN_INDEX,
    object_metrics,
    objects_with_masks,
)
from seg_every_thing.evaluation.mask_iou import mask_and_boundary_iou

Box = Sequence[int]

OWN = ("mIoU", "IoU50", "IoU75", "boundary_IoU", "mIoUs", "mIoUm", "mIoUl")
COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def outputs_of(
    evaluator: GivenBoxEvaluator, image_id: int, masks: Dict[int, Box], key: str = "instances"
) -> Dict[str, Instances]:
    """Predicted masks, each a box, by the place of the object; objects may be missing."""
    objects = evaluator.objects[image_id]
    given = objects.as_detections((HEIGHT, WIDTH), (HEIGHT, WIDTH))[list(masks)]
    stacked = np.array([box_mask(box) for box in masks.values()]).reshape(-1, HEIGHT, WIDTH)
    given.pred_masks = torch.from_numpy(stacked).bool()
    return {key: given}


def run(evaluator: GivenBoxEvaluator, images: List[Dict[int, Box]], **kwargs: Any) -> Any:
    evaluator.reset()
    for image_id, masks in enumerate(images, start=1):
        output = outputs_of(evaluator, image_id, masks, **kwargs)
        evaluator.process([{"image_id": image_id}], [output])
    return evaluator.evaluate()


def test_metrics_by_hand(make_dataset: MakeDataset, tmp_path: Path) -> None:
    """Two cups (set A) and a dog (set B)."""
    (tmp_path / "a.txt").write_text("cup")
    dataset = make_dataset(
        [
            [annotate((0, 0, 20, 20)), annotate((40, 0, 20, 40), category_id=3)],
            [annotate((0, 0, 40, 40))],
        ]
    )
    evaluator = GivenBoxEvaluator(
        dataset, class_split=str(tmp_path / "a.txt"), output_dir=str(tmp_path / "out")
    )
    # IoU 3/4, 1/4, and 4/5: not over 0.75, under 0.5, over 0.75.
    results = run(evaluator, [{0: (0, 0, 20, 15), 1: (40, 0, 20, 10)}, {0: (0, 0, 40, 32)}])
    metrics = results["given"]
    expected = {
        **{"mIoU": 60, "mIoU_A": 77.5, "mIoU_B": 25},
        **{"IoU50": 200 / 3, "IoU50_A": 100, "IoU50_B": 0},
        **{"IoU75": 100 / 3, "IoU75_A": 50, "IoU75_B": 0},
        # 400 and 800 pixels are small, 1600 are medium.
        **{"mIoUs": 50, "mIoUs_A": 75, "mIoUs_B": 25, "mIoUm": 80, "mIoUm_A": 80},
        **{"mIoUm_B": ABSENT, "mIoUl": ABSENT, "mIoUl_A": ABSENT, "mIoUl_B": ABSENT},
    }
    assert {k: metrics[k] for k in expected} == pytest.approx(expected)
    pairs = (
        ((0, 0, 20, 15), (0, 0, 20, 20)),
        ((40, 0, 20, 10), (40, 0, 20, 40)),
        ((0, 0, 40, 32), (0, 0, 40, 40)),
    )
    edges = [mask_and_boundary_iou(*(box_mask(b).astype(bool) for b in p))[1] for p in pairs]
    assert metrics["boundary_IoU"] == pytest.approx(100 * np.mean(edges))
    assert metrics["boundary_IoU_A"] == pytest.approx(50 * (edges[0] + edges[2]))
    # COCO counts a cup of IoU 0.75 at six of ten thresholds, one of 0.8 at seven.
    assert metrics["AP_B"] == 0 and metrics["AP50_A"] == pytest.approx(100)
    assert 50 < metrics["AP_A"] < 70
    sets = {name + suffix for name in OWN + COCO for suffix in ("", "_A", "_B")}
    assert metrics.keys() == sets and all(type(v) is float for v in metrics.values())
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written == {f"given/{k}": v for k, v in metrics.items()}


def test_without_a_split_there_are_no_sets(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([[annotate(WITH_MASK)]])
    results = run(GivenBoxEvaluator(dataset), [{0: WITH_MASK}])
    assert results["given"].keys() == {*OWN, *COCO}
    assert results["given"]["mIoU"] == results["given"]["AP"] == pytest.approx(100)


def test_name_and_key(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset([[annotate(WITH_MASK)]])
    evaluator = GivenBoxEvaluator(dataset, name="x", key="other", output_dir=str(tmp_path))
    results = run(evaluator, [{0: WITH_MASK}], key="other")
    assert results.keys() == {"x"} and results["x"]["mIoU"] == 100
    assert "x/mIoU" in json.loads((tmp_path / "metrics.json").read_text())


def test_only_objects_with_masks_are_given(
    mixed_dataset: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Polygons, RLE and uncompressed RLE; crowds and box-only objects are counted, not given."""
    with caplog.at_level(logging.INFO):
        objects = objects_with_masks(mixed_dataset)
    assert {k: x.boxes.tolist() for k, x in objects.items()} == {
        1: [[4, 6, 24, 30], [34, 6, 56, 30], [64, 6, 88, 30]],
        2: [],
        3: [],
        4: [[4, 6, 24, 30]],
    }
    assert objects[1].classes.tolist() == [0, 1, 2]
    assert "4 objects; 2 crowds, 3 objects without a mask and 0 boxes without an" in caplog.text
    boxes = {0: (4, 6, 20, 24), 1: (34, 6, 22, 24), 2: (64, 6, 24, 24)}
    metrics = run(GivenBoxEvaluator(mixed_dataset), [boxes, {}, {}, {0: boxes[0]}])["given"]
    assert metrics["mIoU"] == metrics["AP"] == pytest.approx(100)


def test_a_box_without_area_is_not_given(
    make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    flat = {**annotate(WITH_MASK), "bbox": [10, 10, 0, 30]}
    dataset = make_dataset([[flat, annotate(WITH_MASK)]])
    with caplog.at_level(logging.INFO):
        assert len(objects_with_masks(dataset)[1].masks) == 1
    assert "and 1 boxes without an area are left out" in caplog.text


def test_detections_lie_on_the_image_of_the_model(make_dataset: MakeDataset) -> None:
    objects = objects_with_masks(make_dataset([[annotate((10, 20, 30, 40), category_id=7)]]))[1]
    given = objects.as_detections((HEIGHT, WIDTH), (HEIGHT // 2, WIDTH * 2))
    assert given.image_size == (HEIGHT // 2, WIDTH * 2)
    assert given.pred_boxes.tensor.tolist() == [[20, 10, 80, 30]]
    assert given.pred_classes.tolist() == [2] and given.scores.tolist() == [1]
    assert given.get(GIVEN_INDEX).tolist() == [0]


def test_a_missing_prediction_counts_as_zero(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([[annotate(WITH_MASK), annotate(BOX_ONLY)]])
    metrics = run(GivenBoxEvaluator(dataset), [{1: BOX_ONLY}])["given"]
    assert metrics["mIoU"] == metrics["boundary_IoU"] == metrics["IoU50"] == pytest.approx(50)


def test_order_of_predictions_does_not_matter(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([[annotate(WITH_MASK), annotate(BOX_ONLY, category_id=3)]])
    metrics = run(GivenBoxEvaluator(dataset), [{1: BOX_ONLY, 0: WITH_MASK}])["given"]
    assert metrics["mIoU"] == metrics["AP"] == pytest.approx(100)


def test_nothing_to_compare_with(
    make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset([[annotate(BOX_ONLY, False)], []])
    metrics = run(GivenBoxEvaluator(dataset), [{}, {}])["given"]
    assert {k: metrics[k] for k in OWN} == dict.fromkeys(OWN, ABSENT)
    assert "has no object with a mask" in caplog.text
    assert GivenBoxEvaluator(dataset).evaluate()["given"]["mIoU"] == ABSENT  # no image seen


def test_evaluating_twice_gives_the_same(make_dataset: MakeDataset) -> None:
    evaluator = GivenBoxEvaluator(make_dataset([[annotate(WITH_MASK)]]))
    assert run(evaluator, [{0: (10, 10, 30, 15)}]) == run(evaluator, [{0: (10, 10, 30, 15)}])


def test_ranks_are_gathered(make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two ranks has seen one of two images."""
    dataset = make_dataset([[annotate(WITH_MASK)], [annotate(BOX_ONLY), annotate(WITH_MASK)]])
    masks = [{0: (10, 10, 30, 15)}, {0: BOX_ONLY, 1: WITH_MASK}]
    expected = run(GivenBoxEvaluator(dataset), masks)
    ranks = [GivenBoxEvaluator(dataset) for _ in masks]
    for i, evaluator in enumerate(ranks):
        evaluator.process([{"image_id": i + 1}], [outputs_of(evaluator, i + 1, masks[i])])
    mine, theirs = ranks

    def gather(data: Any, dst: int = 0) -> List[Any]:
        return [
            data,
            theirs._coco._predictions if data is mine._coco._predictions else theirs._rows,
        ]

    monkeypatch.setattr(comm, "gather", gather)
    assert mine.evaluate() == expected
    assert expected["given"]["mIoU"] == pytest.approx(250 / 3)
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: [])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert theirs.evaluate() == {}
    monkeypatch.setattr(comm, "gather", lambda data, dst=0: pytest.fail("nobody asked for this"))
    alone = GivenBoxEvaluator(dataset, distributed=False)
    alone.process([{"image_id": 1}], [outputs_of(alone, 1, masks[0])])
    assert alone.evaluate()["given"]["mIoU"] == pytest.approx(50)


@pytest.mark.parametrize("field", [GIVEN_INDEX, "pred_masks"])
def test_outputs_that_are_no_masks_at_given_boxes(make_dataset: MakeDataset, field: str) -> None:
    evaluator = GivenBoxEvaluator(make_dataset([[annotate(WITH_MASK)]]))
    output = outputs_of(evaluator, 1, {0: WITH_MASK})
    output["instances"].remove(field)
    with pytest.raises(ValueError, match=f"no '{field}'"):
        evaluator.process([{"image_id": 1}], [output])


def test_broken_file_is_named(make_dataset: MakeDataset) -> None:
    bad = {**annotate(WITH_MASK), "segmentation": {"size": [9, 9], "counts": [81]}}
    dataset = make_dataset([[bad]])
    with pytest.raises(ValueError, match="broken annotation file.*9 x 9") as e:
        objects_with_masks(dataset)
    assert MetadataCatalog.get(dataset).json_file in str(e.value)
    with pytest.raises(ValueError, match="not registered"):
        GivenBoxEvaluator("no_such_data_set")


def test_means_of_sets() -> None:
    rows = np.array([[0, 100, 0.5, 0.2], [2, 2000, 0.76, 0.4], [2, 10000, 0.9, 0.6]])
    metrics = object_metrics(rows, {"": [0, 1, 2], "_A": [2], "_B": [1]})
    assert metrics["mIoU"] == pytest.approx(72) and metrics["mIoU_A"] == pytest.approx(83)
    assert metrics["IoU50"] == pytest.approx(200 / 3)  # 0.5 is not over 0.5
    assert metrics["IoU75_A"] == 100 and metrics["boundary_IoU_A"] == pytest.approx(50)
    assert [metrics[f"mIoU{s}_A"] for s in "sml"] == pytest.approx([ABSENT, 76, 90])
    assert {metrics[k] for k in metrics if k.endswith("_B")} == {ABSENT}


def test_real_coco(coco_root: Path) -> None:
    """The ground truth itself: all of it is right."""
    evaluator = GivenBoxEvaluator("coco_2017_val", class_split="voc")
    for record in DatasetCatalog.get("coco_2017_val")[:20]:
        size = record["height"], record["width"]
        objects = evaluator.objects[record["image_id"]]
        given = objects.as_detections(size, size)
        masks = [torch.from_numpy(mask_util.decode(m)) for m in objects.masks]
        given.pred_masks = torch.stack(masks).bool() if masks else torch.zeros(0, *size).bool()
        evaluator.process([{"image_id": record["image_id"]}], [{"instances": given}])
    metrics = evaluator.evaluate()["given"]
    for name in ("mIoU", "IoU50", "IoU75", "boundary_IoU"):
        assert metrics[name] == metrics[f"{name}_A"] == metrics[f"{name}_B"] == 100
