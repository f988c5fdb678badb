"""Data sets in which some objects have masks: loading them without a loss, and what they teach."""

import logging
from typing import Any, Dict, List, Optional, Tuple

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
)

from .catalog import (
    check_data_set,
    checked_loading,
    class_names_of,
    training_use,
    valid_annotations,
)
from .data_report import DataReport
from .splits import resolve_class_split
from .supervision import log_supervision

logger = logging.getLogger(__name__)


def set_a_of(cfg: CfgNode) -> Optional[Tuple[int, ...]]:
    """Contiguous ids of the classes that may use their masks; None when all may."""
    if cfg.DATASETS.MASK_CLASSES == "all":
        return None
    names = class_names_of((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)[0])
    return resolve_class_split(cfg.DATASETS.MASK_CLASSES, names).set_a


def load_training_dicts(
    cfg: CfgNode, reports: Optional[List[DataReport]] = None
) -> List[Dict[str, Any]]:
    """The training images of a config, with every box that their files hold.

    detectron2's COCO loader throws an object away, box and all, when its polygons are invalid; here
    such an object stays as a box-only one.  The log says what of the annotations is used, and at
    the end what gives masks.

    Args:
        cfg: a config with :func:`add_seg_every_thing_config`.
        reports: gets the reports of the data sets.

    Raises:
        FileNotFoundError: when an annotation file is missing.
        ValueError: for an unregistered data set, a broken annotation file, unusable annotations
            (unless ``DATASETS.ON_BAD_ANNOTATION`` sets them aside), no images, or no masks where
            they alone would train.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: name a registered data set to train on")
    for name in cfg.DATASETS.TRAIN:
        check_data_set(name)
    with valid_annotations(cfg.DATASETS.TRAIN), checked_loading(training_use(cfg)) as found:
        dicts = get_detection_dataset_dicts(
            cfg.DATASETS.TRAIN,
            filter_empty=False,
            proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
        )
    if reports is not None:
        reports.extend(found)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        dicts = filter_images_with_only_crowd_annotations(dicts)
    if cfg.MODEL.KEYPOINT_ON and cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE > 0:
        dicts = filter_images_with_few_keypoints(
            dicts, cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        )
    if not dicts:
        raise ValueError(f"the data sets {cfg.DATASETS.TRAIN} hold no image with an object")
    if cfg.MODEL.MASK_ON:
        names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes") or ()
        alone = not (cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.ENABLED or cfg.DATASETS.PSEUDO_MASKS)
        split = cfg.DATASETS.MASK_CLASSES
        masks = log_supervision(dicts, set_a_of(cfg), split, names, masks_alone=alone)
        without_boxes = cfg.MODEL.FREEZE_DETECTOR or cfg.MODEL.META_ARCHITECTURE == "BoxToMask"
        if alone and without_boxes and not masks:
            raise ValueError(
                f"no object of {', '.join(cfg.DATASETS.TRAIN)} gives a mask (DATASETS.MASK_CLASSES "
                f"'{cfg.DATASETS.MASK_CLASSES}'), and nothing else is trained: give objects of set "
                f"A masks, or train on their boxes with MODEL.ROI_MASK_HEAD.BOX_LOSS.ENABLED True"
            )
    return dicts
