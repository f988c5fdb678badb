"""A model as ONNX: ONNX Runtime runs it, without PyTorch, detectron2 and this package."""

import inspect
import io
from pathlib import Path
from typing import Any, Dict

import torch
from detectron2.config import CfgNode
from detectron2.export import TracingAdapter

from ..files import PathLike, written_atomically
from .checks import check_exportable
from .graphs import graphs_of, model_to_export, tracing
from .layout import ENDINGS, GRAPHS, written_folder
from .onnx_model import OnnxModel
from .optional import optional
from .parity import check_parity

OPSET = 16
"""RoIAlign of lower ones has no `aligned`: features would shift by half a pixel, silently."""
TOLERANCE = 1e-2
"""Of scores and probabilities: convolutions of another library.  Wrong ones differ by far more."""

_DYNAMIC = {
    "image": {1: "height", 2: "width"},
    **{name: {0: "n"} for name in ("boxes", "classes", "scores", "masks")},
}


def export_onnx(cfg: CfgNode, output: PathLike) -> Path:
    """Write ``detector.onnx``, ``prompted.onnx`` and what describes them into a folder.

    Args:
        cfg: of a model with ``MODEL.WEIGHTS``.
        output: the folder.

    Returns:
        The folder.

    Raises:
        ValueError: for a model that cannot be exported, weights that are not of this model, or
            when a package is missing.
        RuntimeError: when the files do not give what the model gives.
        OSError: when the files cannot be written.
    """
    check_exportable(cfg, "onnx")
    packages = ("onnx", "onnxruntime")
    for package in packages:
        optional(package, "onnx")
    model = model_to_export(cfg)
    with tracing(cfg):
        graphs = {name: _as_onnx(name, graph) for name, graph in graphs_of(cfg, model).items()}
    with written_folder(output, cfg, "onnx", packages) as folder:
        for name, graph in graphs.items():
            with written_atomically(folder / f"{name}{ENDINGS['onnx']}", "wb") as f:
                f.write(graph)
        check_parity(cfg, model, OnnxModel(folder, cfg), TOLERANCE)
    return Path(output)


def _as_onnx(name: str, graph: TracingAdapter) -> bytes:
    inputs, outputs = GRAPHS[name]
    options: Dict[str, Any] = {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False  # the other exporter fails on detection models
    made = io.BytesIO()
    torch.onnx.export(
        graph,
        graph.flattened_inputs,
        made,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_axes={x: _DYNAMIC[x] for x in (*inputs, *outputs)},
        **options,
    )
    return made.getvalue()
