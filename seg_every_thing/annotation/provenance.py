"""What decides the outcome of a run, as digests: whether two runs are the same."""

import hashlib
import json
from typing import Any, Dict, NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from ..checkpoint.safe_checkpointer import load_tensors
from ..config import load_config
from ..export.predictor import config_in, files_in
from ..files import PathLike, file_digest
from .features import FEATURES
from .options import Options
from .training import TrainedModel, training_config


class Prints(NamedTuple):
    """Digests of what a run is."""

    source: str  # of the annotation file
    masks: str  # of what decides the masks: data, model, options about them
    file: str  # of what decides the file that is written: masks, and options about it
    on_bad: str  # DATASETS.ON_BAD_ANNOTATION


def model_config(options: Options) -> CfgNode:
    """The config of the model; what it needs is there.

    Raises:
        ValueError: for a bad config, or when a package is missing that it needs.
    """
    if not options.is_trained:
        return training_config(options)
    if options.model is not None:
        return config_in(options.model)
    return load_config(str(options.config_file), list(options.opts))


def fingerprints(options: Options) -> Prints:
    """Digests of a run.

    Raises:
        ValueError: for a bad config, or weights that cannot be read.
    """
    cfg = model_config(options)
    source, on_bad = file_digest(options.annotations), cfg.DATASETS.ON_BAD_ANNOTATION
    model: Dict[str, Any] = {"config": cfg.dump()}
    if options.model is not None:
        model["files"] = _digest_of_folder(options.model)
    elif options.is_trained:
        try:
            weights = cfg.MODEL.WEIGHTS
            model["weights"] = file_digest(PathManager.get_local_path(weights)) if weights else ""
        except OSError as e:
            name = cfg.MODEL.WEIGHTS
            raise ValueError(f"MODEL.WEIGHTS: cannot read '{name}': {e.strerror or e}") from e
    else:
        model.update(minutes=options.minutes, rounds=options.rounds)
    masks = {"source": source, "model": model, "on_bad": on_bad, **options.for_masks()}
    masks["features"] = FEATURES  # unfinished work has those of the version that began it
    file = {"masks": masks, **options.for_file()}
    return Prints(source, _digest(masks), _digest(file), on_bad)


def model_digest(options: Options, model: TrainedModel) -> str:
    """Digest of the files of a model that was given, or of the tensors of a model that was trained.

    A training that was ended and resumed gives the same tensors, and another file.
    """
    if options.model is not None:
        return _digest_of_folder(options.model)
    weights = load_config(model.config_file, list(model.opts)).MODEL.WEIGHTS
    if options.is_trained:
        return file_digest(PathManager.get_local_path(weights)) if weights else ""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_tensors(weights)["model"].items()):
        digest.update(name.encode())
        digest.update(np.asarray(tensor).tobytes())
    return digest.hexdigest()


def _digest_of_folder(model: PathLike) -> str:
    return _digest([file_digest(path) for path in files_in(model)])


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
