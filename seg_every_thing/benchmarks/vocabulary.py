"""Memory of a whole model, in training and at test time, with 80 and with thousands of classes."""

import logging
from functools import partial
from typing import Any, Dict, List, Sequence

import detectron2
import numpy as np
import torch
from detectron2.engine import DefaultTrainer
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from .. import __version__
from ..config import load_config
from ..engine.trainer import Trainer
from .measuring import FreshProcess, OutOfMemoryError, peak_allocated, processor_name

logger = logging.getLogger(__name__)

NUM_CLASSES = (80, 3001)
CONFIG = "visual_genome/stage_two_R_50_FPN.yaml"

_SIZE = (480, 640)  # height and width of the image
_OBJECTS = 8


class WholeModel:
    """A config's model with random weights, for one training step and one inference."""

    def __init__(self, config: str, num_classes: int, options: Sequence[str]) -> None:
        """
        Args:
            config: config file with ``MODEL.FREEZE_DETECTOR``.
            num_classes: K.
            options: KEY, VALUE, ... on top.
        """
        cfg = load_config(config, ["MODEL.WEIGHTS", ""])
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
        cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 1.0  # as many detections as there can be
        cfg.merge_from_list(list(options))
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.model = Trainer.build_model(cfg)
        predictor = self.model.roi_heads.box_predictor
        with torch.no_grad():
            # Random weights find nothing; let every anchor be a box of COCO's last class.
            predictor.cls_score.weight.zero_()
            predictor.bbox_pred.weight.zero_()
            self.model.proposal_generator.rpn_head.anchor_deltas.weight.zero_()
            predictor.cls_score.bias[79] = 20.0
        self.optimizer = DefaultTrainer.build_optimizer(cfg, self.model)
        self.sample = _sample(num_classes)

    def measure(self) -> Dict[str, int]:
        """Bytes by name: ``trained`` (what learns), ``detector_layers`` (what K makes larger),
        ``step`` and ``inference`` (peaks on top of all weights), ``detector`` (inference without
        the mask branch), and how many ``detections`` got a mask."""
        predictor = self.model.roi_heads.box_predictor
        found: Dict[str, int] = {
            "trained": _bytes_of(p for p in self.model.parameters() if p.requires_grad),
            "detector_layers": _bytes_of(predictor.parameters()),
        }
        self.model.train()
        found["step"] = peak_allocated(self._step, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()
        found["detections"] = len(self._infer()[0]["instances"])
        self.model.train()  # drops what T has computed, so that the peak includes T
        self.model.eval()
        found["inference"] = peak_allocated(self._infer, self.device)
        self.model.roi_heads.mask_on = False
        found["detector"] = peak_allocated(self._infer, self.device)
        return found

    def _step(self) -> None:
        with EventStorage():
            losses = self.model([self.sample])
        sum(losses.values()).backward()
        self.optimizer.step()

    def _infer(self) -> Any:
        with torch.no_grad():
            return self.model([{"image": self.sample["image"]}])


def _bytes_of(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)


def _sample(num_classes: int) -> Dict[str, Any]:
    """A noise image with objects of COCO's classes that all have masks."""
    rng = np.random.default_rng(0)
    height, width = _SIZE
    instances = Instances(_SIZE)
    masks = torch.zeros(_OBJECTS, height, width, dtype=torch.bool)
    boxes: List[List[float]] = []
    for i in range(_OBJECTS):
        x, y = 60 * i, 40 * i
        masks[i, y : y + 120, x : x + 120] = True
        boxes.append([x, y, x + 120, y + 120])
    instances.gt_boxes = Boxes(torch.tensor(boxes))
    instances.gt_classes = torch.arange(_OBJECTS) % num_classes
    instances.gt_masks = BitMasks(masks)
    instances.gt_has_mask = torch.ones(_OBJECTS, dtype=torch.bool)
    image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
    return {"image": image, "instances": instances}


def benchmark_vocabulary(
    num_classes: Sequence[int] = NUM_CLASSES,
    *,
    config: str = CONFIG,
    options: Sequence[str] = (),
) -> Dict[str, Any]:
    """Peak memory of one training step and of one inference, for each number of classes.

    Every number of classes has a process of its own.

    Args:
        num_classes: numbers of classes K, of 80 or more.
        config: config file with ``MODEL.FREEZE_DETECTOR``.
        options: KEY, VALUE, ... on top.

    Returns:
        ``{"rows", "versions", "processor", "threads"}``.  A row has ``name`` ("training step" or
        "inference"), ``num_classes``, ``peak_bytes`` (on top of the model's weights) and
        ``detector_layers_bytes`` (the weights that grow with K, which are the detector's own);
        "inference" also ``detector_peak_bytes`` (without the mask branch) and ``detections``; or
        ``skipped``, why nothing was measured.

    Raises:
        ValueError: for fewer than 80 classes.
    """
    if not num_classes or min(num_classes) < 80:
        raise ValueError(f"the vocabulary benchmark needs 80 classes or more, got {num_classes}")
    rows: List[Dict[str, Any]] = []
    for k in num_classes:
        logger.info("%d classes: measuring", k)
        process = FreshProcess(partial(WholeModel, config, k, [str(x) for x in options]))
        try:
            found = process.ask("measure")
        except OutOfMemoryError as e:
            rows.append({"name": "training step", "num_classes": k, "skipped": str(e)})
            continue
        finally:
            process.close()
        common = {"num_classes": k, "detector_layers_bytes": found["detector_layers"]}
        rows.append({"name": "training step", "peak_bytes": found["step"], **common})
        rows.append(
            {
                "name": "inference",
                "peak_bytes": found["inference"],
                "detector_peak_bytes": found["detector"],
                "detections": found["detections"],
                **common,
            }
        )
    return {
        "rows": sorted(rows, key=lambda row: row["name"], reverse=True),
        "versions": {
            "torch": torch.__version__,
            "detectron2": detectron2.__version__,
            "seg_every_thing": __version__,
        },
        "processor": processor_name("cpu"),
        "threads": torch.get_num_threads(),
    }
