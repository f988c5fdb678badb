"""The MLP branch of the mask head: the gist of a shape, whatever the class."""

from typing import List

import torch
from fvcore.nn import weight_init
from torch import nn


class MaskMLP(nn.Module):
    """Class-agnostic mask logits from fully connected layers (paper, section 3.4)."""

    def __init__(self, input_size: int, side: int, *, num_fc: int = 1, fc_dim: int = 1024) -> None:
        """
        Args:
            input_size: number of values of one RoI's features.
            side: height and width of the predicted mask.
            num_fc: number of fully connected layers; all but the last are followed by a ReLU.
            fc_dim: outputs of the layers before the last.

        Raises:
            ValueError: for fewer than 1 layer.
        """
        super().__init__()
        if num_fc < 1:
            raise ValueError(f"MODEL.ROI_MASK_HEAD.MLP.NUM_FC must be at least 1, got {num_fc}")
        self.side = side
        layers: List[nn.Module] = [nn.Flatten()]
        for _ in range(num_fc - 1):
            layers += [nn.Linear(input_size, fc_dim), nn.ReLU()]
            weight_init.c2_msra_fill(layers[-2])
            input_size = fc_dim
        layers.append(nn.Linear(input_size, side * side))
        nn.init.normal_(layers[-1].weight, std=0.001)
        nn.init.zeros_(layers[-1].bias)
        self.layers = nn.Sequential(*layers)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(R, C, H, W) RoI features -> (R, 1, side, side) logits; R may be 0."""
        return self.layers(features).view(features.shape[0], 1, self.side, self.side)
