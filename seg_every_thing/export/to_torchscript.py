"""A model as TorchScript: PyTorch and torchvision run it, without detectron2 and this package."""

from pathlib import Path

import torch
import torchvision  # noqa: F401  (registers the operators that the graphs call)
from detectron2.config import CfgNode

from ..files import PathLike, written_atomically
from .checks import check_exportable
from .graphs import graphs_of, model_to_export, tracing
from .layout import ENDINGS, written_folder
from .parity import check_parity
from .torchscript_model import TorchScriptModel

TOLERANCE = 1e-4
"""Of probabilities: the same operators, some of them in another order."""


def export_torchscript(cfg: CfgNode, output: PathLike) -> Path:
    """Write ``detector.ts``, ``prompted.ts`` and what describes them into a folder.

    Args:
        cfg: of a model with ``MODEL.WEIGHTS``.
        output: the folder.

    Returns:
        The folder.

    Raises:
        ValueError: for a model that cannot be exported, or weights that are not of this model.
        RuntimeError: when the files do not give what the model gives.
        OSError: when the files cannot be written.
    """
    check_exportable(cfg, "torchscript")
    model = model_to_export(cfg)
    with tracing(cfg):
        traced = {
            # Frozen: what has become a constant, T above all, is not stored.
            name: torch.jit.freeze(
                torch.jit.trace(graph, graph.flattened_inputs, check_trace=False)
            )
            for name, graph in graphs_of(cfg, model).items()
        }
    with written_folder(output, cfg, "torchscript") as folder:
        for name, graph in traced.items():
            with written_atomically(folder / f"{name}{ENDINGS['torchscript']}", "wb") as f:
                torch.jit.save(graph, f)
        check_parity(cfg, model, TorchScriptModel(folder, cfg), TOLERANCE)
    return Path(output)
