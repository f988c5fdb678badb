"""Initial weights of VGG from classifiers: torchvision state dicts and arrays named as in Caffe."""

import logging
import re
from pathlib import Path
from typing import Any, Dict, Sequence

import numpy as np
import torch
from detectron2.layers import Conv2d
from torch import nn

from ...checkpoint.compatibility import check_finite
from ...checkpoint.safe_checkpointer import read_state_dict
from ...checkpoint.safe_pickle import load_pickle

logger = logging.getLogger(__name__)

Weights = Dict[str, torch.Tensor]

# What torchvision's VGG divides an image in [0, 255] by: 255 times its standard deviations (RGB).
_TORCHVISION_STD = (58.395, 57.12, 57.375)
_CAFFE_NAME = re.compile(r"^(conv\d_\d|fc[67])(?:_|\.|/)?(weights?|biases|bias|w|b)$", re.I)


def load_vgg_weights(
    vgg: nn.Module, path: str, channel_order: str = "BGR", pixel_std: Sequence[float] = (1, 1, 1)
) -> None:
    """Fill all convolutions of a VGG from the file of a classifier.

    fc6 may be a matrix (O, C * 49), as in both code bases (torchvision flattens the 7x7 map that
    its adaptive pooling leaves, Caffe the one of pool5: channel first, then row, then column), or a
    convolution (O, C, 7, 7) already.  Groups of layers that the VGG does not have
    are passed over.

    The weights of conv1_1 are adapted to the images that the model will get: their channel order
    (torchvision: RGB; Caffe: BGR) and scale (torchvision: divided by the standard deviation).

    Args:
        vgg: has detectron2 ``Conv2d`` children called conv1_1 ... conv5_3, fc6, fc7.
        path: a torchvision state dict (.pth, .pt) of a VGG without batch normalisation, or arrays
            (.npz, .pkl) called like "conv1_1_w" and "conv1_1_b"; also "." or "/" for "_", and
            "weight", "bias".  Convolutions are (out, in, height, width), the first in BGR order.
        channel_order: "BGR" or "RGB", of the images to come.
        pixel_std: what they were divided by, a channel in their order.

    Raises:
        ValueError: when the file cannot be read or does not fit; the message names it.
    """
    layers = {name: x for name, x in vgg.named_children() if isinstance(x, Conv2d)}
    if any(layer.norm is not None for layer in layers.values()):
        raise ValueError("MODEL.VGG.WEIGHTS needs a VGG without normalisation: MODEL.VGG.NORM ''")
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"MODEL.VGG.WEIGHTS: the file '{path}' does not exist")
    if file.suffix in (".npz", ".pkl"):
        given, order, std = _read_caffe(file), "BGR", (1.0, 1.0, 1.0)
    else:
        given, order, std = _read_torchvision(file), "RGB", _TORCHVISION_STD
    # A deeper net must not slip through because some of its layers fit.
    groups = {name.split("_")[0] for name in layers}
    problems = [
        f"'{key}' is not part of the model"
        for key in given
        if key.split("_")[0] in groups and key.split(".")[0] not in layers
    ]
    state: Weights = {}
    for name, layer in layers.items():
        for kind in ("weight", "bias"):
            value, expected = given.get(f"{name}.{kind}"), getattr(layer, kind)
            if value is None:
                problems.append(f"'{name}.{kind}' is missing")
            elif value.numel() != expected.numel() or (
                value.dim() != 2 and value.shape != expected.shape
            ):
                shapes = f"{tuple(value.shape)}, not {tuple(expected.shape)}"
                problems.append(f"'{name}.{kind}' has the shape {shapes}")
            else:
                state[f"{name}.{kind}"] = value.reshape(expected.shape)
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(
            f"MODEL.VGG.WEIGHTS '{path}' does not fit MODEL.VGG: {'; '.join(problems[:3])}{more}"
        )
    first = state["conv1_1.weight"]
    if first.shape[1] == 3:
        scale = first.new_tensor(pixel_std)
        if channel_order != order:
            scale = scale.flip(0)
        first = first * (scale / first.new_tensor(std)).view(1, 3, 1, 1)
        state["conv1_1.weight"] = first.flip(1) if channel_order != order else first
    vgg.load_state_dict(state, strict=True)
    logger.info("Loaded all %d tensors of the VGG backbone from '%s'", len(state), path)


def _read_torchvision(path: Path) -> Weights:
    """A state dict with the names of :class:`VGG16FCN`; torchvision numbers its layers."""
    state = read_state_dict(path, "MODEL.VGG.WEIGHTS")
    if any(".running_" in key for key in state):
        raise ValueError(
            f"MODEL.VGG.WEIGHTS: '{path}' has batch normalisation; give those of plain VGG"
        )
    names = _names_by_number(
        sorted(
            {int(key.split(".")[1]) for key in state if re.match(r"features\.\d+\.weight$", key)}
        )
    )
    names.update({"classifier.0": "fc6", "classifier.3": "fc7"})
    renamed = {}
    for key, value in state.items():
        prefix, kind = key.rsplit(".", 1)
        if prefix in names:
            renamed[f"{names[prefix]}.{kind}"] = value
    return renamed


def _names_by_number(numbers: Sequence[int]) -> Dict[str, str]:
    """Names of torchvision's convolutions.  A ReLU stands between two, at the end of a group a ReLU
    and a pooling layer, so a new group begins where a number is skipped."""
    names, group, position = {}, 1, 0
    for i, number in enumerate(numbers):
        if i and number - numbers[i - 1] > 2:
            group, position = group + 1, 0
        position += 1
        names[f"features.{number}"] = f"conv{group}_{position}"
    return names


def _read_caffe(path: Path) -> Weights:
    content: Any = load_pickle(path) if path.suffix == ".pkl" else _read_npz(path)
    if isinstance(content, dict) and isinstance(content.get("blobs"), dict):
        content = content["blobs"]
    if not isinstance(content, dict):
        raise ValueError(f"MODEL.VGG.WEIGHTS: '{path}' is not a mapping of names to arrays")
    renamed = {}
    for key, value in content.items():
        match = _CAFFE_NAME.match(str(key))
        if match and isinstance(value, np.ndarray):
            kind = "bias" if match[2].lower().startswith("b") else "weight"
            renamed[f"{match[1].lower()}.{kind}"] = torch.from_numpy(value.astype(np.float32))
    check_finite(renamed, str(path))
    return renamed


def _read_npz(path: Path) -> Dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as e:  # damaged files raise errors of any kind
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise ValueError(f"MODEL.VGG.WEIGHTS: cannot read '{path}': {reason}") from e
