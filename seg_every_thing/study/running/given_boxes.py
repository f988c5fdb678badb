"""Rows of masks for given boxes: on a frozen body whose features are computed once, or on none."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.utils.env import seed_all_rng

from ...annotation.baselines import evaluate_reference
from ...data.pseudo_masks import PseudoMasks
from ...engine.teaching import write_taught_masks
from ...files import file_digest
from ...modeling.crf_refinement import with_crf
from ..definitions.rows import Row
from .done import WEIGHTS, write_done
from .feature_cache import CachedFeaturesModel, FeatureCache, write_feature_cache
from .stage_trainer import EitherSide
from .stages import (
    RECIPE,
    content_of,
    data_version,
    draw_initial_trunk,
    finish_row,
    new_trainer,
    row_fingerprint,
    trained_model,
    versions,
)


def given_boxes_parent(row: Row, teacher: str = "") -> str:
    """What decides a row with given boxes beside its config.

    Args:
        row: what it is.
        teacher: fingerprint of the row that is its teacher.
    """
    return f"{row.stage}:{row.name if not row.learns else ''}:{teacher or 0}"


def body_cache_name(cfg: CfgNode) -> str:
    """Name of the folder with a frozen body's features; rows whose bodies differ have others."""
    nodes = (cfg.MODEL.BACKBONE, cfg.MODEL.TIMM, cfg.MODEL.RESNETS, cfg.MODEL.FPN, cfg.INPUT)
    seed = "" if cfg.MODEL.TIMM.WEIGHTS or cfg.MODEL.WEIGHTS else cfg.SEED  # of random weights
    parts = [node.dump() for node in nodes]
    parts += [repr((cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD, content_of(cfg.MODEL.WEIGHTS)))]
    data = [(name, data_version(name)) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)]
    parts += [repr((data, seed, sorted(versions().items()), RECIPE))]
    return "features_" + hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def cache_body(cfg: CfgNode, folder: Path) -> Dict[str, Any]:
    """Run the frozen body of a model over its images, once; over both sides where they are flipped.

    Args:
        cfg: with ``MODEL.FREEZE_DETECTOR``.
        folder: gets ``train`` and ``test``.

    Returns:
        ``{"seconds"}``.
    """
    start = time.perf_counter()
    trainer = new_trainer(cfg)
    mapper = trainer.build_mapper(cfg)
    sides = mapper.sides if isinstance(mapper, EitherSide) else (mapper,)
    dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    write_feature_cache(trainer.model, [m(d) for d in dicts for m in sides], folder / "train")
    (name,) = cfg.DATASETS.TEST
    samples = [x for batch in trainer.build_test_loader(cfg, name) for x in batch]
    write_feature_cache(trainer.model, samples, folder / "test")
    return {"seconds": time.perf_counter() - start}


def train_given_boxes(
    cfg: CfgNode,
    row: Row,
    cache: Optional[Path] = None,
    teacher: Optional[Tuple[Path, str]] = None,
) -> Dict[str, Any]:
    """Train masks for given boxes, or run a method that learns nothing, and evaluate.

    A student starts from the trunk that its teacher started from, and sees the same RoIs.

    Args:
        cfg: of the row.
        row: what it is.
        cache: folder of :func:`cache_body`; None = the body runs.
        teacher: folder and fingerprint of the row that is its teacher, which is complete.

    Returns:
        As :func:`train_row`.
    """
    start = time.perf_counter()
    parent = given_boxes_parent(row, teacher[1] if teacher else "")
    record: Dict[str, Any] = {"fingerprint": row_fingerprint(cfg, parent)}
    if not row.learns:
        (name,) = cfg.DATASETS.TEST
        folder = os.path.join(cfg.OUTPUT_DIR, "inference", name)
        found = evaluate_reference(
            row.name, name, class_split=cfg.TEST.CLASS_SPLIT, output_dir=folder
        )
        metrics = {f"given/{key}": value for key, value in found["given"].items()}
        seconds = {"evaluation": time.perf_counter() - start}
        record.update(metrics=metrics, seconds=seconds)
        return write_done(Path(cfg.OUTPUT_DIR), record)
    caches = None
    if cache is not None:
        caches = FeatureCache(cache / "train"), FeatureCache(cache / "test")
    trained = cfg.clone()
    if teacher is not None:
        masks = _taught(cfg, teacher[0] / WEIGHTS, caches and caches[0])
        trained.DATASETS.PSEUDO_MASKS = str(masks.folder)
    trainer = new_trainer(trained)
    record["initial_trunk"] = draw_initial_trunk(trainer.model, cfg.SEED)
    seed_all_rng(cfg.SEED)
    if caches is not None:
        trainer.model = with_crf(cfg, CachedFeaturesModel(trainer.model, *caches)).train()
    trainer.train()
    return finish_row(cfg, trainer, record, time.perf_counter() - start)


def _taught(cfg: CfgNode, weights: Path, features: Optional[FeatureCache]) -> PseudoMasks:
    """A teacher's masks, in the student's folder; in tests images are as large as in training."""
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = str(weights)
    model = trained_model(cfg)
    if features is not None:
        model = with_crf(cfg, CachedFeaturesModel(model, features, features))
    known = {"weights": str(weights), "sha256": file_digest(weights)}
    return write_taught_masks(cfg, model, os.path.join(cfg.OUTPUT_DIR, "pseudo_masks"), known)
