"""How long to train in the time that ``--minutes`` leaves."""

import logging
import math
import time
from typing import Dict, NamedTuple, Optional

from .options import Options

logger = logging.getLogger(__name__)

_FEWEST_ITERATIONS, _MOST_TIMES = 50, 10  # for --minutes; as often as the config's MAX_ITER
_PLANNED = 0.9  # share of the time that is planned: the rest is for what else there is to do


Plan = Dict[str, Optional[float]]
"""Of a training: its "iterations", and the "minutes" after which it ends anyway; None = never."""


class Pace(NamedTuple):
    """How long an iteration takes, while images are new to the model and afterwards."""

    seconds: float  # of an iteration whose images are new
    first_sight: float = 0.0  # of these seconds, what is spared when the images come again
    batch: int = 1  # images of an iteration
    images: float = math.inf  # that are different from each other

    def iterations(self, seconds: float) -> int:
        """How many fit into a time."""
        count = seconds / self.seconds
        if count * self.batch > self.images:  # each image is new but once
            spent = self.images * self.first_sight / self.batch
            count = (seconds - spent) / (self.seconds - self.first_sight)
        return int(count)


class Budget:
    """The time that ``--minutes`` leaves for training."""

    def __init__(self, options: Options, images: int, start: float, trainings: int = 1) -> None:
        """
        Args:
            options: of the run.
            images: to annotate.
            start: of the run, by ``time.monotonic``.
            trainings: that there will be, each with its rounds of self-training.
        """
        self.end = None if options.minutes is None else start + 60 * options.minutes
        self.images = images
        self._images = images / options.num_gpus
        self._models = trainings * (options.rounds + 1)

    def plan(self, pace: Pace, seconds_an_image: float, default: int) -> Plan:
        """How long to train.

        Args:
            pace: of training.
            seconds_an_image: to annotate; each round of self-training does so, too.
            default: the config's SOLVER.MAX_ITER.

        Returns:
            Of each model; "minutes" are needed where others begin to use the machine.
        """
        if self.end is None:
            return {"iterations": default, "minutes": None}
        left = self.end - time.monotonic() - self._models * self._images * seconds_an_image
        count = pace.iterations(_PLANNED * left / self._models)
        if count < _FEWEST_ITERATIONS:
            logger.warning(
                "--minutes leaves time for %d iterations of training: the least is %d, so it takes "
                "longer",
                *(max(count, 0), _FEWEST_ITERATIONS),
            )
            return {"iterations": _FEWEST_ITERATIONS, "minutes": None}
        minutes = round(left / self._models / 60, 3)
        return {"iterations": min(count, _MOST_TIMES * default), "minutes": minutes}
