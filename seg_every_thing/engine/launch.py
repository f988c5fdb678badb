"""Training and evaluation as detectron2's train_net.py runs them, on one process or many."""

import argparse
import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Union
from unittest import mock

from detectron2.config import CfgNode
from detectron2.engine import default_setup, defaults
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpoint.loading import last_checkpoint, load_for_inference
from ..config import load_config
from ..data.datasets.own_data import OWN_DATA_KEYS
from ..files import (
    AtomicPathManager,
    PathLike,
    check_targets,
    escape_in,
    full_disk_named,
    make_output_dir,
)
from ..locks import folder_in_use
from ..model_zoo import find_config_file
from ..processes import keep_freed_memory
from .agreement import check_classes, check_settings
from .ranks import launch
from .semantic_trainer import trainer_class

OWN_DATA_CONFIG = "photos/maskx_efficientnet_lite0.yaml"
"""For own data without a config: a small model, whose initial weights are a Python package."""

logger = logging.getLogger(__name__)


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config, set up logging, and note both in the output folder.

    Raises:
        ValueError: for a bad config, or an output folder whose files the training reads.
        OSError: when the folder cannot be written.
    """
    args.config_file = find_config_file(args.config_file)  # which default_setup opens
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    _check_output(args, cfg)
    make_output_dir(cfg.OUTPUT_DIR, utf_8=True)
    escape_in(sys.stdout)  # also in processes that are not the first
    files = _KeepingPathManager() if args.eval_only else AtomicPathManager()
    loggers = _brief_logger if getattr(args, "brief", False) else setup_logger
    with mock.patch.multiple(defaults, PathManager=files, setup_logger=loggers):
        default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="seg_every_thing", abbrev_name="set")
    for name in ("detectron2", "fvcore", "seg_every_thing"):
        for handler in logging.getLogger(name).handlers:
            escape_in(getattr(handler, "stream", None))
    if cfg.DATASETS.CATEGORIES:
        names = [name for _, name in cfg.DATASETS.CATEGORIES]
        logger.info(
            "Own data with %s: %d classes (%s%s); trained on %s, evaluated on %s",
            *(args.config_file, len(names), ", ".join(names[:20]), ", ..." * (len(names) > 20)),
            *(", ".join(sets) or "nothing" for sets in (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST)),
        )
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    if "://" in cfg.MODEL.WEIGHTS:
        logger.info("MODEL.WEIGHTS '%s' is downloaded, unless it is cached", cfg.MODEL.WEIGHTS)
    return cfg


def _brief_logger(*args: Any, **kwargs: Any) -> logging.Logger:
    """detectron2's, whose console shows progress and warnings alone; ``log.txt`` has all."""
    log = setup_logger(*args, **kwargs)
    for handler in log.handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.addFilter(_is_brief)
    return log


def _is_brief(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name == "detectron2.utils.events"


def _check_output(args: argparse.Namespace, cfg: CfgNode) -> None:
    """Let a new training write over nothing that it reads."""
    if args.eval_only or args.resume:
        return
    output = Path(cfg.OUTPUT_DIR)
    read = [args.config_file, cfg.MODEL.WEIGHTS, *cfg.DATASETS.TRAIN_JSON, *cfg.DATASETS.VAL_JSON]
    names = ("config.yaml", "metrics.json", "last_checkpoint", "data_report.json")
    check_targets(read, [*(output / name for name in names), *output.glob("model_*.pth")])


class _KeepingPathManager(AtomicPathManager):
    """For evaluations: the config in the output folder stays that of the training."""

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> Any:
        if mode == "w" and os.path.exists(path):
            return open(os.devnull, "w")
        return super().open(path, mode, **kwargs)


def evaluate(cfg: CfgNode, resume: bool, allow_partial: bool = False) -> Dict[str, Any]:
    """Evaluate ``MODEL.WEIGHTS``, or with ``resume`` the last checkpoint of the output folder.

    Args:
        cfg: of the model and the test sets.
        resume: as above.
        allow_partial: go on with what fits where the checkpoint is not of this very model.

    Raises:
        ValueError: when config, data sets and checkpoint do not agree; the message says where.
    """
    check_settings(cfg, training=False)
    check_classes(cfg)
    weights = last_checkpoint(cfg.OUTPUT_DIR) if resume else cfg.MODEL.WEIGHTS
    if weights is None:
        raise ValueError(f"--resume: there is no checkpoint in '{cfg.OUTPUT_DIR}' to evaluate")
    trainer = trainer_class(cfg)
    model = trainer.build_model(cfg)
    if weights:
        load_for_inference(model, weights, allow_partial, cfg.OUTPUT_DIR if resume else "")
    else:
        logger.warning("MODEL.WEIGHTS is empty: random weights")
    results = trainer.test(cfg, model)
    if cfg.TEST.AUG.ENABLED:
        results.update(trainer.test_augmented(cfg, model))
    if comm.is_main_process() and cfg.TEST.EXPECTED_RESULTS:
        verify_results(cfg, results)
    return results


def main(args: argparse.Namespace) -> Dict[str, Any]:
    """Run on one process of possibly many."""
    cfg = setup(args)
    with full_disk_named(cfg.OUTPUT_DIR):
        if args.eval_only:
            return evaluate(cfg, args.resume, args.allow_partial_checkpoint)
        trainer = trainer_class(cfg)(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()


def launch_training(args: argparse.Namespace, run: Callable[..., Any] = main) -> None:
    """Start one process a GPU.

    Args:
        args: of the command ``seg-every-thing train``.
        run: what each process does with them.

    Raises:
        ValueError: for a bad config or own data that do not fit it, or when another training uses
            the output folder.
        OSError: when the output folder cannot be written.
    """
    # Here first: what is wrong is said before there are processes, and own data are read once.
    cfg = load_config(args.config_file, args.opts)
    args.opts = [*args.opts, "DATASETS.CATEGORIES", cfg.DATASETS.CATEGORIES]
    # Machines may share the folder, and evaluations only add to it.
    alone = args.machine_rank == 0 and not args.eval_only
    folder = make_output_dir(cfg.OUTPUT_DIR, utf_8=True)
    with folder_in_use(folder, args.force) if alone else contextlib.nullcontext():
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )


Paths = Union[PathLike, Sequence[PathLike]]


def own_data_options(
    train_json: Paths, train_images: Paths, val_json: Paths = (), val_images: Paths = ()
) -> List[Any]:
    """Config overrides that put a user's own COCO-format files in the place of data sets."""
    options: List[Any] = ["DATASETS.CATEGORIES", []]  # read anew, whatever a saved config says
    given = zip(OWN_DATA_KEYS, (train_json, train_images, val_json, val_images))
    for key, value in given:
        paths = [value] if isinstance(value, (str, Path)) else value
        if paths:
            options += [f"DATASETS.{key}", tuple(map(str, paths))]
    return options if len(options) > 2 else []


def train(
    train_json: Paths,
    train_images: Paths,
    output: PathLike,
    config_file: str = OWN_DATA_CONFIG,
    *,
    val_json: Paths = (),
    val_images: Paths = (),
    opts: Sequence[Any] = (),
) -> Path:
    """Train a model on COCO-format files, in which any object may have a mask or none.

    The same as the command ``seg-every-thing train --train-json ...``, in this process.

    Args:
        train_json: an annotation file, or several with the same categories.
        train_images: the folder of its images; one for each file, or one for all.
        output: folder for the log, checkpoints, the config and metrics.
        config_file: a path or a name of the model zoo.
        val_json, val_images: what is evaluated in the end, if anything is.
        opts: KEY, VALUE, ... on top of the config.

    Returns:
        The file of the trained weights.  ``config.yaml`` beside it builds the model and knows its
        classes: ``seg-every-thing demo --config-file OUTPUT/config.yaml``.

    Raises:
        ValueError: for a bad config, or data that are broken or do not fit it.
        OSError: when the output folder cannot be written.
    """
    own = own_data_options(train_json, train_images, val_json, val_images)
    args = argparse.Namespace(
        config_file=config_file,
        opts=[*own, *opts, "OUTPUT_DIR", str(output)],
        eval_only=False,
        resume=False,
    )
    with folder_in_use(make_output_dir(output, utf_8=True)):
        main(args)
    return Path(output) / "model_final.pth"
