"""The two stages of stage-wise training, each leaving a folder that says when it is complete."""

import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import detectron2
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.utils.env import seed_all_rng

from .. import __version__
from ..data.dataset_mapper import PartialSupervisionMapper
from ..engine import Trainer, freeze_detector, readable_checkpoint
from ..files import read_json, write_json
from .feature_cache import CachedFeaturesModel, FeatureCache, write_feature_cache

logger = logging.getLogger(__name__)

DONE = "done.json"


def versions() -> Dict[str, str]:
    """Versions that a result depends on."""
    return {
        "seg_every_thing": __version__,
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
    }


def fingerprint(cfg: CfgNode, *parents: Optional[str]) -> str:
    """Changes with all that decides a stage's result: config, data, versions, earlier stages."""
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    # Shapes writes its parameters into the name of this folder.
    data = [Path(MetadataCatalog.get(name).get("json_file", "")).parent.name for name in names]
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = ""
    cfg.MODEL.WEIGHTS = ""  # a path; what it holds is in the fingerprint of the stage before
    text = repr((cfg.dump(), data, sorted(versions().items()), parents))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def finished(folder: Path, expected: str) -> Optional[Dict[str, Any]]:
    """What a stage left behind, if it is complete and was made with the same fingerprint."""
    if not (folder / DONE).is_file():
        return None
    record = read_json(folder / DONE)
    return record if record["fingerprint"] == expected else None


def train_detector(cfg: CfgNode) -> Dict[str, Any]:
    """Stage one: train and evaluate a detector; its weights go to ``OUTPUT_DIR/model_final.pth``.

    Returns:
        ``{"fingerprint", "metrics", "seconds"}``, also in ``OUTPUT_DIR/done.json``.
    """
    start = time.perf_counter()
    trainer = _new_trainer(cfg)
    trainer.train()
    return _finish(cfg, trainer, None, time.perf_counter() - start)


def cache_features(cfg: CfgNode, folder: Path) -> None:
    """Run the frozen detector of a stage-two config over its training images, once."""
    model = Trainer.build_model(cfg)
    freeze_detector(model)
    _load(model, cfg)
    mapper = PartialSupervisionMapper(cfg, is_train=True)
    dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    write_feature_cache(model, [mapper(d) for d in dicts], folder)


def train_row(cfg: CfgNode, cache: Optional[Path], parent: Optional[str]) -> Dict[str, Any]:
    """Stage two: train a mask branch on a frozen detector, and evaluate.

    Args:
        cfg: with ``MODEL.FREEZE_DETECTOR`` and the detector's weights.
        cache: folder of its cached features; None = run backbone and RPN in each iteration.
        parent: fingerprint of the detector.

    Returns:
        ``{"fingerprint", "metrics", "seconds"}``, also in ``OUTPUT_DIR/done.json``.
    """
    start = time.perf_counter()
    trainer = _new_trainer(cfg)
    if cache is not None:
        trainer.model = CachedFeaturesModel(trainer.model, FeatureCache(cache)).train()
    trainer.train()
    return _finish(cfg, trainer, parent, time.perf_counter() - start)


def _new_trainer(cfg: CfgNode) -> Trainer:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = ()  # evaluation comes after training, and is timed apart
    seed_all_rng(cfg.SEED)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    # Rows draw different numbers of initial weights; from here on they draw the same RoIs.
    seed_all_rng(cfg.SEED)
    return trainer


def _load(model: torch.nn.Module, cfg: CfgNode) -> None:
    with readable_checkpoint(cfg.MODEL.WEIGHTS):
        DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)


def _finish(
    cfg: CfgNode, trainer: Trainer, parent: Optional[str], training_seconds: float
) -> Dict[str, Any]:
    start = time.perf_counter()
    results = Trainer.test(cfg, trainer.model)
    metrics = {f"{task}/{k}": v for task, m in results.items() for k, v in m.items()}
    record = {
        "fingerprint": fingerprint(cfg, parent) if parent else fingerprint(cfg),
        "metrics": metrics,
        "seconds": {"training": training_seconds, "evaluation": time.perf_counter() - start},
        "trainable_parameters": sum(
            p.numel() for p in trainer.model.parameters() if p.requires_grad
        ),
    }
    write_json(os.path.join(cfg.OUTPUT_DIR, DONE), record)
    return record


def metric_names(metrics: Dict[str, float]) -> List[str]:
    """Names without the per-class values."""
    return [name for name in metrics if "AP-" not in name]
