"""A hook that ends a training when its time is up."""

import logging
import time

from detectron2.engine import HookBase
from detectron2.utils import comm

from .early_stopping import StopTraining

logger = logging.getLogger(__name__)

_PERIOD = 5  # iterations between looks at the clock, as all processes have to agree


class TimeLimit(HookBase):
    """Raise :class:`StopTraining` after some minutes.

    The time of a training that was ended and goes on counts from where it goes on.
    """

    def __init__(self, minutes: float) -> None:
        """
        Args:
            minutes: of training, from its first iteration on.
        """
        self._minutes = minutes
        self._end = float("inf")

    def before_train(self) -> None:
        """Start the clock."""
        self._end = time.monotonic() + 60 * self._minutes

    def after_step(self) -> None:
        """Look at the clock.

        Raises:
            StopTraining: on all processes at once.
        """
        done = self.trainer.iter + 1
        if done % _PERIOD or done == self.trainer.max_iter:
            return
        if any(comm.all_gather(time.monotonic() > self._end)):
            logger.warning(
                "The time for training is up: it ends after %d of %d iterations",
                *(done, self.trainer.max_iter),
            )
            raise StopTraining
