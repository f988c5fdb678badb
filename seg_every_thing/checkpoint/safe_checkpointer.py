"""detectron2's checkpointer for files from elsewhere: it reads weights and runs no code."""

import importlib
import logging
import pickle
import re
import tarfile
import time
import zipfile
from typing import Any, Dict, List, Optional

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from ..files import AtomicPathManager, PathLike
from .compatibility import Fit, UnfitCheckpointError, check_finite, fit_of
from .safe_pickle import load_pickle

logger = logging.getLogger(__name__)


class SafeCheckpointer(DetectionCheckpointer):
    """DetectionCheckpointer that refuses files which hold more than weights and plain values.

    ``.pkl`` goes through :func:`load_pickle` and has the same meaning as in the parent: a file of
    detectron2's model zoo, or weights of Detectron (Caffe2) whose names are matched.  All other
    files go through :func:`load_tensors`, training checkpoints with their optimizer included.
    Loading raises ValueError, with the file's name, for what is refused or cannot be read, for
    weights that are not finite, and where less fits the model than is asked for.
    What it saves is complete or not there.

    Attributes:
        fit: what of the last file fitted the model; None before.
        created: when this object was made, in seconds as of ``time.time()``.
    """

    fit: Optional[Fit] = None

    def __init__(
        self, model: nn.Module, save_dir: str = "", *, require: str = "any", **kwargs: Any
    ) -> None:
        """
        Args:
            model: to load into and save.
            save_dir: where checkpoints are saved.
            require: how much of the model a file must bring, one of
                :data:`~seg_every_thing.checkpoint.compatibility.FITS`.  A training that is resumed
                needs all of it.
            kwargs: as for :class:`DetectionCheckpointer`.
        """
        super().__init__(model, save_dir, **kwargs)
        self.path_manager = AtomicPathManager()
        self.created = time.time()
        self._require = require
        self._source = ""
        self._resuming = False

    def resume_or_load(self, path: str, *, resume: bool = True) -> Dict[str, Any]:
        """As in the parent; see :meth:`load`."""
        self._resuming = resume and self.has_checkpoint()
        try:
            return super().resume_or_load(path, resume=resume)
        finally:
            self._resuming = False

    def load(self, path: str, checkpointables: Optional[List[str]] = None) -> Dict[str, Any]:
        """As in the parent.

        Raises:
            ValueError: as above; :class:`UnfitCheckpointError` where the file could be read.
        """
        self._source = path
        try:
            return super().load(path, checkpointables)
        finally:
            self._parsed_url_during_load = None  # the parent leaves it behind when it fails

    def _load_model(self, checkpoint: Any) -> Any:
        weights = checkpoint["model"]
        if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
            raise UnfitCheckpointError(f"'{self._source}' holds no weights by name")
        check_finite(weights, self._source)
        absent = [name for name in self.checkpointables if name not in checkpoint]
        if self._resuming and absent:
            raise UnfitCheckpointError(
                f"'{self._source}' holds weights and no state of a training ({', '.join(absent)}): "
                f"give it as MODEL.WEIGHTS, without --resume"
            )
        shapes = {n: tuple(x.shape) for n, x in weights.items() if hasattr(x, "shape")}
        other_vectors = self._leave_out_other_vectors(weights)
        incompatible = super()._load_model(checkpoint)
        state = self.model.state_dict()
        self.fit = fit_of(self._source, state, shapes, incompatible, other_vectors)
        if self._resuming:
            self.fit.require("all", "Give another OUTPUT_DIR, or train without --resume")
        self.fit.require(self._require)
        return incompatible

    def _leave_out_other_vectors(self, weights: Dict[str, Any]) -> List[str]:
        """Drop class vectors that are not those of the config, which T is to work with."""
        own = {n: x for n, x in self.model.state_dict().items() if n.endswith("class_vectors")}
        other = [
            name
            for name, x in own.items()
            if name in weights
            and tuple(weights[name].shape) == tuple(x.shape)
            and not torch.allclose(torch.as_tensor(weights[name]).to(x), x, rtol=1e-3, atol=1e-5)
        ]
        for name in other:
            del weights[name]
        return other

    def _log_incompatible_keys(self, incompatible: Any) -> None:
        """One table instead of a warning for each kind."""
        assert self.fit is not None  # _load_model comes first
        table = self.fit.table()
        if table:
            count = len(self.fit.loaded)
            logger.warning("%d tensors come from '%s'.\n%s", count, self.fit.source, table)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """As in the parent, but the best model so far is not where a resumed training goes on."""
        if not last_filename_basename.startswith("model_best"):
            super().tag_last_checkpoint(last_filename_basename)

    def _load_file(self, filename: str) -> Dict[str, Any]:
        if filename.endswith(".pkl"):
            return _zoo_checkpoint(load_pickle(filename), filename)
        if filename.endswith(".pyth"):
            # The parent reads these without restriction; what loads here is safe to load there.
            load_tensors(filename)
        return super()._load_file(filename)

    def _torch_load(self, filename: str) -> Any:
        content = load_tensors(filename)
        if not isinstance(content, dict):
            raise UnfitCheckpointError(f"'{filename}' holds no weights by name")
        return content


def load_tensors(path: str) -> Any:
    """Read a file of ``torch.save`` onto the CPU if it holds tensors and plain values alone.

    Raises:
        ValueError: for anything else, or a file that cannot be read; the message names the file.
    """
    try:
        # Two formats that torch.load reads without its restriction to tensors.
        if tarfile.is_tarfile(path) or _is_torchscript(path):
            raise ValueError(f"refused to load '{path}': it is an archive that can hold programs")
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as e:
        raise ValueError(f"cannot read '{path}': {e.strerror or e}") from e
    except pickle.UnpicklingError as e:
        raise ValueError(
            f"refused to load '{path}': it holds more than tensors and plain values ({_reason(e)})"
        ) from e
    except ValueError:
        raise
    except Exception as e:  # corrupt bytes give errors of any kind
        raise ValueError(f"'{path}' is not a valid checkpoint: {_reason(e)}") from e


def read_state_dict(path: PathLike, key: str) -> Dict[str, torch.Tensor]:
    """Read a file of initial weights: a dict of tensors, and nothing else.

    Args:
        path: of ``torch.save``, or a .safetensors file.
        key: the config key that names the file, for messages.

    Raises:
        ValueError: for anything else, and for tensors that are not finite; the message names the
            file.
    """
    try:
        if str(path).endswith(".safetensors"):
            state = importlib.import_module("safetensors.torch").load_file(str(path))
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # damaged files raise errors of any kind
        raise ValueError(f"{key}: cannot read '{path}': {_reason(e)}") from e
    if not isinstance(state, dict) or not all(torch.is_tensor(x) for x in state.values()):
        raise ValueError(f"{key}: '{path}' is not a state dict, that is, a dict of tensors alone")
    check_finite(state, str(path))
    return state


def _reason(error: Exception) -> str:
    """The line of an error that says why, without torch's advice to load the file all the same."""
    text = str(error)
    blocked = re.search(r"unsupported GLOBAL (\S+) whose module \S+ is blocked", text)
    if blocked:
        return blocked[0]
    lines = text.rpartition("WeightsUnpickler error: ")[2].strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _is_torchscript(path: str) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("constants.pkl") for name in archive.namelist())


def _zoo_checkpoint(content: Any, path: str) -> Dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' holds no weights but {type(content).__name__}")
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)
    if not isinstance(blobs, dict) or not all(isinstance(name, str) for name in blobs):
        raise ValueError(f"'{path}' holds no weights by name")
    if "mask_fcn_logits_w_flat_w" in blobs:
        logger.warning(
            "'%s' is a Mask^X model of Detectron, whose mask branch has other names and rows: use "
            "`seg-every-thing convert`. Only what it shares with Mask R-CNN is loaded.",
            path,
        )
    weights = {name: x for name, x in blobs.items() if not name.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
