"""Hooks that keep the best model of a validation metric, and stop when it gets no better."""

import logging
import math
import operator
from typing import Any, Dict, Optional

from detectron2.engine import HookBase
from detectron2.engine.hooks import BestCheckpointer
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class StopTraining(BaseException):  # noqa: N818 (no error)
    """Ends the training loop of detectron2 in good order.

    No ``Exception``: the loop reports those as failures.  Its hooks' ``after_train`` still run.
    """


class ResumableBestCheckpointer(BestCheckpointer):
    """BestCheckpointer that still knows the best value when training is resumed."""

    def state_dict(self) -> Dict[str, Any]:
        best = {"best_metric": self.best_metric, "best_iter": self.best_iter}
        return {**best, "metric": self._val_metric}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        if _is_of(state, self._val_metric):
            self.best_metric, self.best_iter = state["best_metric"], state["best_iter"]


class EarlyStopping(HookBase):
    """Raise :class:`StopTraining` after some evaluations without a new best value.

    Must come after detectron2's ``EvalHook``, on all processes.  Around ``trainer.train()``, catch
    :class:`StopTraining` (``SemanticTrainer`` does).
    """

    def __init__(self, eval_period: int, metric: str, patience: int, mode: str = "max") -> None:
        """
        Args:
            eval_period: iterations between evaluations, as of ``EvalHook``.
            metric: name in the storage, such as "sem_seg/mIoU".
            patience: evaluations in a row that may bring no new best.
            mode: "max" where more is better, or "min".

        Raises:
            ValueError: for a period or a patience below 1, or an unknown mode.
        """
        if patience < 1 or eval_period < 1:
            raise ValueError(
                f"early stopping needs TEST.EVAL_PERIOD and TEST.EARLY_STOPPING.PATIENCE of 1 or "
                f"more, got {eval_period} and {patience}"
            )
        if mode not in ("max", "min"):
            raise ValueError(f"early stopping: mode is '{mode}', expected 'max' or 'min'")
        self._period = eval_period
        self._metric = metric
        self._patience = patience
        self._better = operator.gt if mode == "max" else operator.lt
        self.best: Optional[float] = None
        self.evaluations_since_best = 0

    def after_step(self) -> None:
        """After an evaluation, compare and perhaps stop.

        Raises:
            StopTraining: on all processes at once.
            ValueError: when the evaluation does not give the metric.
        """
        done = self.trainer.iter + 1
        # The last iteration evaluates after training.
        if done % self._period or done == self.trainer.max_iter:
            return
        # Only the main process knows the results; all of them must stop, or none.
        problem = self._look() if comm.is_main_process() else None
        problem = next((p for p in comm.all_gather(problem) if p), None)
        if problem:
            raise ValueError(problem)
        if any(comm.all_gather(self.evaluations_since_best >= self._patience)):
            logger.info(
                "Early stop: no new best %s in %s evaluations; the best is %s",
                *(self._metric, self._patience, self.best),
            )
            raise StopTraining

    def _look(self) -> Optional[str]:
        latest = self.trainer.storage.latest()
        if self._metric not in latest:
            known = sorted(k for k in latest if "/" in k)
            return (
                f"TEST.EARLY_STOPPING.METRIC '{self._metric}' is not evaluated; there are: "
                f"{', '.join(known) or 'none'}"
            )
        value = latest[self._metric][0]
        if not math.isnan(value) and (self.best is None or self._better(value, self.best)):
            self.best = value
            self.evaluations_since_best = 0
        else:
            self.evaluations_since_best += 1
        return None

    def state_dict(self) -> Dict[str, Any]:
        since = {"evaluations_since_best": self.evaluations_since_best}
        return {"best": self.best, **since, "metric": self._metric}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        if _is_of(state, self._metric):
            self.best = state["best"]
            self.evaluations_since_best = state["evaluations_since_best"]


def _is_of(state: Dict[str, Any], metric: str) -> bool:
    """Whether the best value of a checkpoint is one of this metric; older ones do not say."""
    known = state.get("metric", metric)
    if known != metric:
        logger.warning(
            "The checkpoint knows the best %s, and now %s counts: the best is looked for anew",
            *(known, metric),
        )
    return known == metric
