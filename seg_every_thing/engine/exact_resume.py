"""A hook that lets a resumed training give the weights of one that was never interrupted."""

import logging
from typing import Any, Dict, List, Optional, Sequence

from detectron2.engine import HookBase
from detectron2.engine.hooks import PreciseBN
from detectron2.utils import comm

from ..data.training_stream import TrainingLoader

logger = logging.getLogger(__name__)


class ExactResume(HookBase):
    """Keeps, in each checkpoint, where the data of every process are and what its generators hold.

    It needs a loader of :func:`build_training_loader`.  It must run on all processes, after what
    draws random numbers in a step (evaluation) and before what writes checkpoints.
    """

    def __init__(self, *periods: int) -> None:
        """
        Args:
            periods: a checkpoint may be written after each multiple of one of these iterations, and
                after the last one; 0 = never.
        """
        self._periods = [period for period in periods if period > 0]
        self._states: List[Dict[str, Any]] = []
        self._iteration = -1
        self._loaded: Optional[Sequence[Dict[str, Any]]] = None

    def before_train(self) -> None:
        """Where training is resumed, go on with the data and generators of the checkpoint."""
        if self.trainer.start_iter == 0:
            return
        problem = self._restore()
        if problem:
            logger.warning("Resumed, but not bit for bit as without the interruption: %s", problem)

    def _restore(self) -> str:
        loader = self.trainer.data_loader
        if self._loaded is None:
            return "the checkpoint does not hold the position in the data, which start again"
        if not isinstance(loader, TrainingLoader):
            return "the training loader is not one of build_training_loader; the data start again"
        try:
            # Where there were fewer processes, any state says so.
            loader.load_state_dict(self._loaded[comm.get_rank() % len(self._loaded)])
        except ValueError as e:
            return f"{e}; the data start again"
        if any(isinstance(hook, PreciseBN) for hook in self.trainer._hooks):
            return "TEST.PRECISE_BN has data of its own, which start again"
        return ""

    def after_step(self) -> None:
        """Gather the states of all processes on the main one, where a checkpoint may follow."""
        done = self.trainer.iter + 1
        if comm.get_world_size() == 1 or not isinstance(self.trainer.data_loader, TrainingLoader):
            return
        if done == self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            self._states = comm.gather(self.trainer.data_loader.state_dict())
            self._iteration = self.trainer.iter

    def state_dict(self) -> Dict[str, Any]:
        """The states of all processes; empty where they are not known."""
        loader = self.trainer.data_loader
        if comm.get_world_size() == 1 and isinstance(loader, TrainingLoader):
            return {"processes": [loader.state_dict()]}
        return {"processes": self._states} if self._iteration == self.trainer.iter else {}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self._loaded = state["processes"]
