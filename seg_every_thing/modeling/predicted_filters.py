"""Mask filters that T predicts from class vectors: of the classes needed, or of all, kept."""

from typing import Any, List, Optional, Tuple

import torch
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from torch import nn

from .weight_transfer import WeightTransfer, class_embedding

_CHUNK = 4096  # classes a step when T runs over all classes: bounds the memory of (K, 5120) rows


class PredictedFilters(nn.Module):
    """The part of RoI heads that knows class vectors and T; a base beside detectron2's heads."""

    num_classes: int
    box_predictor: FastRCNNOutputLayers
    weight_transfer: Optional[WeightTransfer]
    transfer_input: str
    class_vectors: torch.Tensor  # a buffer; None where another kind describes classes
    stop_gradient: bool
    normalize_over: Optional[torch.Tensor]
    _cached_weights: Optional[Tuple[Any, torch.Tensor]]

    def describe_classes(self, classes: torch.Tensor) -> torch.Tensor:
        """Class vectors, the input of T, for (n,) class indices: (n, D)."""
        vectors = self._raw_class_vectors(classes)
        if self.normalize_over is not None:
            centre = self._raw_class_vectors(self.normalize_over).mean(0)
            vectors = torch.nn.functional.normalize(vectors - centre)
        return vectors

    def _raw_class_vectors(self, classes: torch.Tensor) -> torch.Tensor:
        if self.transfer_input == "embedding":
            return self.class_vectors[classes]
        vectors = class_embedding(self.box_predictor, self.transfer_input, classes)
        return vectors.detach() if self.stop_gradient else vectors

    @torch.no_grad()
    def mask_weights(self) -> torch.Tensor:
        """Predicted mask filters of all classes, (K, C), without gradient.

        They are kept until a weight that they depend on changes, or training starts.  (A write
        through ``.data`` goes unseen by PyTorch; call ``train()`` or ``eval()`` after one.)

        Raises:
            ValueError: when the mask head's predictor is not "transfer".
        """
        transfer = self.weight_transfer
        if transfer is None:
            raise ValueError("only the predictor 'transfer' predicts mask filters")
        state = self._transfer_state(transfer)
        if self._cached_weights is None or state is None or self._cached_weights[0] != state:
            device = next(transfer.parameters()).device
            classes = torch.arange(self.num_classes, device=device).split(_CHUNK)
            # Autocast would leave filters of its low precision behind for runs without it.
            with torch.autocast(device.type, enabled=False):
                filters = torch.cat([transfer(self.describe_classes(part)) for part in classes])
            self._cached_weights = (state, filters)
        return self._cached_weights[1]

    def _transfer_state(self, transfer: WeightTransfer) -> Optional[List[Tuple[int, int]]]:
        """Changes with each write to what decides the filters; None when writes cannot be seen."""
        sources = list(transfer.parameters())
        if self.transfer_input == "embedding":
            sources.append(self.class_vectors)
        else:
            predictor = self.box_predictor
            sources += [predictor.cls_score.weight, predictor.bbox_pred.weight]
        if any(x.is_inference() for x in sources):
            return None
        return [(x.data_ptr(), x._version) for x in sources]

    def train(self, mode: bool = True) -> "PredictedFilters":
        """Set the mode; the kept mask filters are dropped, as training changes the weights."""
        self._cached_weights = None
        return super().train(mode)
