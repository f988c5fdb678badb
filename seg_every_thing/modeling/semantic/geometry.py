"""Where the units of a feature map sit in the image: the algebra behind exact crops."""

from typing import NamedTuple


class Grid(NamedTuple):
    """Unit i of a map has its centre at ``start + step * i``, pixel i of the image at i."""

    step: float
    start: float

    def after(self, kernel: int, stride: int, padding: int) -> "Grid":
        """The grid of the output of a convolution or pooling layer on this map."""
        return Grid(self.step * stride, self.start + self.step * ((kernel - 1) / 2 - padding))

    def upsampled(self, kernel: int, stride: int, padding: int) -> "Grid":
        """The grid of the output of a transposed convolution on this map."""
        step = self.step / stride
        return Grid(step, self.start - step * ((kernel - 1) / 2 - padding))


IMAGE = Grid(1.0, 0.0)


def crop_offset(larger: Grid, target: Grid) -> int:
    """How many leading rows (columns) of one map to drop so that it starts where another does.

    Args:
        larger: the grid of the map to crop.
        target: the grid on which it has to lie afterwards.

    Raises:
        ValueError: when no crop of whole units does it.
    """
    offset = (target.start - larger.start) / larger.step
    if larger.step != target.step or offset < 0 or offset != int(offset):
        raise ValueError(
            f"a map with units at {larger.start:g} + {larger.step:g} i cannot be cropped to "
            f"{target.start:g} + {target.step:g} i: MODEL.VGG.CONV1_PAD is too small"
        )
    return int(offset)
