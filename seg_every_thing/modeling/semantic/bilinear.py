"""Upsampling by transposed convolution that starts out as, or stays, bilinear interpolation."""

import torch
from torch import nn


def bilinear_kernel(size: int) -> torch.Tensor:
    """The (size, size) kernel of bilinear upsampling by the factor (size + 1) // 2.

    The weight falls linearly from the kernel's centre; in one dimension, size 4 gives
    .25, .75, .75, .25.

    Raises:
        ValueError: for a size below 1.
    """
    if size < 1:
        raise ValueError(f"a bilinear kernel needs a size of at least 1, got {size}")
    factor = (size + 1) // 2
    distance = (torch.arange(size, dtype=torch.float64) - (size - 1) / 2).abs()
    line = 1 - distance / factor
    return torch.outer(line, line).to(torch.get_default_dtype())


class BilinearUpsample(nn.ConvTranspose2d):
    """Transposed convolution of kernel 2f and stride f, initialised to upsample f times.

    With ``same=True`` an (N, C, H, W) map becomes (N, C, f H, f W) and equals
    ``interpolate(mode="bilinear", align_corners=False)`` up to a border of f / 2 pixels, where the
    surroundings count as zero.  Otherwise it is not trimmed: f (H + 1) by f (W + 1).
    """

    def __init__(
        self,
        channels: int,
        factor: int,
        *,
        learned: bool = False,
        dense: bool = False,
        same: bool = True,
    ) -> None:
        """
        Args:
            channels: number of channels (classes).
            factor: even upsampling factor f.
            learned: whether training may change the kernels.
            dense: kernels between all pairs of channels, zero off the diagonal; else one a channel.
            same: trim f / 2 on each side.

        Raises:
            ValueError: for an odd factor.
        """
        if factor < 2 or factor % 2:
            raise ValueError(f"upsampling needs an even factor, got {factor}")
        super().__init__(
            channels,
            channels,
            kernel_size=2 * factor,
            stride=factor,
            padding=factor // 2 if same else 0,
            groups=1 if dense else channels,
            bias=False,
        )
        self.weight.requires_grad_(learned)
        self._fill_bilinear()

    @torch.no_grad()
    def _fill_bilinear(self) -> None:
        kernel = bilinear_kernel(self.kernel_size[0]).to(self.weight)
        self.weight.zero_()
        channels = torch.arange(self.in_channels, device=self.weight.device)
        # The second axis has one entry a group: the diagonal of a dense kernel, 0 of a grouped one.
        self.weight[channels, channels if self.groups == 1 else 0] = kernel
