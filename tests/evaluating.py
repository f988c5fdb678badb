"""Ground truth and predictions for the tests of the evaluation."""

import json
import math
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from conftest import HEIGHT, WIDTH, Annotation, box_mask, box_polygon
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from seg_every_thing import PartialCOCOEvaluator

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
WITH_MASK = (10, 10, 30, 30)
BOX_ONLY = (50, 40, 40, 36)


def instances_of(predictions: Sequence[Dict[str, Any]], size: Sequence[int]) -> Instances:
    """Predictions in COCO's format, with contiguous classes, as the model would give them."""
    instances = Instances(tuple(size))
    boxes = np.array([p["bbox"] for p in predictions], float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances.pred_boxes = Boxes(torch.tensor(boxes))
    instances.scores = torch.tensor([p["score"] for p in predictions], dtype=torch.float64)
    instances.pred_classes = torch.tensor([p["category_id"] for p in predictions]).long()
    if all("segmentation" in p for p in predictions):
        masks = [mask_util.decode(p["segmentation"]) for p in predictions]
        stacked = np.stack(masks) if masks else np.zeros((0, *size))
        instances.pred_masks = torch.from_numpy(stacked).bool()
    return instances


def run(evaluator: COCOEvaluator, images: Dict[int, Instances]) -> Dict[str, Dict[str, float]]:
    evaluator.reset()
    for image_id, instances in images.items():
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    return evaluator.evaluate()


def check_finite_and_written(results: Dict[str, Dict[str, float]], output_dir: Path) -> None:
    flat = {f"{task}/{name}": v for task, metrics in results.items() for name, v in metrics.items()}
    assert flat and all(math.isfinite(v) for v in flat.values())
    assert json.loads((output_dir / "metrics.json").read_text()) == flat


def predict(box: Sequence[int], score: float, category: int = 0) -> Dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(box_mask(box)))
    return {"bbox": list(box), "segmentation": rle, "score": score, "category_id": category}


def evaluate(
    dataset: str,
    predictions: Sequence[Sequence[Dict[str, Any]]],
    output_dir: Optional[Path] = None,
    **kwargs: Any,
) -> Dict[str, Dict[str, float]]:
    images = {i + 1: instances_of(p, (HEIGHT, WIDTH)) for i, p in enumerate(predictions)}
    kwargs.setdefault("tasks", ("bbox", "segm"))
    output = None if output_dir is None else str(output_dir)
    return run(PartialCOCOEvaluator(dataset, output_dir=output, **kwargs), images)


def annotate(box: Sequence[int], with_mask: bool = True, category_id: int = 1) -> Annotation:
    mask = {"segmentation": box_polygon(box)} if with_mask else {}
    return {"bbox": list(box), "category_id": category_id, **mask}
