"""How good masks are when the boxes are right: IoU of each object at its ground-truth box."""

import itertools
import logging
import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils import comm
from tabulate import tabulate

from ..data.boxes import EMPTY_BOX
from ..data.catalog import Use, check_data_set, checked_loading, valid_annotations
from ..data.data_report import DROPPED, EVALUATION
from ..data.segmentations import usable_segmentation
from ..files import write_json
from .coco import ABSENT, PartialCOCOEvaluator, counted_results
from .mask_iou import mask_and_boundary_iou

logger = logging.getLogger(__name__)

GIVEN_INDEX = "given_index"
"""Field of predicted instances: the place of each one's box among those that were given."""

_SIZES = {"": (0, np.inf), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, np.inf)}


class ImageObjects(NamedTuple):
    """The objects of an image that are neither crowds nor without a mask."""

    boxes: np.ndarray  # (n, 4) x0, y0, x1, y1 in pixels of the image file
    classes: np.ndarray  # (n,)
    masks: List[Dict[str, Any]]  # n RLEs

    def as_detections(self, size: Sequence[int], image_size: Sequence[int]) -> Instances:
        """The boxes as if a detector had found them, with score 1.

        Args:
            size: height and width of the image file.
            image_size: height and width of the image that a model sees.
        """
        instances = Instances((int(image_size[0]), int(image_size[1])))
        instances.pred_boxes = Boxes(torch.from_numpy(self.boxes).float())
        instances.pred_boxes.scale(image_size[1] / size[1], image_size[0] / size[0])
        instances.pred_classes = torch.from_numpy(self.classes)
        instances.scores = torch.ones(len(self.boxes))
        instances.set(GIVEN_INDEX, torch.arange(len(self.boxes)))
        return instances


def objects_with_masks(
    dataset_name: str, on_bad_annotation: str = "error"
) -> Dict[Any, ImageObjects]:
    """The objects of a data set whose masks can be compared with, by image id.

    Crowds, objects without a mask, and boxes without an area are left out, and the log counts them.

    Args:
        dataset_name: a registered data set.
        on_bad_annotation: as ``DATASETS.ON_BAD_ANNOTATION``.

    Raises:
        ValueError: for a data set that is not registered, or broken.
        FileNotFoundError: when its annotation file is missing.
    """
    check_data_set(dataset_name)
    counts = dict.fromkeys(("objects", "crowds", "without a mask"), 0)
    found = {}
    use = Use(EVALUATION, on_bad=on_bad_annotation)
    with valid_annotations([dataset_name]), checked_loading(use) as reports:
        for record in DatasetCatalog.get(dataset_name):
            size = record["height"], record["width"]
            boxes, classes, masks = [], [], []
            for annotation in record.get("annotations", ()):
                box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
                mask = _rle(usable_segmentation(annotation.get("segmentation"), size), size)
                if annotation.get("iscrowd", 0):
                    counts["crowds"] += 1
                elif not mask:
                    counts["without a mask"] += 1
                else:
                    counts["objects"] += 1
                    boxes.append(box)
                    classes.append(annotation["category_id"])
                    masks.append(mask)
            found[record["image_id"]] = ImageObjects(
                np.asarray(boxes, dtype=float).reshape(-1, 4),
                np.asarray(classes, dtype=np.int64),
                masks,
            )
    logger.info(
        "%s: masks at the boxes of %d objects; %d crowds, %d objects without a mask and %d boxes "
        "without an area are left out",
        *(dataset_name, *counts.values(), sum(r.number(DROPPED, EMPTY_BOX) for r in reports)),
    )
    return found


def _rle(segmentation: Any, size: Sequence[int]) -> Dict[str, Any]:
    if isinstance(segmentation, dict) or not segmentation:
        return segmentation
    return mask_util.merge(mask_util.frPyObjects(segmentation, *size))


class GivenBoxEvaluator(DatasetEvaluator):
    """Masks of ground-truth boxes against ground-truth masks, object by object.

    Every object with a mask counts once, whatever its class: ``mIoU``, the mean mask IoU; ``IoU50``
    and ``IoU75``, the shares of objects over 0.5 and 0.75; ``boundary_IoU``, the mean Boundary IoU;
    ``mIoUs``, ``mIoUm`` and ``mIoUl``, the mean IoU of small, medium and large objects (COCO's
    areas).  Beside them COCO's mask AP of these masks as detections of score 1: ``AP``, ``AP50``
    and so on.  All of them also as ``..._A`` and ``..._B``, all in percent, :data:`ABSENT` where
    there is no object.  Results also go to ``metrics.json`` in the output folder.

    Only numbers are kept of an image, and its masks as RLE for AP.
    """

    def __init__(
        self,
        dataset_name: str,
        *,
        class_split: str = "all",
        output_dir: Optional[str] = None,
        distributed: bool = True,
        name: str = "given",
        key: str = "instances",
        objects: Optional[Dict[Any, ImageObjects]] = None,
        on_bad_annotation: str = "error",
    ) -> None:
        """
        Args:
            dataset_name: a registered data set in COCO format.
            class_split: as ``DATASETS.MASK_CLASSES``; "all" = no sets to tell apart.
            output_dir: where results are written; None = nowhere.
            distributed: gather the results of all processes.
            name: of the results.
            key: of the instances in the outputs.
            objects: of :func:`objects_with_masks`, where they have been read already.
            on_bad_annotation: as ``DATASETS.ON_BAD_ANNOTATION``.

        Raises:
            ValueError: for a data set that is not registered, broken, or does not fit the split.
            FileNotFoundError: when its annotation file is missing.
        """
        if objects is None:
            objects = objects_with_masks(dataset_name, on_bad_annotation)
        self.objects = objects
        if not any(len(x.classes) for x in self.objects.values()):
            logger.warning("%s has no object with a mask to compare with", dataset_name)
        self._name, self._key = name, key
        self._output_dir = output_dir
        self._distributed = distributed
        self._coco = PartialCOCOEvaluator(
            dataset_name,
            class_split=class_split,
            on_bad_annotation=on_bad_annotation,
            tasks=("segm",),
            distributed=distributed,
            output_dir=output_dir,
            max_dets_per_image=counted_results(
                max((len(x.classes) for x in self.objects.values()), default=0)
            ),
        )
        self.reset()

    def reset(self) -> None:
        """Forget what was processed."""
        self._rows: List[List[float]] = []  # class, area, IoU, Boundary IoU of an object
        self._coco.reset()

    def process(self, inputs: List[Dict[str, Any]], outputs: List[Dict[str, Any]]) -> None:
        """
        Args:
            inputs: with "image_id".
            outputs: each with :class:`Instances` that have ``pred_masks`` (N, H, W) as large as the
                image file, :data:`GIVEN_INDEX`, and what COCO's metrics need.  An object that
                is not among them has IoU 0.

        Raises:
            ValueError: for instances that are not masks at given boxes.
        """
        results = [{"instances": x[self._key].to("cpu")} for x in outputs]
        for record, result in zip(inputs, results):
            instances = result["instances"]
            for field in (GIVEN_INDEX, "pred_masks"):
                if not instances.has(field):
                    raise ValueError(
                        f"masks at given boxes: the model's instances have no '{field}'; it needs "
                        f"MODEL.MASK_ON True, and engine.given_boxes to give it the boxes"
                    )
            objects = self.objects[record["image_id"]]
            scores = np.zeros((len(objects.masks), 2))
            for i, mask in zip(instances.get(GIVEN_INDEX).tolist(), instances.pred_masks):
                truth = mask_util.decode(objects.masks[i]).astype(bool)
                scores[i] = mask_and_boundary_iou(mask.numpy().astype(bool), truth)
            areas = [float(mask_util.area(mask)) for mask in objects.masks]
            self._rows += np.column_stack([objects.classes, areas, scores]).tolist()
        self._coco.process(inputs, results)

    def evaluate(self) -> Dict[str, Dict[str, float]]:
        """Gather and compute.

        Returns:
            ``{name: metrics}``; ``{}`` on all processes but the main one.
        """
        coco_results = self._coco.evaluate() or {}
        rows = self._rows
        if self._distributed:
            rows = list(itertools.chain(*comm.gather(rows)))
            if not comm.is_main_process():
                return {}
        metrics = object_metrics(
            np.asarray(rows, dtype=float).reshape(-1, 4), self._coco.class_sets
        )
        # Those of single classes have a "-" in their names.
        metrics.update({k: v for k, v in coco_results.get("segm", {}).items() if "-" not in k})
        self._log(metrics)
        self.write(metrics)
        return {self._name: metrics}

    def _log(self, metrics: Dict[str, float]) -> None:
        names = [name for name in metrics if not name.endswith(("_A", "_B"))]
        rows = [
            [suffix.lstrip("_") or "all", *(metrics[name + suffix] for name in names)]
            for suffix in self._coco.class_sets
        ]
        table = tabulate(rows, ["", *names], tablefmt="pipe", floatfmt=".1f")
        logger.info("Masks at given boxes (%s):\n%s", self._name, table)

    def write(self, metrics: Dict[str, float]) -> None:
        """Write metrics to ``metrics.json``, in the place of those that are there."""
        if self._output_dir:
            flat = {f"{self._name}/{k}": v for k, v in metrics.items()}
            write_json(os.path.join(self._output_dir, "metrics.json"), flat)


def object_metrics(rows: np.ndarray, class_sets: Dict[str, Sequence[int]]) -> Dict[str, float]:
    """Means over objects.

    Args:
        rows: (n, 4) class, area in pixels, IoU and Boundary IoU of each object.
        class_sets: suffix of the metrics -> class indices.

    Returns:
        Metrics by name, in percent, as :class:`GivenBoxEvaluator` describes them.
    """
    metrics = {}
    for suffix, classes in class_sets.items():
        in_set = np.isin(rows[:, 0], list(classes))
        area, iou, boundary = rows[in_set, 1:].T
        values = {"mIoU": iou, "IoU50": iou > 0.5, "IoU75": iou > 0.75, "boundary_IoU": boundary}
        for size, (smallest, limit) in _SIZES.items():
            values[f"mIoU{size}"] = iou[(area >= smallest) & (area < limit)]
        for name, x in values.items():
            metrics[name + suffix] = 100 * float(x.mean()) if x.size else ABSENT
    return metrics
