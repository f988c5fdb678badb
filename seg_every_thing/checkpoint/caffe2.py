"""Models of Detectron (Caffe2) as detectron2 checkpoints: names, rows, and a config that fits.

Everything about a model but its activation can be told from the names and shapes of its weights.
"""

import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from torch import nn

from ..files import write_array
from .caffe2_config import (
    MLP_OUTPUT,
    TRANSFER_OUTPUT,
    VECTORS,
    Shapes,
    config_from_shapes,
    mismatch,
    resnet_blocks,
)
from .compatibility import check_finite
from .safe_pickle import load_pickle

_ENDINGS = {"w": "weight", "b": "bias"}


@dataclass
class Conversion:
    """A converted model."""

    cfg: CfgNode
    """Builds the model; ``MODEL.WEIGHTS`` and ``EMBEDDING_FILE`` are left to who writes files."""
    model: Dict[str, torch.Tensor]
    """float32 tensors under the names of the model that ``cfg`` builds."""
    used: Dict[str, str] = field(default_factory=dict)
    """Detectron's name -> name in ``model``."""
    ignored: Dict[str, str] = field(default_factory=dict)
    """Detectron's name -> why it has no part in the model."""
    constants: Dict[str, str] = field(default_factory=dict)
    """Name in ``model`` -> its value, for what Detectron does not store as it never changes."""
    missing: List[str] = field(default_factory=list)
    """Tensors of the model that keep their random initial values: the RPN's or none."""
    class_vectors: Optional[np.ndarray] = None
    """(K, D) embedding that T reads, or None."""


def convert_detectron_file(
    path: Union[str, Path], activation: Optional[str] = None, embedding: Optional[str] = None
) -> Conversion:
    """Read a Detectron pickle, without running any of it, and convert it.

    Args:
        path: of the pickle.
        activation: of T's hidden layers, "leaky_relu" or "relu"; None = what the training config
            in the file says, "leaky_relu" where there is none.
        embedding: name of the blob with the class vectors, where the file has several.

    Raises:
        ValueError: when the file cannot be read or is not a whole model; the message names the
            file, and the blob with its shape and the shape it should have.
    """
    content = load_pickle(path)
    if not isinstance(content, dict):
        raise ValueError(f"'{path}' is not a Detectron model: it holds {type(content).__name__}")
    if "model" in content and "__author__" in content:
        raise ValueError(f"'{path}' is in detectron2's format already: give it as MODEL.WEIGHTS")
    blobs = content.get("blobs", content)
    if not isinstance(blobs, dict) or not all(isinstance(name, str) for name in blobs):
        raise ValueError(f"'{path}' is not a Detectron model: it has no arrays by name")
    check_finite(blobs, str(path))
    others = {} if blobs is content else {str(k): v for k, v in content.items() if k != "blobs"}
    settings = others.get("cfg")
    if isinstance(settings, bytes):  # a string of Python 2 that Python 3 wrote again
        settings = settings.decode("latin-1")
    try:
        conversion = convert_blobs(
            blobs, settings if isinstance(settings, str) else "", activation, embedding
        )
    except ValueError as e:
        raise ValueError(f"'{path}': {e}") from e
    for name in others:
        reason = "training configuration" if name == "cfg" else "not among the file's blobs"
        conversion.ignored.setdefault(name, reason)
    return conversion


def convert_blobs(
    blobs: Mapping[str, Any],
    settings: str = "",
    activation: Optional[str] = None,
    embedding: Optional[str] = None,
) -> Conversion:
    """Convert the weights of a Detectron model.

    Args:
        blobs: Detectron's names -> arrays; other values are ignored.
        settings: text of the training config that Detectron saves with the weights.
        activation: as for :func:`convert_detectron_file`.
        embedding: likewise.

    Raises:
        ValueError: as there, without the file's name.
    """
    arrays = {name: x for name, x in blobs.items() if isinstance(x, np.ndarray)}
    shapes = {name: x.shape for name, x in arrays.items()}
    if activation is None:
        leaky = _setting(settings, "USE_LEAKYRELU").lower() != "false"
        activation = "leaky_relu" if leaky else "relu"
    trained_with = _setting(settings, "PRETRAINED_EMBED_NAME")
    cfg, vectors = config_from_shapes(shapes, activation, embedding or trained_with)
    if embedding and embedding != vectors:
        raise ValueError(f"its mask branch does not read the embedding '{embedding}'")
    result = Conversion(cfg, {})
    if vectors is not None:
        if shapes[vectors][0] != cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1:
            expected = (cfg.MODEL.ROI_HEADS.NUM_CLASSES + 1, *shapes[vectors][1:])
            raise ValueError(mismatch(vectors, shapes[vectors], expected))
        # Row 0 is the background's, which has no mask.
        result.class_vectors = _as_tensor(vectors, arrays[vectors])[1:].numpy()
    model = skeleton(cfg, result.class_vectors)
    expected_shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}

    targets = _special_targets(cfg, shapes)
    if vectors is not None:
        targets[vectors] = "roi_heads.class_vectors"
    result.used = {name: target for name, target in targets.items() if name in arrays}
    result.model = {t: _as_tensor(name, arrays[name]) for name, t in result.used.items()}
    if vectors is not None:
        result.model["roi_heads.class_vectors"] = torch.from_numpy(result.class_vectors)

    stock = [
        n for n in _stock_names(cfg, resnet_blocks(shapes)) if n in arrays and n not in targets
    ]
    renamed, originals = convert_c2_detectron_names({n: _as_tensor(n, arrays[n]) for n in stock})
    suffixes = {s: name for name in expected_shapes for s in _suffixes(name)}
    for short, tensor in renamed.items():
        result.used[originals[short]] = suffixes[short]
        result.model[suffixes[short]] = tensor

    _add_constants(result, model)
    # Without the rows that were dropped, which a view would take along into the file.
    result.model = {name: _of_own_memory(x) for name, x in result.model.items()}
    _check_shapes(result, shapes, expected_shapes)
    result.missing = sorted(expected_shapes.keys() - result.model.keys())
    needed = [n for n in result.missing if not n.startswith("proposal_generator.")]
    if needed:
        more = f" and {len(needed) - 3} more" if len(needed) > 3 else ""
        raise ValueError(f"it has no weights for {', '.join(needed[:3])}{more}")
    result.ignored = {n: _why_ignored(n, blobs[n]) for n in blobs if n not in result.used}
    return result


def skeleton(cfg: CfgNode, class_vectors: Optional[np.ndarray] = None) -> nn.Module:
    """The model of a config without memory for its weights: names and shapes alone.

    Args:
        cfg: as from :func:`config_from_shapes`.
        class_vectors: (K, D), for models whose T reads an embedding.
    """
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "meta"
    with tempfile.TemporaryDirectory() as folder, torch.device("meta"):
        if class_vectors is not None:
            cfg.MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE = str(Path(folder) / "vectors.npy")
            write_array(cfg.MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE, class_vectors)
        return build_model(cfg)


def _special_targets(cfg: CfgNode, shapes: Shapes) -> Dict[str, str]:
    """Blobs that detectron2's conversion does not know or gets wrong -> name in the model."""
    layers = {}
    if cfg.MODEL.MASK_ON and cfg.MODEL.ROI_MASK_HEAD.PREDICTOR == "transfer":
        last = cfg.MODEL.WEIGHT_TRANSFER.NUM_LAYERS - 1
        for i in range(last):
            layers[f"bbox2mask_mlp_l{i + 1}"] = f"roi_heads.weight_transfer.layers.{2 * i}"
        layers[TRANSFER_OUTPUT] = f"roi_heads.weight_transfer.layers.{2 * last}"
    elif cfg.MODEL.MASK_ON and cfg.MODEL.ROI_MASK_HEAD.PREDICTOR == "class_agnostic":
        layers["mask_fcn_logits"] = "roi_heads.mask_head.predictor"
    if cfg.MODEL.MASK_ON and cfg.MODEL.ROI_MASK_HEAD.MLP.ENABLED:
        last = cfg.MODEL.ROI_MASK_HEAD.MLP.NUM_FC - 1
        for i in range(last):
            layers[f"fc_mask_head_mlp_l{i + 1}"] = f"roi_heads.mask_head.mlp.layers.{2 * i + 1}"
        layers[MLP_OUTPUT] = f"roi_heads.mask_head.mlp.layers.{2 * last + 1}"
    return {f"{a}_{x}": f"{b}.{y}" for a, b in layers.items() for x, y in _ENDINGS.items()}


def _stock_names(cfg: CfgNode, blocks: Tuple[int, ...]) -> List[str]:
    """Detectron's names for what detectron2 has too, in the model of a config."""
    names = ["conv1_w", "res_conv1_bn_s", "res_conv1_bn_b"]
    layers = ["conv_rpn_fpn2", "rpn_cls_logits_fpn2", "rpn_bbox_pred_fpn2"]
    layers += ["fc6", "fc7", "cls_score", "bbox_pred"]
    for stage, count in enumerate(blocks, start=2):
        for i in range(count):
            for branch in ("2a", "2b", "2c") if i else ("1", "2a", "2b", "2c"):
                block = f"res{stage}_{i}_branch{branch}"
                names += [f"{block}_w", f"{block}_bn_s", f"{block}_bn_b"]
        level = f"res{stage}_{count - 1}_sum"
        layers += [f"fpn_inner_{level}" + ("" if stage == 5 else "_lateral"), f"fpn_{level}"]
    if cfg.MODEL.MASK_ON:
        layers += [f"_[mask]_fcn{i + 1}" for i in range(cfg.MODEL.ROI_MASK_HEAD.NUM_CONV)]
        layers.append("conv5_mask")
        if cfg.MODEL.ROI_MASK_HEAD.PREDICTOR == "class_specific":
            layers.append("mask_fcn_logits")
    return names + [f"{layer}_{end}" for layer in layers for end in _ENDINGS]


def _suffixes(name: str) -> List[str]:
    parts = name.split(".")
    return [".".join(parts[i:]) for i in range(len(parts) - 1)]


def _as_tensor(name: str, array: np.ndarray) -> torch.Tensor:
    if array.dtype.kind != "f" or array.ndim == 0:
        raise ValueError(f"blob '{name}' holds {array.dtype} of shape {array.shape}, not weights")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _of_own_memory(x: torch.Tensor) -> torch.Tensor:
    return x.clone() if x.untyped_storage().nbytes() > x.nbytes else x


def _add_constants(result: Conversion, model: nn.Module) -> None:
    """What detectron2's fixed batch normalisation has beside Detectron's scale and shift."""
    for name, module in model.named_modules():
        if isinstance(module, FrozenBatchNorm2d):
            zeros = torch.zeros(module.num_features)
            for key, value in (("running_mean", 0.0), ("running_var", 1.0 - module.eps)):
                result.model[f"{name}.{key}"] = zeros + value
                result.constants[f"{name}.{key}"] = f"{value:g}"


def _check_shapes(result: Conversion, shapes: Shapes, expected: Shapes) -> None:
    for blob, name in result.used.items():
        shape = tuple(result.model[name].shape)
        if shape != expected[name]:
            dropped = shapes[blob][0] - shape[0]  # rows of the background
            raise ValueError(
                mismatch(blob, shapes[blob], (expected[name][0] + dropped, *expected[name][1:]))
            )


def _why_ignored(name: str, value: Any) -> str:
    if name.endswith("_momentum"):
        return "optimizer state"
    if name.endswith("_jcvbackup"):
        return "copy of the weights for another set of classes"
    if not isinstance(value, np.ndarray):
        return "not an array"
    if re.fullmatch(VECTORS, name):
        return "embedding that the model does not read"
    return "no layer of the model has this name"


def _setting(settings: str, key: str) -> str:
    """A value in the YAML text of a Detectron config, which can hold Python's own tags."""
    match = re.search(rf"^\s*{key}:[ \t]*(?:!!\S+[ \t]+)?['\"]?(\w+)", settings, re.MULTILINE)
    return match[1] if match else ""
