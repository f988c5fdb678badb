"""The two stages of stage-wise training, each leaving a folder that says when it is complete."""

import functools
import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import detectron2
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.utils.env import seed_all_rng
from fvcore.nn import weight_init

from ... import __version__
from ...checkpoint.loading import readable_checkpoint
from ...checkpoint.safe_checkpointer import SafeCheckpointer
from ...data.dataset_mapper import PartialSupervisionMapper
from ...engine.freezing import freeze_detector
from ...engine.semantic_trainer import SemanticTrainer, trainer_class
from ...engine.trainer import Trainer
from ...files import file_digest
from ...modeling.crf_refinement import with_crf
from .done import DONE, write_done
from .feature_cache import (
    CachedFeaturesModel,
    FeatureCache,
    detections_of,
    write_feature_cache,
)
from .stage_trainer import StageTrainer

logger = logging.getLogger(__name__)

RECIPE = "3"  # raise it when the code of a stage changes what comes out of it


def versions() -> Dict[str, str]:
    """Versions that a result depends on."""
    return {
        "seg_every_thing": __version__,
        "torch": torch.__version__,
        "detectron2": detectron2.__version__,
    }


def fingerprint(cfg: CfgNode, *parents: Optional[str]) -> str:
    """Changes with all that decides a stage's result: config, data, code, earlier stages."""
    data = [data_version(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)]
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = ""
    cfg.MODEL.WEIGHTS = content_of(cfg.MODEL.WEIGHTS)
    text = repr((cfg.dump(), data, sorted(versions().items()), RECIPE, parents))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def data_version(name: str) -> str:
    """Changes with a data set's parameters, for those that are drawn, or with its list of files."""
    metadata = MetadataCatalog.get(name)
    if metadata.get("data_version"):  # of data sets that functions make
        return str(metadata.data_version)
    if metadata.get("evaluator_type") != "sem_seg":
        json_file = metadata.get("json_file", "")
        # Shapes writes its parameters into the name of this folder.
        return f"{Path(json_file).parent.name} {content_of(json_file)}"
    files = [Path(record["sem_seg_file_name"]).parts[-3:] for record in DatasetCatalog.get(name)]
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]


def content_of(file: str) -> str:
    """Changes with what a file holds; an address, or what is not there, stands for itself."""
    if not os.path.isfile(file):
        return file
    stat = os.stat(file)
    return _digest(file, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=None)
def _digest(file: str, size: int, modified: int) -> str:
    """Of a file as it was then; some are large, and asked for with each row."""
    return file_digest(file)


def train_model(cfg: CfgNode) -> Dict[str, Any]:
    """Train and evaluate what stands on no other model: a detector, or a semantic segmentor.

    Its weights go to ``OUTPUT_DIR/model_final.pth``.

    Returns:
        ``{"fingerprint", "metrics", "seconds", "trainable_parameters", "weights"}``, also in
        ``OUTPUT_DIR/done.json``.
    """
    start = time.perf_counter()
    trainer = new_trainer(cfg)
    trainer.model.to(memory_format=torch.channels_last)  # a tenth less time on a CPU
    trainer.train()
    record = {"fingerprint": fingerprint(cfg)}
    return finish_row(cfg, trainer, record, time.perf_counter() - start)


def cache_features(cfg: CfgNode, folder: Path) -> Dict[str, Any]:
    """Run the frozen detector of a stage-two config over its images, once.

    Args:
        cfg: with ``MODEL.FREEZE_DETECTOR`` and the detector's weights.
        folder: gets ``train`` (with proposals) and ``test`` (with detections).

    Returns:
        ``{"seconds"}``.
    """
    start = time.perf_counter()
    model = trained_model(cfg)
    freeze_detector(model)
    mapper = PartialSupervisionMapper(cfg, is_train=True)
    dicts = get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False)
    write_feature_cache(model, [mapper(d) for d in dicts], folder / "train")
    (name,) = cfg.DATASETS.TEST
    samples = [sample for batch in Trainer.build_test_loader(cfg, name) for sample in batch]
    write_feature_cache(model, samples, folder / "test", detections_of)
    return {"seconds": time.perf_counter() - start}


def features_complete(folder: Path) -> bool:
    """Whether :func:`cache_features` has finished."""
    return all(FeatureCache.is_complete(folder / part) for part in ("train", "test"))


def row_fingerprint(cfg: CfgNode, parent: str) -> str:
    """Fingerprint of a row that stands on the detector with the fingerprint ``parent``."""
    return fingerprint(cfg, parent, content_of(cfg.MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE))


def train_row(cfg: CfgNode, cache: Optional[Path], parent: str) -> Dict[str, Any]:
    """Train a mask branch on a trained detector, and evaluate.

    Args:
        cfg: with the detector's weights, and ``MODEL.FREEZE_DETECTOR`` where ``cache`` is given.
        cache: folder of :func:`cache_features`; None = nothing is read from a cache.
        parent: fingerprint of the detector.

    Returns:
        ``{"fingerprint", "metrics", "seconds", "trainable_parameters", "initial_trunk"}``, also in
        ``OUTPUT_DIR/done.json``.
    """
    start = time.perf_counter()
    trainer = new_trainer(cfg)
    initial_trunk = draw_initial_trunk(trainer.model, cfg.SEED)
    seed_all_rng(cfg.SEED)
    if cache is not None:
        caches = (FeatureCache(cache / part) for part in ("train", "test"))
        trainer.model = with_crf(cfg, CachedFeaturesModel(trainer.model, *caches)).train()
    trainer.train()
    record = {"initial_trunk": initial_trunk, "fingerprint": row_fingerprint(cfg, parent)}
    return finish_row(cfg, trainer, record, time.perf_counter() - start)


def new_trainer(cfg: CfgNode) -> Trainer:
    """A trainer that has loaded its weights, and from here on draws what every row draws."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASETS.TEST = ()  # evaluation comes after training, and is timed apart
    cfg.DATALOADER.NUM_WORKERS = 0  # rows run side by side, each on one core
    Path(cfg.OUTPUT_DIR, DONE).unlink(missing_ok=True)  # from here on it is not true
    seed_all_rng(cfg.SEED)
    semantic = trainer_class(cfg) is SemanticTrainer
    trainer = SemanticTrainer(cfg) if semantic else StageTrainer(cfg)
    trainer.resume_or_load(resume=False)
    # Rows draw different numbers of initial weights; from here on they draw the same RoIs.
    seed_all_rng(cfg.SEED)
    return trainer


def draw_initial_trunk(model: torch.nn.Module, seed: int) -> str:
    """Give all rows of a seed the same trunk to start from, and return its digest ("" = no trunk).

    Predictors of different size would otherwise leave the generator in different states before the
    trunk's weights are drawn.  The laterals of a pooler of all levels are not of the trunk: they
    are drawn after the predictor, and are equal where predictors are.
    """
    seed_all_rng(seed)
    head = model.roi_heads.mask_head
    layers = [
        layer
        for name, part in head.named_children()
        if name.startswith(("mask_fcn", "deconv", "hourglass"))
        for layer in part.modules()
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))
    ]
    digest = hashlib.sha256()
    for layer in layers:
        weight_init.c2_msra_fill(layer)
        digest.update(layer.weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16] if layers else ""


def trained_model(cfg: CfgNode) -> torch.nn.Module:
    """The model of a config with the weights of ``MODEL.WEIGHTS``."""
    model = Trainer.build_model(cfg)
    with readable_checkpoint(cfg.MODEL.WEIGHTS):
        SafeCheckpointer(model, require="some").load(cfg.MODEL.WEIGHTS)
    return model


def finish_row(
    cfg: CfgNode, trainer: Trainer, record: Dict[str, Any], training_seconds: float
) -> Dict[str, Any]:
    """Evaluate a trained row, and write its record to ``OUTPUT_DIR/done.json``."""
    start = time.perf_counter()
    results = type(trainer).test(cfg, trainer.model)
    record = {
        **record,
        "metrics": {f"{task}/{k}": v for task, m in results.items() for k, v in m.items()},
        "seconds": {"training": training_seconds, "evaluation": time.perf_counter() - start},
        "trainable_parameters": sum(
            p.numel() for p in trainer.model.parameters() if p.requires_grad
        ),
    }
    return write_done(Path(cfg.OUTPUT_DIR), record)


def metric_names(metrics: Dict[str, float]) -> List[str]:
    """Names without the per-class values."""
    return [name for name in metrics if "AP-" not in name]
