"""detectron2's checkpointer for files from elsewhere: it reads weights and runs no code."""

import importlib
import logging
import pickle
import tarfile
import zipfile
from typing import Any, Dict

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from torch import nn

from ..files import PathLike, written_atomically
from .safe_pickle import load_pickle

logger = logging.getLogger(__name__)


class SafeCheckpointer(DetectionCheckpointer):
    """DetectionCheckpointer that refuses files which hold more than weights and plain values.

    ``.pkl`` goes through :func:`load_pickle` and has the same meaning as in the parent: a file of
    detectron2's model zoo, or weights of Detectron (Caffe2) whose names are matched.  All other
    files go through :func:`load_tensors`, training checkpoints with their optimizer included.
    Loading raises ValueError, with the file's name, for what is refused or cannot be read.
    What it saves is complete or not there.
    """

    def __init__(self, model: nn.Module, save_dir: str = "", **kwargs: Any) -> None:
        """As in the parent."""
        super().__init__(model, save_dir, **kwargs)
        self.path_manager = _AtomicPathManager()

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
        return load_tensors(filename)


class _AtomicPathManager:
    """detectron2's PathManager that writes local files under a temporary name first."""

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> Any:
        if mode in ("w", "wb") and "://" not in path:
            return written_atomically(path, mode)
        return PathManager.open(path, mode, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(PathManager, name)


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
        reason = str(e).rpartition("WeightsUnpickler error: ")[2].strip().splitlines() or [""]
        raise ValueError(
            f"refused to load '{path}': it holds more than tensors and plain values ({reason[0]})"
        ) from e
    except ValueError:
        raise
    except Exception as e:  # corrupt bytes give errors of any kind
        reason = str(e).strip().splitlines() or [type(e).__name__]
        raise ValueError(f"'{path}' is not a valid checkpoint: {reason[0]}") from e


def read_state_dict(path: PathLike, key: str) -> Dict[str, torch.Tensor]:
    """Read a file of initial weights: a dict of tensors, and nothing else.

    Args:
        path: of ``torch.save``, or a .safetensors file.
        key: the config key that names the file, for messages.

    Raises:
        ValueError: for anything else; the message names key and file.
    """
    try:
        if str(path).endswith(".safetensors"):
            state = importlib.import_module("safetensors.torch").load_file(str(path))
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # damaged files raise errors of any kind
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise ValueError(f"{key}: cannot read '{path}': {reason}") from e
    if not isinstance(state, dict) or not all(torch.is_tensor(x) for x in state.values()):
        raise ValueError(f"{key}: '{path}' is not a state dict, that is, a dict of tensors alone")
    return state


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
