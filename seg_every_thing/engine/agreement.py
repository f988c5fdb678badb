"""Whether config and data sets agree: said before the first iteration, not after the last."""

import logging
import math
from typing import Any, Dict, List, Optional, Tuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, RetinaNet, SemanticSegmentor
from detectron2.utils.file_io import PathManager

from ..data.catalog import (
    check_data_set,
    check_files,
    checked_loading,
    class_names_of,
    evaluation_use,
    valid_annotations,
)
from ..data.splits import resolve_class_split
from .config_names import check_image_format, check_sampler

logger = logging.getLogger(__name__)


def architecture_of(cfg: CfgNode) -> Any:
    """What ``MODEL.META_ARCHITECTURE`` names: a class, or a function that returns a model.

    Raises:
        ValueError: when detectron2 does not know it.
    """
    try:
        return META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    except KeyError as e:
        raise ValueError(f"MODEL.META_ARCHITECTURE: {e.args[0]}") from e


def labels_pixels(cfg: CfgNode) -> bool:
    """Whether the model of a config is one of semantic segmentation."""
    return _is(architecture_of(cfg), SemanticSegmentor)


def class_count(cfg: CfgNode) -> Optional[Tuple[str, int]]:
    """The config key that holds the number of classes, and its value.

    None for architectures of other projects, which may have a key of their own.
    """
    architecture = architecture_of(cfg)
    for kind, key, node in (
        (SemanticSegmentor, "MODEL.SEM_SEG_HEAD", cfg.MODEL.SEM_SEG_HEAD),
        (RetinaNet, "MODEL.RETINANET", cfg.MODEL.RETINANET),
        (GeneralizedRCNN, "MODEL.ROI_HEADS", cfg.MODEL.ROI_HEADS),
    ):
        if _is(architecture, kind):
            return f"{key}.NUM_CLASSES", node.NUM_CLASSES
    return None


def check_class_count(cfg: CfgNode) -> None:
    """Check that no model of a config would be without classes.

    Raises:
        ValueError: naming the key.
    """
    for head in ("ROI_HEADS", "SEM_SEG_HEAD", "RETINANET"):
        count = cfg.MODEL[head].NUM_CLASSES
        if count < 1:
            raise ValueError(f"MODEL.{head}.NUM_CLASSES is {count}, expected 1 or more")


def check_settings(cfg: CfgNode, training: bool) -> None:
    """Check what can be known before any data are read.

    Args:
        cfg: a config with :func:`add_seg_every_thing_config`.
        training: False = for evaluation alone.

    Raises:
        ValueError: for settings that cannot work, and test sets that are not registered; the
            message names the key.
        FileNotFoundError: when the annotation file or the image folder of a test set is missing.
    """
    if training:
        _check_training(cfg)
        check_sampler(cfg)
    if not training and not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name a registered data set to evaluate on")
    check_class_count(cfg)
    check_image_format(cfg)
    if cfg.TEST.GIVEN_BOXES and not cfg.MODEL.MASK_ON:
        raise ValueError("TEST.GIVEN_BOXES True needs masks: set MODEL.MASK_ON True")
    if cfg.TEST.EARLY_STOPPING.PATIENCE and not labels_pixels(cfg):
        raise ValueError(
            f"TEST.EARLY_STOPPING is for models that label pixels: set PATIENCE 0 for "
            f"MODEL.META_ARCHITECTURE '{cfg.MODEL.META_ARCHITECTURE}'"
        )
    if cfg.TEST.AUG.ENABLED:
        _check_augmentable(cfg)
    for name in cfg.DATASETS.TEST:
        check_data_set(name)
        folder = MetadataCatalog.get(name).get("image_root")
        if folder and not PathManager.isdir(folder):
            raise FileNotFoundError(
                f"the image folder '{folder}' of the data set '{name}' does not exist"
            )


def _check_training(cfg: CfgNode) -> None:
    """Refuse numbers with which nothing can be trained."""
    solver, sizes = cfg.SOLVER, cfg.INPUT.MIN_SIZE_TRAIN
    for key in ("MAX_ITER", "IMS_PER_BATCH", "CHECKPOINT_PERIOD"):
        if solver[key] < 1:
            raise ValueError(f"SOLVER.{key} is {solver[key]}, expected 1 or more")
    if not 0 < solver.BASE_LR < math.inf:
        raise ValueError(f"SOLVER.BASE_LR is {solver.BASE_LR}, expected a number above 0")
    if cfg.DATALOADER.NUM_WORKERS < 0:
        raise ValueError(
            f"DATALOADER.NUM_WORKERS is {cfg.DATALOADER.NUM_WORKERS}, expected 0 or more"
        )
    if cfg.MODEL.KEEP_FEATURES_GB < 0 or (
        cfg.MODEL.KEEP_FEATURES_GB > 0 and cfg.MODEL.META_ARCHITECTURE != "BoxToMask"
    ):
        raise ValueError(
            f"MODEL.KEEP_FEATURES_GB is {cfg.MODEL.KEEP_FEATURES_GB:g}, expected 0, or more for "
            f"MODEL.META_ARCHITECTURE 'BoxToMask'"
        )
    # A length of 0 is detectron2's way to say that images keep their size.
    if not sizes or min(sizes) < 0:
        raise ValueError(f"INPUT.MIN_SIZE_TRAIN is {sizes}, expected lengths in pixels")


def check_classes(cfg: CfgNode) -> None:
    """Check that model, training sets, test sets and class split mean the same classes.

    A model knows a class by its index, which is its place in the order of the category ids.  The
    ids themselves may differ between files.  No training set is read for this if it has been
    loaded; where it is not there, its classes are not compared.

    Raises:
        ValueError: naming data sets, the first class that differs, and the key to set.
        FileNotFoundError: when the annotation file of a test set is missing.
    """
    if labels_pixels(cfg):
        known = {}
        for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            check_labels_fit(cfg, name)
            known[name] = list(MetadataCatalog.get(name).stuff_classes)
        _check_same(known)
        return
    known = _names_of_training_sets(cfg)
    for name in cfg.DATASETS.TEST:
        known[name] = class_names_of(name)
    _check_same(known)
    count = class_count(cfg)
    for name, names in known.items():
        if count is not None and count[1] != len(names):
            raise ValueError(
                f"{count[0]} is {count[1]}, the data set {_described(name)} has {len(names)} "
                f"classes: set {count[0]} {len(names)}"
            )
    key = "TEST.CLASS_SPLIT" if cfg.TEST.CLASS_SPLIT else "DATASETS.MASK_CLASSES"
    for name in cfg.DATASETS.TEST:
        try:
            resolve_class_split(cfg.TEST.CLASS_SPLIT or cfg.DATASETS.MASK_CLASSES, known[name])
        except ValueError as e:
            raise ValueError(f"{key} for the test set '{name}': {e}") from e


def check_classes_of_training(cfg: CfgNode) -> None:
    """Check that the training sets have the same classes, as far as they are known.

    Raises:
        ValueError: as :func:`check_classes`.
    """
    known = {name: MetadataCatalog.get(name).get("thing_classes") for name in cfg.DATASETS.TRAIN}
    _check_same({name: list(names) for name, names in known.items() if names})


def check_test_files(cfg: CfgNode, dataset_name: str) -> None:
    """Check that the images and label maps of a test set are there, without reading them.

    Raises:
        FileNotFoundError: naming the first that is missing.
    """
    with valid_annotations([dataset_name]), checked_loading(evaluation_use(cfg)):
        records = DatasetCatalog.get(dataset_name)
    if not isinstance(records, list):
        return  # a dataset of PyTorch: it has no list of files
    check_files(records, f"test set '{dataset_name}'")


def check_labels_fit(cfg: CfgNode, dataset_name: str) -> None:
    """Make sure that a data set is registered and that the model has its classes and its void.

    Raises:
        ValueError: saying which config key to set.
    """
    check_data_set(dataset_name)
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type")
    if kind != "sem_seg":
        raise ValueError(
            f"the data set '{dataset_name}' has no semantic labels (evaluator_type '{kind}'): "
            f"MODEL.META_ARCHITECTURE '{cfg.MODEL.META_ARCHITECTURE}' needs them"
        )
    for key in ("stuff_classes", "ignore_label"):
        if metadata.get(key) is None:
            raise ValueError(
                f"the metadata of '{dataset_name}' have no {key}: "
                f"MetadataCatalog.get('{dataset_name}').set({key}=...)"
            )
    head = cfg.MODEL.SEM_SEG_HEAD
    for key, value, needed in (
        ("NUM_CLASSES", head.NUM_CLASSES, len(metadata.stuff_classes)),
        ("IGNORE_VALUE", head.IGNORE_VALUE, metadata.ignore_label),
    ):
        if value != needed:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.{key} is {value}, the data set '{dataset_name}' needs {needed}"
            )


def _check_augmentable(cfg: CfgNode) -> None:
    """Refuse what detectron2's test-time augmentation would fail on after training."""
    detects = _is(architecture_of(cfg), GeneralizedRCNN)
    reasons = {
        f"MODEL.META_ARCHITECTURE '{cfg.MODEL.META_ARCHITECTURE}'": not detects
        or cfg.MODEL.META_ARCHITECTURE == "BoxToMask",
        "MODEL.KEYPOINT_ON True": cfg.MODEL.KEYPOINT_ON,
        "MODEL.LOAD_PROPOSALS True": cfg.MODEL.LOAD_PROPOSALS,
        "MODEL.ROI_MASK_HEAD.CLIP_TO_BOX False": not cfg.MODEL.ROI_MASK_HEAD.CLIP_TO_BOX,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"TEST.AUG does not work with {reason}: set TEST.AUG.ENABLED False")


def _is(architecture: Any, kind: type) -> bool:
    return isinstance(architecture, type) and issubclass(architecture, kind)


def _names_of_training_sets(cfg: CfgNode) -> Dict[str, List[str]]:
    """Their class names, where they are known."""
    known = {}
    for name in cfg.DATASETS.TRAIN:
        metadata = MetadataCatalog.get(name)
        if metadata.get("thing_classes"):
            known[name] = list(metadata.thing_classes)
        elif metadata.get("json_file") or name not in DatasetCatalog.list():
            try:
                known[name] = class_names_of(name)
            except (OSError, ValueError) as e:
                logger.warning("The classes of training are not compared: %s", e)
    return known


def _check_same(known: Dict[str, List[str]]) -> None:
    """Compare the classes of all data sets with those of the first one."""
    for name, names in known.items():
        first_name, first = next(iter(known.items()))
        if names == first:
            continue
        i = next((i for i, (a, b) in enumerate(zip(first, names)) if a != b), None)
        if i is None:
            i = min(len(first), len(names))
        raise ValueError(
            f"the classes of the data sets {_described(first_name)} and {_described(name)} differ: "
            f"class {i} is {_class(first, i)} in the first and {_class(names, i)} in the second. "
            f"A model knows classes by their place in the order of category ids: give both the "
            f"same names in the same order"
        )


def _class(names: List[str], i: int) -> str:
    return f"'{names[i]}'" if i < len(names) else f"missing ({len(names)} classes)"


def _described(name: str) -> str:
    json_file = MetadataCatalog.get(name).get("json_file")
    return f"'{name}'" + (f" ({json_file})" if json_file else "")
