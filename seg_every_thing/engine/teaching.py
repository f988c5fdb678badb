"""A model as a teacher: its masks for training objects that have a box and no mask."""

import datetime
import logging
from typing import Any, Dict, List, Optional

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.utils.logger import log_every_n_seconds
from torch import nn

from ..data.catalog import class_names_of
from ..data.dataset_mapper import PartialSupervisionMapper
from ..data.partial import load_training_dicts, set_a_of
from ..data.pseudo_masks import BoxOnlyObjects, PseudoMasks, box_only_objects, write_pseudo_masks
from ..evaluation.given_boxes import ImageObjects
from ..files import PathLike
from ..modeling.crf_refinement import refine_masks
from ..modeling.mask_geometry import EnlargedROIMasks, cropped_to_box
from ..modeling.mean_field import MeanField

logger = logging.getLogger(__name__)


def write_taught_masks(
    cfg: CfgNode, model: nn.Module, folder: PathLike, teacher: Dict[str, Any]
) -> PseudoMasks:
    """Let a model predict the masks of the objects of ``DATASETS.TRAIN`` that have none to use.

    Those are objects without a mask and those of classes outside ``DATASETS.MASK_CLASSES``; crowds
    are left out.  The masks are predicted at the objects' boxes, in images as large as in tests.

    Args:
        cfg: of the model; ``DATASETS``, ``INPUT`` and ``TEST.IMS_PER_BATCH`` count.
        model: with the ``inference`` of ``GeneralizedRCNN``; its mode is as before afterwards.
        folder: gets the pseudo-masks, to be named by a student's ``DATASETS.PSEUDO_MASKS``.
        teacher: what the files say of the model, plain values.

    Raises:
        ValueError: for data sets that are broken, or in which no object lacks a mask.
        OSError: when the folder cannot be written.
    """
    records, objects = objects_to_teach(cfg)
    loader = build_detection_test_loader(
        records,
        mapper=PartialSupervisionMapper(cfg, is_train=False),
        batch_size=cfg.TEST.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    refine = cfg.MODEL.ROI_MASK_HEAD.PSEUDO_LOSS.CRF and not cfg.TEST.CRF
    mean_field = MeanField(cfg) if refine else None
    was_training, taught, done = model.training, [], 0
    model.eval()
    for batch in loader:
        taught += masks_on_boxes(model, batch, objects[done : done + len(batch)], mean_field)
        done += len(batch)
        log_every_n_seconds(logging.INFO, f"Pseudo-masks of {done} of {len(records)} images", n=30)
    model.train(was_training)
    provenance = {
        "teacher": teacher,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "confidence": cfg.MODEL.ROI_MASK_HEAD.PSEUDO_LOSS.CONFIDENCE,
        "config": cfg.dump(),
    }
    names = class_names_of(cfg.DATASETS.TRAIN[0])
    written = write_pseudo_masks(
        folder, records, objects, np.concatenate(taught), names, provenance
    )
    logger.info("Pseudo-masks of %d objects: %s", len(written), folder)
    return written


def objects_to_teach(cfg: CfgNode) -> Any:
    """The images of ``DATASETS.TRAIN`` with objects that have no mask to use, and these objects.

    Raises:
        ValueError: when there are none.
    """
    set_a = set_a_of(cfg)
    pairs = [(record, box_only_objects(record, set_a)) for record in load_training_dicts(cfg)]
    pairs = [(record, x) for record, x in pairs if len(x.classes)]
    if not pairs:
        raise ValueError(
            f"self-training: every object of {cfg.DATASETS.TRAIN} has a mask that may be used "
            f"(DATASETS.MASK_CLASSES '{cfg.DATASETS.MASK_CLASSES}'): there is nothing to teach"
        )
    return [record for record, _ in pairs], [x for _, x in pairs]


@torch.no_grad()
def masks_on_boxes(
    model: nn.Module,
    batch: List[Dict[str, Any]],
    objects: List[BoxOnlyObjects],
    mean_field: Optional[MeanField] = None,
) -> List[np.ndarray]:
    """A model's masks of objects, for each image of a batch (n, M, M) uint8 on their boxes.

    ``mean_field`` refines them, where it is given.
    """
    given = [
        ImageObjects(boxes, classes, []).as_detections(
            (x["height"], x["width"]), x["image"].shape[-2:]
        )
        for x, (boxes, classes) in zip(batch, objects)
    ]
    found = model.inference(batch, detected_instances=given, do_postprocess=False)
    masks = []
    for sample, x in zip(batch, found):
        if mean_field is not None:
            refine_masks(mean_field, sample["image"], x)
        on_boxes = x.pred_masks
        if isinstance(on_boxes, EnlargedROIMasks):
            on_boxes = cropped_to_box(on_boxes.tensor[:, None], on_boxes.scale)
        masks.append((on_boxes[:, 0].float() * 255).round().byte().cpu().numpy())
    return masks
