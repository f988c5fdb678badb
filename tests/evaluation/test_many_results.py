"""Settings of the evaluation reach it: more than 100 results an image, sigmas of keypoints."""

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from conftest import unregister
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Instances
from evaluating import instances_of, run
from pytest import approx

from seg_every_thing import PartialCOCOEvaluator, Trainer, add_seg_every_thing_config
from seg_every_thing.evaluation.coco import counted_results

DATA = "test_many_results"
WIDTH, HEIGHT, CELL = 400, 160, 10
CLASSES = ("cell", "nucleus")


def objects(per_class: int) -> List[Dict[str, Any]]:
    """Boxes of 8x8 pixels in a grid, one class after the other, each with its mask."""
    found = []
    for i in range(per_class * len(CLASSES)):
        row, column = divmod(i, WIDTH // CELL)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
        mask[row * CELL : row * CELL + 8, column * CELL : column * CELL + 8] = 1
        rle = mask_util.encode(mask)
        rle = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
        box = [column * CELL, row * CELL, 8, 8]
        found.append({"bbox": box, "category_id": i // per_class, "segmentation": rle})
    return found


def register(folder: Path, annotations: List[Dict[str, Any]], names: Any = CLASSES) -> None:
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "area": 64, "iscrowd": 0, **a, "category_id": c + 1}
            for i, a in enumerate(annotations)
            for c in [a["category_id"]]
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }
    (folder / "many.json").write_text(json.dumps(content))
    register_coco_instances(DATA, {}, str(folder / "many.json"), str(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    unregister(DATA)


def config(folder: Path, *opts: Any) -> CfgNode:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.merge_from_list(["OUTPUT_DIR", str(folder), "MODEL.MASK_ON", True, *opts])
    return cfg


def exact_predictions(annotations: List[Dict[str, Any]]) -> Instances:
    scores = np.linspace(1, 0.5, len(annotations)).tolist()
    found = [{**a, "score": s} for a, s in zip(annotations, scores)]
    return instances_of(found, (HEIGHT, WIDTH))


@pytest.mark.parametrize("limit", [300, -1])
def test_all_results_count_where_the_model_gives_more_than_100(folder: Path, limit: int) -> None:
    truth = objects(150)
    register(folder, truth)
    (folder / "a.txt").write_text("cell\n")
    options = ("TEST.DETECTIONS_PER_IMAGE", limit, "TEST.CLASS_SPLIT", str(folder / "a.txt"))
    evaluator = Trainer.build_evaluator(config(folder, *options), DATA)
    results = run(evaluator, {1: exact_predictions(truth)})
    assert results.keys() == {"bbox", "segm"}
    for metrics in results.values():
        for suffix in ("", "_A", "_B"):
            assert metrics["AP" + suffix] == approx(100)
            assert metrics["AP50" + suffix] == metrics["APs" + suffix] == approx(100)
            assert metrics["APm" + suffix] == -1
        assert metrics["AP-cell"] == metrics["AP-nucleus"] == approx(100)


def test_up_to_100_results_count_as_in_coco(folder: Path) -> None:
    truth = objects(150)
    register(folder, truth)
    found = exact_predictions(truth)
    plain = run(PartialCOCOEvaluator(DATA, tasks=("bbox", "segm")), {1: found})
    # Recall ends at 100 of 150: 67 of the 101 points of the curve, at 0, 0.01, ..., 0.66.
    assert plain["bbox"]["AP"] == approx(100 * 67 / 101)
    for limit in (20, 100):
        cfg = config(folder, "TEST.DETECTIONS_PER_IMAGE", limit)
        assert run(Trainer.build_evaluator(cfg, DATA), {1: found}) == plain


def test_what_counts() -> None:
    limits = {0: None, 1: None, 100: None, 101: 101, 300: 300}
    assert {limit: counted_results(limit) for limit in limits} == limits
    assert (counted_results(-1) or 0) >= 100_000


@pytest.mark.parametrize(("sigma", "ap"), [(0.1, 0.0), (1.0, 100.0)])
def test_keypoints_are_evaluated_with_the_sigmas_of_the_config(
    folder: Path, sigma: float, ap: float
) -> None:
    box = {"bbox": [10, 10, 8, 8], "category_id": 0}
    nowhere = {"bbox": [60, 10, 8, 8], "category_id": 0}  # no keypoints: it does not count
    register(folder, [{**box, "keypoints": [14, 14, 2], "num_keypoints": 1}, nowhere], ("cell",))
    MetadataCatalog.get(DATA).keypoint_names = ["middle"]
    cfg = config(
        *(folder, "MODEL.MASK_ON", False, "MODEL.KEYPOINT_ON", True),
        *("TEST.KEYPOINT_OKS_SIGMAS", (sigma,)),
    )
    found = instances_of([{**box, "score": 0.9}], (HEIGHT, WIDTH))
    # 3 pixels beside it; detectron2 takes half a pixel off.  With an area of 64, the similarity
    # exp(-9 / (2 * 64 * (2 sigma)^2)) is 0.17 for 0.1 and 0.98 for 1.
    found.pred_keypoints = torch.tensor([[[17.5, 14.5, 1.0]]])
    results = run(Trainer.build_evaluator(cfg, DATA), {1: found})
    assert results.keys() == {"bbox", "keypoints"}
    assert results["keypoints"]["AP"] == approx(ap)


def test_test_batches_of_detection(tiny_shapes: Path, tmp_path: Path) -> None:
    cfg = config(tmp_path, "TEST.IMS_PER_BATCH", 4, "DATALOADER.NUM_WORKERS", 0)
    assert [len(b) for b in Trainer.build_test_loader(cfg, "shapes_val")] == [4, 2]
    assert len(Trainer.build_test_loader(config(tmp_path), "shapes_val")) == 6
