"""Early stopping: patience, direction, resumption, and all processes at once."""

from typing import Any, Dict, List, Optional

import pytest
from detectron2.engine import TrainerBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm

from seg_every_thing.engine.early_stopping import (
    EarlyStopping,
    ResumableBestCheckpointer,
    StopTraining,
)


class Loop(TrainerBase):
    """A trainer that learns nothing and whose k-th evaluation gives the k-th value."""

    def __init__(self, values: List[float], stopping: EarlyStopping, period: int = 2) -> None:
        super().__init__()
        remaining = iter(values)

        def evaluate() -> Optional[Dict[str, Any]]:
            value = next(remaining)
            return {"sem_seg": {"mIoU": value}} if comm.is_main_process() else None

        self.stopping = stopping
        self.register_hooks([EvalHook(period, evaluate), stopping])

    def run_step(self) -> None:
        pass


def stopped_at(values: List[float], patience: int, mode: str = "max") -> Optional[int]:
    """Evaluations until it stops; None when it goes on to the end."""
    loop = Loop(values, EarlyStopping(2, "sem_seg/mIoU", patience, mode))
    try:
        loop.train(0, 2 * len(values))
    except StopTraining:
        return (loop.iter + 1) // 2
    return None


@pytest.mark.parametrize(
    "values, patience, mode, expected",
    [
        ([1, 2, 3, 4, 5, 6], 1, "max", None),
        ([1, 3, 2, 2.5, 2, 9], 2, "max", 4),
        ([1, 3, 2, 4, 3, 3, 3, 9], 3, "max", 7),
        ([3, 3, 3, 3], 2, "max", 3),  # as good as the best is no new best
        ([5, 4, 3, 4, 5, 6], 2, "min", 5),
        ([float("nan")] * 4, 2, "max", 2),
        ([1, float("nan"), 2, 1, 1, 1], 2, "max", 5),
        # The last evaluation comes after training and stops nothing.
        ([3, 2, 1], 2, "max", None),
    ],
)
def test_patience(values: List[float], patience: int, mode: str, expected: Optional[int]) -> None:
    assert stopped_at(values, patience, mode) == expected


def test_state_survives_a_checkpoint() -> None:
    loop = Loop([5, 4, 4, 0], EarlyStopping(2, "sem_seg/mIoU", 3))
    loop.train(0, 6)  # the third evaluation is the one after training, which does not count
    state = loop.state_dict()
    again = Loop([4, 9, 9], EarlyStopping(2, "sem_seg/mIoU", 3))
    again.load_state_dict(state)
    assert (again.stopping.best, again.stopping.evaluations_since_best) == (5, 1)
    best = ResumableBestCheckpointer(2, None, "sem_seg/mIoU")
    best.load_state_dict({"best_metric": 7.0, "best_iter": 3})
    state = best.state_dict()
    assert state == {"best_metric": 7.0, "best_iter": 3, "metric": "sem_seg/mIoU"}


def test_the_best_of_another_metric_is_none_of_this(caplog: pytest.LogCaptureFixture) -> None:
    loop = Loop([5, 4, 4, 0], EarlyStopping(2, "sem_seg/mIoU", 3))
    loop.train(0, 6)
    other = EarlyStopping(2, "sem_seg/pixel_acc", 3)
    other.load_state_dict(loop.stopping.state_dict())
    assert (other.best, other.evaluations_since_best) == (None, 0)
    best = ResumableBestCheckpointer(2, None, "sem_seg/mIoU")
    best.load_state_dict({"best_metric": 93.0, "best_iter": 3, "metric": "sem_seg/pixel_acc"})
    assert best.best_metric is None
    assert "knows the best sem_seg/pixel_acc, and now sem_seg/mIoU counts" in caplog.text


def test_metric_that_nobody_evaluates() -> None:
    loop = Loop([1, 2, 3], EarlyStopping(2, "bbox/AP", 1))
    with pytest.raises(ValueError, match="METRIC 'bbox/AP' is not evaluated.*sem_seg/mIoU"):
        loop.train(0, 6)


@pytest.mark.parametrize(
    "period, patience, mode, words",
    [(0, 1, "max", "TEST.EVAL_PERIOD"), (1, 0, "max", "PATIENCE"), (1, 1, "best", "'best'")],
)
def test_bad_settings(period: int, patience: int, mode: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EarlyStopping(period, "sem_seg/mIoU", patience, mode)


@pytest.mark.parametrize("others_stop", [True, False])
def test_a_process_without_results_follows_the_main_one(
    monkeypatch: pytest.MonkeyPatch, others_stop: bool
) -> None:
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    gathered = []

    def all_gather(mine: Any) -> List[Any]:
        gathered.append(mine)
        return [mine if mine is None else others_stop, mine]

    monkeypatch.setattr(comm, "all_gather", all_gather)
    loop = Loop([1, 2, 3], EarlyStopping(2, "sem_seg/mIoU", 1))
    if others_stop:
        with pytest.raises(StopTraining):
            loop.train(0, 6)
        assert loop.iter == 1
    else:
        loop.train(0, 6)
        assert loop.iter == 6
    assert gathered == [None, False] * (1 if others_stop else 2)


def test_all_processes_hear_of_a_wrong_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    monkeypatch.setattr(comm, "all_gather", lambda mine: ["no such metric", mine])
    with pytest.raises(ValueError, match="no such metric"):
        Loop([1, 2], EarlyStopping(2, "sem_seg/mIoU", 1)).train(0, 4)
