"""An exported TorchScript model behind the interface of detectron2's models."""

from pathlib import Path
from typing import Dict, Optional, Tuple

import torch
import torchvision  # noqa: F401  (registers the operators that the graphs call)
from detectron2.config import CfgNode

from ..files import printable
from .graph_model import ExportedModel
from .layout import ENDINGS


class TorchScriptModel(ExportedModel):
    """The graphs of a folder, each loaded when it is first needed."""

    def __init__(self, folder: Path, cfg: CfgNode, device: Optional[str] = None) -> None:
        """
        Args:
            folder: with the graphs.
            cfg: of the model that was exported.
            device: where to run; None = the CPU.
        """
        super().__init__(cfg)
        self._folder = folder
        self._graphs: Dict[str, torch.jit.ScriptModule] = {}
        self.device = torch.device(device or "cpu")

    def detected(self, image: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        return self._graph("detector")(image)

    def prompted(
        self, image: torch.Tensor, boxes: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        return self._graph("prompted")(image, boxes, classes)[0]

    def _graph(self, name: str) -> torch.jit.ScriptModule:
        if name not in self._graphs:
            path = self._folder / f"{name}{ENDINGS['torchscript']}"
            try:
                self._graphs[name] = torch.jit.load(str(path), map_location=self.device)
            except (RuntimeError, ValueError) as e:
                raise ValueError(
                    f"cannot load '{printable(path)}': it is missing or no TorchScript: export the "
                    f"model again"
                ) from e
        return self._graphs[name]
