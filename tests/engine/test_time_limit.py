"""Training that ends when its time is up."""

import time
from types import SimpleNamespace

import pytest

from seg_every_thing.engine.early_stopping import StopTraining
from seg_every_thing.engine.time_limit import TimeLimit


def test_the_clock_starts_with_training_and_the_last_iteration_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    hook = TimeLimit(2.0)
    hook.trainer = SimpleNamespace(iter=0, max_iter=20)
    now[0] = 200.0
    hook.before_train()
    for hook.trainer.iter in range(10):
        now[0] += 12.0  # the tenth ends exactly in time
        hook.after_step()
    for hook.trainer.iter in range(10, 14):
        now[0] += 12.0
        hook.after_step()  # it looks every fifth iteration
    hook.trainer.iter, hook.trainer.max_iter = 14, 15
    hook.after_step()
    hook.trainer.max_iter = 20
    with pytest.raises(StopTraining):
        hook.after_step()
