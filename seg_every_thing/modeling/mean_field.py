"""Sharper labels with the image at hand: a conditional random field of pairs in a window.

The model and its mean-field inference are those of Krähenbühl and Koltun, "Efficient Inference in
Fully Connected CRFs with Gaussian Edge Potentials" (NIPS 2011), with Potts compatibility.  A pixel
is paired with those of a window about it, denser near by, and their kernels are computed exactly.
"""

import math
from typing import Any, Dict, List, Sequence, Tuple

import torch
from detectron2.config import CfgNode, configurable

from .neighbours import Step, first_of_pairs, second_of_pairs

_SURE = 1e-4
_UNLIKE_ANY = 1e4  # a colour


class MeanField:
    """Mean-field inference with an appearance and a smoothness kernel (paper, equation 3).

    Two pixels i and j that agree lower the energy by ::

        w1 a(i, j) / sqrt(A(i) A(j)) + w2 s(i, j) / sqrt(S(i) S(j))
        a(i, j) = exp(-|p_i - p_j|^2 / (2 alpha^2) - |I_i - I_j|^2 / (2 beta^2))
        s(i, j) = exp(-|p_i - p_j|^2 / (2 gamma^2))

    with A(i) = 1 + the sum of a(i, j) over the other pixels j of the window about i, S(i) likewise.
    So normalised, the weights are log-odds, whatever the number of pixels: a pixel all of whose
    window is like it and has one label gets about w1 + w2 in favour of that label.
    """

    @configurable
    def __init__(
        self,
        *,
        iterations: int = 5,
        appearance_weight: float = 10.0,
        appearance_sigma: float = 14.0,
        color_sigma: float = 12.0,
        smoothness_weight: float = 0.5,
        smoothness_sigma: float = 2.0,
        steps: Sequence[int] = (1, 2, 3, 5, 8, 12),
    ) -> None:
        """
        Args:
            iterations: of the mean field.
            appearance_weight: w1.
            appearance_sigma: alpha, in pixels.
            color_sigma: beta, in values of 0 to 255.
            smoothness_weight: w2.
            smoothness_sigma: gamma, in pixels.
            steps: distances, in pixels, down or to the right, of the pixels of the window.

        Raises:
            ValueError: for a value out of range.
        """
        key = "TEST.MEAN_FIELD"
        for name, value, fits in (
            ("ITERATIONS", iterations, iterations >= 1),
            ("APPEARANCE_WEIGHT", appearance_weight, appearance_weight >= 0),
            ("APPEARANCE_SIGMA", appearance_sigma, appearance_sigma > 0),
            ("COLOR_SIGMA", color_sigma, color_sigma > 0),
            ("SMOOTHNESS_WEIGHT", smoothness_weight, smoothness_weight >= 0),
            ("SMOOTHNESS_SIGMA", smoothness_sigma, smoothness_sigma > 0),
            ("STEPS", steps, len({*steps}) == len(steps) > 0 and min(steps) >= 1),
        ):
            if not fits:
                raise ValueError(f"{key}.{name} {value} is out of range")
        self.iterations = iterations
        self.appearance_weight = appearance_weight
        self.appearance_sigma = appearance_sigma
        self.color_sigma = color_sigma
        self.smoothness_weight = smoothness_weight
        self.smoothness_sigma = smoothness_sigma
        along = [*(-step for step in steps), 0, *steps]
        # Half of the window: a pair is the same from its other end.
        self.steps: List[Step] = [(y, x) for y in along for x in along if (y, x) > (0, 0)]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Dict[str, Any]:
        return {key.lower(): value for key, value in cfg.TEST.MEAN_FIELD.items()}

    @torch.no_grad()
    def __call__(self, log_probabilities: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """
        Args:
            log_probabilities: (N, L, H, W) of L labels, or scores that differ from them by a
                constant a pixel.  Their negatives are the unary potentials.
            images: (N, C, H, W), values of 0 to 255.

        Returns:
            (N, L, H, W) log-probabilities, in float32 at least.
        """
        with torch.autocast(images.device.type, enabled=False):
            kind = torch.promote_types(log_probabilities.dtype, torch.float32)
            unary, images = log_probabilities.to(kind), images.to(kind)
            kernels = self._kernels(images)
            result = unary.log_softmax(dim=1)
            for _ in range(self.iterations):
                q, message = result.exp(), torch.zeros_like(unary)
                for step, kernel in kernels:
                    first_of_pairs(message, step).addcmul_(kernel, second_of_pairs(q, step))
                    second_of_pairs(message, step).addcmul_(kernel, first_of_pairs(q, step))
                result = (unary + message).log_softmax(dim=1)
            return result

    def masks(
        self, probabilities: torch.Tensor, images: torch.Tensor, shown: torch.Tensor
    ) -> torch.Tensor:
        """Masks as two labels, in the mask or not.

        Args:
            probabilities: (N, 1, H, W) of being in the mask; none counts as quite sure.
            images: (N, C, H, W), values of 0 to 255.
            shown: (N, H, W) bool, the pixels of which there is a colour; that of others is like
                none.

        Returns:
            (N, 1, H, W) probabilities, in float32 at least.
        """
        p = probabilities.clamp(_SURE, 1 - _SURE)
        images = images.masked_fill(~shown[:, None], _UNLIKE_ANY)
        return self(torch.cat([(1 - p).log(), p.log()], dim=1), images)[:, 1:].exp()

    def _kernels(self, images: torch.Tensor) -> List[Tuple[Step, torch.Tensor]]:
        """What agreement of each pair is worth: a step, and (N, 1, H', W') of its first pixels."""
        ones = torch.ones_like(images[:, :1])
        pairs, near, alike = [], ones.clone(), ones.clone()
        for step in self.steps:
            square = step[0] ** 2 + step[1] ** 2
            difference = first_of_pairs(images, step) - second_of_pairs(images, step)
            color = (difference * difference).sum(dim=1, keepdim=True)
            a = (-square / (2 * self.appearance_sigma**2) - color / (2 * self.color_sigma**2)).exp()
            s = math.exp(-square / (2 * self.smoothness_sigma**2))
            pairs.append((step, a, s))
            for end in (first_of_pairs, second_of_pairs):
                end(alike, step).add_(a)
                end(near, step).add_(s)
        alike, near = alike.rsqrt(), near.rsqrt()
        return [
            (
                step,
                self.appearance_weight * a * _product_of_ends(alike, step)
                + self.smoothness_weight * s * _product_of_ends(near, step),
            )
            for step, a, s in pairs
        ]


def _product_of_ends(x: torch.Tensor, step: Step) -> torch.Tensor:
    return first_of_pairs(x, step) * second_of_pairs(x, step)
