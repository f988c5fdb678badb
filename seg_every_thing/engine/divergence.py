"""A training that diverges ends with one line: when, what to do, and the last good weights."""

import contextlib
import logging
import re
from pathlib import Path
from typing import Any, Iterator

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from ..errors import is_expected, one_line

_LOOP = logging.getLogger("detectron2.engine.train_loop")


class FiniteWeights(HookBase):
    """Keeps weights that are not finite out of checkpoints.

    The loss of a step can be finite when its weights no longer are.  It must run on all processes,
    before what writes checkpoints.
    """

    def __init__(self, *periods: int) -> None:
        """
        Args:
            periods: as of ``ExactResume``.
        """
        self._periods = [period for period in periods if period > 0]

    def after_step(self) -> None:
        """
        Raises:
            FloatingPointError: when a parameter of the model is infinite or NaN.
        """
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or any(done % period == 0 for period in self._periods):
            with divergence_explained(self.trainer):
                if not _finite(self.trainer.model):
                    raise FloatingPointError("weights became infinite or NaN")


@contextlib.contextmanager
def divergence_explained(trainer: Any) -> Iterator[None]:
    """Around a step of a ``DefaultTrainer``: say what to do about weights that have run away.

    Raises:
        FloatingPointError: for each of the ways in which a step fails on infinite numbers.
    """
    try:
        yield
    except Exception as e:
        if not _has_diverged(e, trainer.model):
            raise
        raise FloatingPointError(
            f"training has diverged at iteration {trainer.iter} ({_reason(e)}): lower "
            f"SOLVER.BASE_LR (now {trainer.cfg.SOLVER.BASE_LR:g}) or raise SOLVER.WARMUP_ITERS; "
            f"{_last_good(trainer)}"
        ) from e


def _last_good(trainer: Any) -> str:
    checkpointer = trainer.checkpointer
    marker = Path(checkpointer.save_dir, "last_checkpoint")
    # Not that of another training in the same folder.
    if marker.is_file() and (trainer.start_iter or marker.stat().st_mtime >= checkpointer.created):
        return f"the last good checkpoint is '{checkpointer.get_checkpoint_file()}'"
    return "no checkpoint was saved"


def _has_diverged(error: Exception, model: nn.Module) -> bool:
    if isinstance(error, FloatingPointError):
        return True
    # Boxes and probabilities are checked in many places, each with words of its own.
    named = isinstance(error, (AssertionError, RuntimeError)) and re.search(
        r"\b(nan|infinite|inf)\b", str(error), re.IGNORECASE
    )
    return bool(named) or not _finite(model)


def _finite(model: nn.Module) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip("!.")


@contextlib.contextmanager
def errors_told_once() -> Iterator[None]:
    """Let detectron2's loop log an error in a line where the caller will tell it.

    That is an expected one, or any of several processes: their parent has the traceback.
    """

    def without_traceback(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not (is_expected(error) or comm.get_world_size() > 1):
            return True
        record.msg, record.args, record.exc_info = "Training ends: %s", (one_line(error),), None
        return record.funcName == "train"  # what fails inside a step is logged there, too

    _LOOP.addFilter(without_traceback)
    try:
        yield
    finally:
        _LOOP.removeFilter(without_traceback)
