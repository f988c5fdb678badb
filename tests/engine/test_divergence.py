"""A training that diverges, in each of its ways, ends with one line that says what to do."""

import logging
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng
from helpers import shapes_config

from seg_every_thing import Trainer

Spoil = Callable[[Trainer], None]


class SpoilBefore(HookBase):
    """Does something to a trainer before an iteration."""

    def __init__(self, iteration: int, spoil: Spoil) -> None:
        self._iteration = iteration
        self._spoil = spoil

    def before_step(self) -> None:
        if self.trainer.iter == self._iteration:
            self._spoil(self.trainer)


def spoiled(folder: Path, iteration: int, spoil: Spoil, *opts: Any, resume: bool = False) -> str:
    """The message with which a training of four iterations ends."""
    small = ("SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2, "DATASETS.TEST", ("shapes_val",))
    cfg = shapes_config("maskx", folder, "MODEL.FREEZE_DETECTOR", False, *small, *opts)
    seed_all_rng(1)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.register_hooks([SpoilBefore(iteration, spoil)])
    with pytest.raises(FloatingPointError) as error:
        trainer.train()
    assert "lower SOLVER.BASE_LR (now" in str(error.value) and "\n" not in str(error.value)
    assert not (folder / "inference").exists()  # a model that ran away is not evaluated
    return str(error.value)


def mask_loss_is_nan(trainer: Trainer) -> None:
    heads = trainer.model.roi_heads
    heads._forward_mask = lambda *_: {"loss_mask": torch.tensor(float("nan"), requires_grad=True)}


def boxes_run_away(trainer: Trainer) -> None:
    trainer.model.proposal_generator.rpn_head.anchor_deltas.bias.data.fill_(float("nan"))


def fails_on_nan(error: Exception) -> Spoil:
    def spoil(trainer: Trainer) -> None:
        def fail(*_: Any) -> None:
            raise error

        trainer.model.roi_heads.forward = fail

    return spoil


def the_step_goes_too_far(trainer: Trainer) -> None:
    for group in trainer.optimizer.param_groups:
        group["lr"] = float("inf")
    trainer._hooks = [h for h in trainer._hooks if type(h).__name__ != "LRScheduler"]


@pytest.fixture(autouse=True)
def told_once(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever happens, detectron2's log tells it in lines without a traceback."""
    loop = logging.getLogger("detectron2.engine.train_loop")
    loop.addHandler(caplog.handler)
    yield
    loop.removeHandler(caplog.handler)
    errors = [x for x in caplog.get_records("call") if x.levelno >= logging.ERROR]
    assert errors and all(x.getMessage().startswith("Training ends: ") for x in errors)
    assert not any(x.exc_info or "\n" in x.getMessage() for x in errors)


def test_the_loss_is_nan(tiny_shapes: Path, tmp_path: Path) -> None:
    text = spoiled(tmp_path, 3, mask_loss_is_nan)
    assert "diverged at iteration 3 (Loss became infinite or NaN" in text
    assert f"the last good checkpoint is '{tmp_path}/model_0000001.pth'" in text
    assert "iteration 2 " in spoiled(tmp_path, 2, mask_loss_is_nan, resume=True)
    again = spoiled(tmp_path, 0, mask_loss_is_nan)  # whose checkpoints are of other runs
    assert "iteration 0 " in again and "no checkpoint was saved" in again


def test_boxes_run_away_before_the_loss(tiny_shapes: Path, tmp_path: Path) -> None:
    assert "iteration 1 (Predicted boxes" in spoiled(tmp_path, 1, boxes_run_away)


def test_other_checks_notice_first(tiny_shapes: Path, tmp_path: Path) -> None:
    for error in (
        AssertionError("Box tensor contains infinite or NaN!"),
        RuntimeError("all elements of input should be between 0 and 1, found nan"),
    ):
        assert "diverged at iteration 1" in spoiled(tmp_path, 1, fails_on_nan(error))


def test_the_loss_is_finite_and_the_weights_are_not(tiny_shapes: Path, tmp_path: Path) -> None:
    """A checkpoint of them would look like a good one."""
    assert "(weights became infinite or NaN)" in spoiled(tmp_path, 3, the_step_goes_too_far)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["model_0000001.pth"]
    assert torch.isfinite(
        torch.load(tmp_path / "model_0000001.pth")["model"]["backbone.fpn_lateral2.weight"]
    ).all()


def test_other_errors_are_no_divergence(tiny_shapes: Path, tmp_path: Path) -> None:
    cfg = shapes_config("maskx", tmp_path, "MODEL.FREEZE_DETECTOR", False, "DATASETS.TEST", ())
    trainer = Trainer(cfg)
    trainer.register_hooks([SpoilBefore(1, fails_on_nan(ValueError("box holds NaN in x.json")))])
    with pytest.raises(ValueError, match="^box holds NaN in x.json$"):
        trainer.train()
