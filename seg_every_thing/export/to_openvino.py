"""The layers of a model as OpenVINO, for CPUs of Intel's kind; the rest stays with detectron2."""

import os
from pathlib import Path
from unittest import mock

import torch
from detectron2.config import CfgNode

from ..files import PathLike
from .bodies import FeatureBody, bodies_of
from .checks import check_exportable
from .graphs import model_to_export, tracing
from .layout import ENDINGS, written_folder
from .openvino_model import OpenVinoModel
from .optional import optional
from .parity import check_parity

TOLERANCE = 1e-2
"""Of scores and probabilities: convolutions of another library.  Wrong ones differ by far more."""


def export_openvino(cfg: CfgNode, output: PathLike) -> Path:
    """Write the parts of a model, each an .xml and a .bin, and what describes them into a folder.

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
    check_exportable(cfg, "openvino")
    openvino = optional("openvino", "openvino")
    model = model_to_export(cfg)
    parts = {}
    with tracing(cfg):
        for name, (body, inputs) in bodies_of(cfg, model).items():
            traced = torch.jit.trace(body, inputs, check_trace=False)
            with mock.patch.dict(os.environ, CI="true"):  # or it would report to its makers
                parts[name] = openvino.convert_model(traced, example_input=inputs)
            free = (2, 3) if isinstance(body, FeatureBody) else (0,)
            for port, example in zip(parts[name].inputs, inputs):
                shape = [-1 if i in free else n for i, n in enumerate(example.shape)]
                parts[name].reshape({port: openvino.PartialShape(shape)})
    with written_folder(output, cfg, "openvino", ("openvino",), model) as folder:
        for name, part in parts.items():
            path = folder / f"{name}{ENDINGS['openvino']}"
            openvino.save_model(part, str(path), compress_to_fp16=False)
        check_parity(cfg, model, OpenVinoModel(folder, cfg), TOLERANCE)
    return Path(output)
