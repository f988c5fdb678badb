"""An exported ONNX model behind the interface of detectron2's models."""

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
from detectron2.config import CfgNode

from ..files import printable
from .graph_model import ExportedModel
from .layout import ENDINGS
from .optional import optional


class OnnxModel(ExportedModel):
    """The graphs of a folder, each loaded when it is first needed.

    ONNX Runtime takes as many threads as PyTorch has at that time.
    """

    def __init__(self, folder: Path, cfg: CfgNode, device: Optional[str] = None) -> None:
        """
        Args:
            folder: with the graphs.
            cfg: of the model that was exported.
            device: "cuda" where ONNX Runtime can use it; None = the CPU.

        Raises:
            ValueError: when ONNX Runtime is not installed, or cannot use the device.
        """
        super().__init__(cfg)
        self._runtime = optional("onnxruntime", "onnx")
        self._folder = folder
        self._sessions: Dict[str, Any] = {}
        self._providers = ["CPUExecutionProvider"]
        if device is not None and torch.device(device).type == "cuda":
            if "CUDAExecutionProvider" not in self._runtime.get_available_providers():
                raise ValueError(
                    f"this ONNX Runtime cannot use the device '{device}': install onnxruntime-gpu "
                    f"in the place of onnxruntime, or use the CPU"
                )
            self._providers.insert(0, "CUDAExecutionProvider")

    def detected(self, image: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        return tuple(self._run("detector", image))

    def prompted(
        self, image: torch.Tensor, boxes: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        return self._run("prompted", image, boxes, classes)[0]

    def _run(self, name: str, *inputs: torch.Tensor) -> List[torch.Tensor]:
        session = self._session(name)
        # A graph lacks the inputs that its outputs do not depend on: classes, where masks do not.
        given = dict(zip(("image", "boxes", "classes"), inputs))
        feed = {x.name: given[x.name].contiguous().numpy() for x in session.get_inputs()}
        return [torch.from_numpy(x) for x in session.run(None, feed)]

    def _session(self, name: str) -> Any:
        if name not in self._sessions:
            path = self._folder / f"{name}{ENDINGS['onnx']}"
            options = self._runtime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            try:
                self._sessions[name] = self._runtime.InferenceSession(
                    str(path), options, providers=self._providers
                )
            except Exception as e:  # its own kinds, which have no common base
                reason = (str(e).strip().splitlines() or [type(e).__name__])[0]
                raise ValueError(
                    f"ONNX Runtime cannot load '{printable(path)}': {reason}. Export it again"
                ) from e
        return self._sessions[name]
