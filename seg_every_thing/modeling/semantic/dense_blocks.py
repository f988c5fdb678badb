"""Dense blocks of FC-DenseNet and their initial weights."""

import torch
from torch import nn

from .batch_statistics import SwitchableBatchNorm2d


def he_uniform_(module: nn.Module) -> None:
    """HeUniform weights, uniform in +-sqrt(6 / fan in), and zero biases, for every convolution."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class NormReluConv(nn.Sequential):
    """BN, ReLU, convolution of the same size, dropout: (N, C, H, W) to (N, D, H, W)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, dropout: float, statistics: str
    ) -> None:
        super().__init__(
            SwitchableBatchNorm2d(in_channels, statistics=statistics),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2),
            nn.Dropout(dropout),
        )


class DenseBlock(nn.Module):
    """Layers each of which sees the input and the maps of all layers before it (section 3.1)."""

    def __init__(
        self, in_channels: int, num_layers: int, growth_rate: int, dropout: float, statistics: str
    ) -> None:
        """
        Args:
            in_channels: C, channels of the input.
            num_layers: number of layers.
            growth_rate: new maps a layer.
            dropout: rate behind each layer.
            statistics: of batch normalisation at test time, see :mod:`.batch_statistics`.
        """
        super().__init__()
        self.in_channels = in_channels
        self.new_channels = num_layers * growth_rate
        self.out_channels = in_channels + self.new_channels
        self.layers = nn.ModuleList(
            NormReluConv(in_channels + i * growth_rate, growth_rate, 3, dropout, statistics)
            for i in range(num_layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C + new, H, W): the input, then the new maps."""
        for layer in self.layers:
            x = torch.cat((x, layer(x)), dim=1)
        return x

    def new_maps(self, stack: torch.Tensor) -> torch.Tensor:
        """The part of the output that the block has made: (N, new, H, W)."""
        return stack[:, self.in_channels :]
