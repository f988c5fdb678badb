"""Self-training: a teacher predicts the masks that are missing, a student learns from them."""

import argparse
import contextlib
import datetime
import logging
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from tabulate import tabulate

from ..checkpoint.compatibility import UnfitCheckpointError
from ..checkpoint.loading import last_checkpoint, load_for_inference
from ..config import load_config
from ..config_words import flatten
from ..data.pseudo_masks import PseudoMasks
from ..files import (
    PathLike,
    file_digest,
    full_disk_named,
    make_output_dir,
    read_json,
    write_json,
    write_text,
)
from ..locks import folder_in_use
from .early_stopping import StopTraining
from .launch import evaluate, launch_training, setup
from .semantic_trainer import trainer_class
from .teaching import objects_to_teach, write_taught_masks
from .time_limit import TimeLimit
from .trainer import Trainer

logger = logging.getLogger(__name__)

START = "self_training.json"
DONE = "done.json"
COLUMNS = ("mIoU_A", "mIoU_B", "IoU75_B", "boundary_IoU_B")

Record = Dict[str, Any]


def self_train(
    config_file: str,
    rounds: int,
    output: PathLike,
    opts: Sequence[Any] = (),
    num_gpus: int = 1,
    force: bool = False,
    minutes: Optional[float] = None,
) -> Record:
    """Train a teacher, then for each round a student on the masks of the model before it.

    Round 0 is the teacher: ``MODEL.WEIGHTS`` where it brings the whole model, mask branch
    included; otherwise it is trained first.  Every student starts, like the teacher, from
    ``MODEL.WEIGHTS``.  Whatever is complete in ``output`` is used again, and a training that was
    interrupted goes on.

    Args:
        config_file: a path or a name of the model zoo.
        rounds: of students, at least 1.
        output: folder; gets ``round_0``, ``round_1`` ..., each with the log, checkpoints and
            metrics of a model, from 1 on with ``pseudo_masks``, too; ``results.json`` and
            ``results.md``.
        opts: KEY, VALUE, ... on top of the config.
        num_gpus: that a training uses; without GPUs processes.
        force: go on although another program uses the output folder.
        minutes: after which each training ends, with the weights that it has then; None = never.

    Returns:
        What is in ``results.json``: "rounds" is a list with "metrics", "weights" and "sha256" of
        each model, and "pseudo_masks", how many there were.

    Raises:
        ValueError: for a bad config, data without an object to teach, or an output folder of
            another self-training or in use; the message says which.
        OSError: when the output folder cannot be written.
    """
    if rounds < 1:
        raise ValueError(f"self-training: the number of rounds must be at least 1, got {rounds}")
    output = Path(output)
    opts = [*opts, "TEST.GIVEN_BOXES", True]
    cfg = load_config(config_file, opts)
    if trainer_class(cfg) is not Trainer or not cfg.MODEL.MASK_ON:
        raise ValueError(f"self-training: '{config_file}' is of a model without masks of objects")
    objects_to_teach(cfg)  # or there is nothing to do
    with folder_in_use(make_output_dir(output, utf_8=True), force):
        _check_same(cfg, output)
        records = [_teacher(config_file, opts, output, num_gpus, minutes)]
        for i in range(1, rounds + 1):
            folder = output / f"round_{i}"
            masks = _pseudo_masks(cfg, folder / "pseudo_masks", records[-1])
            student = [*opts, "DATASETS.PSEUDO_MASKS", str(masks.folder)]
            record = train_or_reuse(config_file, student, folder, num_gpus, minutes)
            records.append({**record, "pseudo_masks": len(masks)})
        return _report(output, records)


def _check_same(cfg: CfgNode, output: Path) -> None:
    """Refuse to go on in the folder of a self-training with another config or other data."""
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = ""
    files = [MetadataCatalog.get(name).get("json_file") for name in cfg.DATASETS.TRAIN]
    files += [cfg.MODEL.WEIGHTS, cfg.DATASETS.MASK_CLASSES]
    files += [cfg.MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE]
    digests = {f: file_digest(f) for f in files if f and os.path.isfile(f)}
    now = {"config": cfg.dump().splitlines(), "files": digests}
    path = output / START
    if not path.exists():
        write_json(path, now)
        return
    before = read_json(path)
    old, new = (flatten(CfgNode.load_cfg("\n".join(x["config"]))) for x in (before, now))
    changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    changed += [f for f in digests if before["files"].get(f) != digests[f]]
    if changed:
        raise ValueError(
            f"'{output}' holds a self-training of another config or other data "
            f"({changed[0]}): give another output folder, or what it was started with"
        )


def _teacher(
    config_file: str, opts: List[Any], output: Path, num_gpus: int, minutes: Optional[float]
) -> Record:
    """Round 0."""
    folder = output / "round_0"
    opts = [*opts, "OUTPUT_DIR", str(folder)]
    cfg = load_config(config_file, opts)
    if not _is_trained(cfg):
        return train_or_reuse(config_file, opts, folder, num_gpus, minutes)
    record = _completed(folder)
    if record is None:
        logger.info("Round 0: '%s' is the teacher", cfg.MODEL.WEIGHTS)
        make_output_dir(folder)
        weights = PathManager.get_local_path(cfg.MODEL.WEIGHTS)
        record = _finish(cfg, weights, evaluate(cfg, resume=False))
    return record


def _is_trained(cfg: CfgNode) -> bool:
    """Whether ``MODEL.WEIGHTS`` brings the whole model."""
    if not cfg.MODEL.WEIGHTS:
        return False
    try:
        load_for_inference(Trainer.build_model(cfg), cfg.MODEL.WEIGHTS)
    except UnfitCheckpointError:
        logger.info(
            "MODEL.WEIGHTS '%s' is not the whole model: the teacher is trained", cfg.MODEL.WEIGHTS
        )
        return False
    return True


def _pseudo_masks(cfg: CfgNode, folder: Path, teacher: Record) -> PseudoMasks:
    """Those of a teacher: what is there, when it is whole and this teacher's; else new ones."""
    with contextlib.suppress(ValueError):
        masks = PseudoMasks(folder)
        if masks.is_intact() and masks.index["teacher"]["sha256"] == teacher["sha256"]:
            logger.info("Pseudo-masks: using those in '%s'", folder)
            return masks
    _begin_again(folder.parent)  # what has learned from other masks
    cfg = cfg.clone()
    cfg.MODEL.WEIGHTS = teacher["weights"]
    model = Trainer.build_model(cfg)
    load_for_inference(model, teacher["weights"])
    known = {key: teacher[key] for key in ("weights", "sha256")}
    return write_taught_masks(cfg, model, folder, known)


def train_or_reuse(
    config_file: str,
    opts: List[Any],
    folder: Path,
    num_gpus: int,
    minutes: Optional[float] = None,
) -> Record:
    """A model that is trained and evaluated in a folder, unless it was before.

    One that ends because its ``minutes`` are up is not evaluated.
    """
    record = _completed(folder)
    if record is not None:
        logger.info("'%s' is complete", folder)
        return record
    if (folder / DONE).is_file():
        _begin_again(folder)
    args = argparse.Namespace(
        config_file=config_file,
        opts=[*opts, "OUTPUT_DIR", str(folder)],
        eval_only=False,
        resume=last_checkpoint(str(folder)) is not None,
        num_gpus=num_gpus,
        num_machines=1,
        machine_rank=0,
        dist_url="auto",
        force=False,
        minutes=minutes,
        brief=True,
    )
    with _logging_as_before():
        launch_training(args, _train)
    return read_json(folder / DONE)


def _train(args: argparse.Namespace) -> None:
    """What each process of a training does."""
    cfg = setup(args)
    with full_disk_named(cfg.OUTPUT_DIR):
        trainer = trainer_class(cfg)(cfg)
        trainer.resume_or_load(resume=args.resume)
        if args.minutes is not None:
            trainer.register_hooks([TimeLimit(args.minutes)])
        try:
            trainer.train()
        except StopTraining:
            if comm.is_main_process():
                trainer.checkpointer.save("model_final", iteration=trainer.iter)
    if comm.is_main_process():
        results = getattr(trainer, "_last_eval_results", {})
        _finish(cfg, os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), results)


def _finish(cfg: CfgNode, weights: str, results: Record) -> Record:
    sets = results if len(cfg.DATASETS.TEST) > 1 else {"": results}
    metrics = {
        "/".join(filter(None, (name, task, metric))): value
        for name, tasks in sets.items()
        for task, values in tasks.items()
        for metric, value in values.items()
        if "-" not in metric
    }
    record = {"weights": weights, "sha256": file_digest(weights), "metrics": metrics}
    write_json(os.path.join(cfg.OUTPUT_DIR, DONE), record)
    return record


def _begin_again(folder: Path) -> None:
    """Nothing of the model that was trained in a folder is gone on with."""
    weights = sorted(folder.glob("model_*.pth"), reverse=True)  # model_final.pth first
    for path in (*weights, folder / "last_checkpoint", folder / DONE):
        path.unlink(missing_ok=True)


def _completed(folder: Path) -> Optional[Record]:
    """What :func:`_finish` wrote, where the weights are still those."""
    if not (folder / DONE).is_file():
        return None
    record = read_json(folder / DONE)
    if os.path.isfile(record["weights"]) and file_digest(record["weights"]) == record["sha256"]:
        return record
    logger.warning("'%s' is not what it was: the round is done again", record["weights"])
    return None


@contextlib.contextmanager
def _logging_as_before() -> Iterator[None]:
    """A training sets up logging for its process; the next one must not write to its file, too."""
    logs = [logging.getLogger(name) for name in ("detectron2", "fvcore", "seg_every_thing")]
    before = [(log, log.handlers) for log in logs]
    for log in logs:
        log.handlers = []
    setup_logger.cache_clear()
    try:
        yield
    finally:
        for log, handlers in before:
            log.handlers = handlers
        setup_logger.cache_clear()


def _report(output: Path, records: List[Record]) -> Record:
    result = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "rounds": [{"round": i, **record} for i, record in enumerate(records)],
    }
    write_json(output / "results.json", result)
    names = [
        name
        for name in records[0]["metrics"]
        if "given" in name and name.rsplit("/")[-1] in (*COLUMNS, "mIoU")
    ]
    rows = [[i, *(r["metrics"].get(name) for name in names)] for i, r in enumerate(records)]
    table = tabulate(rows, ["round", *names], tablefmt="pipe", floatfmt=".1f")
    write_text(output / "results.md", table + "\n")
    logger.info("Self-training:\n%s\nNumbers: %s", table, output / "results.json")
    return result
