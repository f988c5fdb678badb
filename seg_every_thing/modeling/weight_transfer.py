"""The weight transfer function T: from what a detector knows of a class to how to segment it.

Learning to Segment Every Thing, section 3.2: ``w_seg[c] = T(w_det[c])``.
"""

from typing import Any, Dict, Optional

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from fvcore.nn import weight_init
from torch import nn

ACTIVATIONS = {
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "relu": nn.ReLU,
    "none": nn.Identity,
}


def class_embedding(
    box_predictor: FastRCNNOutputLayers, kind: str, classes: Optional[torch.Tensor] = None
) -> torch.Tensor:
    """Class vectors ``w_det`` read off a box predictor; rows are gathered before anything else.

    Args:
        box_predictor: with K classes and F input features; background is its last class row.
        kind: "cls" (width F), "box" (4F: dx, dy, dw, dh end to end) or "cls+box" (5F, cls first).
        classes: (n,) class indices; None = all K in order.

    Returns:
        (n, width), attached to the graph of the predictor's weights.  Biases are not used.

    Raises:
        ValueError: for an unknown kind, or box vectors of class-agnostic box regression.
    """
    if kind not in ("cls", "box", "cls+box"):
        raise ValueError(f"unknown class vector '{kind}': expected cls, box or cls+box")
    num_classes = box_predictor.cls_score.weight.shape[0] - 1
    rows = slice(num_classes) if classes is None else classes
    parts = []
    if "cls" in kind:
        parts.append(box_predictor.cls_score.weight[rows])
    if "box" in kind:
        weight = box_predictor.bbox_pred.weight
        if weight.shape[0] != 4 * num_classes:
            raise ValueError(
                f"class vector '{kind}' needs box regression weights for each class: set "
                f"MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG False, or use 'cls'"
            )
        parts.append(weight.view(num_classes, -1)[rows])
    return torch.cat(parts, dim=1)


class WeightTransfer(nn.Module):
    """The multilayer perceptron T, shared by all classes."""

    @configurable
    def __init__(
        self,
        *,
        input_dim: int,
        output_dim: int = 256,
        num_layers: int = 2,
        activation: str = "leaky_relu",
        init_scale: float = 1.0,
    ) -> None:
        """
        Args:
            input_dim: width of a class vector.
            output_dim: channels of the mask features, also the width of the hidden layers.
            num_layers: number of fully connected layers.
            activation: between the layers: "leaky_relu" (slope 0.1), "relu" or "none".
            init_scale: factor on the initial weights of the first layer.  Training moves them
                within the span of the class vectors of set A alone; what is outside keeps its
                initial, random weights, and reaches the filters of set B.

        Raises:
            ValueError: for fewer than 1 layer, an unknown activation or a negative scale.
        """
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"MODEL.WEIGHT_TRANSFER.NUM_LAYERS must be at least 1: {num_layers}")
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"MODEL.WEIGHT_TRANSFER.ACTIVATION '{activation}' is not one of "
                f"{', '.join(ACTIVATIONS)}"
            )
        if init_scale < 0:
            raise ValueError(f"MODEL.WEIGHT_TRANSFER.INIT_SCALE must be at least 0: {init_scale}")
        layers = []
        for i in range(num_layers):
            layer = nn.Linear(input_dim if i == 0 else output_dim, output_dim)
            # Scaled by the number of outputs whatever the input width, as in the original.
            weight_init.c2_msra_fill(layer)
            if i == 0:
                layer.weight.data.mul_(init_scale)
            layers += [layer] if i == num_layers - 1 else [layer, ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_dim: int) -> Dict[str, Any]:
        return {
            "input_dim": input_dim,
            "output_dim": cfg.MODEL.ROI_MASK_HEAD.CONV_DIM,
            "num_layers": cfg.MODEL.WEIGHT_TRANSFER.NUM_LAYERS,
            "activation": cfg.MODEL.WEIGHT_TRANSFER.ACTIVATION,
            "init_scale": cfg.MODEL.WEIGHT_TRANSFER.INIT_SCALE,
        }

    def forward(self, class_vectors: torch.Tensor) -> torch.Tensor:
        """(n, input_dim) class vectors -> (n, output_dim) mask weights; n may be 0."""
        return self.layers(class_vectors)
