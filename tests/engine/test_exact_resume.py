"""A training that is killed and resumed gives the weights of one that was not, bit for bit."""

import logging
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from helpers import shapes_config

from seg_every_thing import Trainer, register_shapes
from seg_every_thing.engine.ranks import launch

OPTIONS: List[Any] = [
    *("MODEL.FREEZE_DETECTOR", False),
    *("INPUT.RANDOM_FLIP", "horizontal"),
    *("SOLVER.MAX_ITER", 5),
    *("SOLVER.CHECKPOINT_PERIOD", 2),
    *("DATASETS.TEST", ()),
]


class Killed(BaseException):
    """Ends a training as a signal does: nothing is saved on the way."""


class KillAfter(HookBase):
    def __init__(self, iteration: int) -> None:
        self._iteration = iteration

    def after_step(self) -> None:
        if self.trainer.iter == self._iteration:
            raise Killed


def final_weights(folder: Path) -> Dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", weights_only=True)["model"]


def run(folder: Path, *opts: Any, kill_after: int = -1, resume: bool = False) -> Trainer:
    """A training in this process; a resumed one starts with other random numbers."""
    cfg = shapes_config("maskx", folder, *OPTIONS, *opts)
    seed_all_rng((99 if resume else 1) + comm.get_rank())
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    trainer.register_hooks([KillAfter(kill_after)])
    if kill_after < 0:
        trainer.train()
    else:
        with pytest.raises(Killed):
            trainer.train()
    return trainer


def check_exact(folder: Path, kills: List[int], *opts: Any) -> None:
    run(folder / "whole", *opts)
    for i, kill_after in enumerate(kills):
        run(folder / "killed", *opts, kill_after=kill_after, resume=i > 0)
    run(folder / "killed", *opts, resume=True)
    expected, got = final_weights(folder / "whole"), final_weights(folder / "killed")
    assert expected.keys() == got.keys()
    assert [name for name, x in expected.items() if not torch.equal(x, got[name])] == []


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_killed_and_resumed_twice(tiny_shapes: Path, tmp_path: Path) -> None:
    check_exact(tmp_path, [2, 3])


def test_with_workers_that_augment(tiny_shapes: Path, tmp_path: Path) -> None:
    check_exact(tmp_path, [2], "DATALOADER.NUM_WORKERS", 2)


def test_an_evaluation_at_the_checkpoint(tiny_shapes: Path, tmp_path: Path) -> None:
    """It draws from the generators after the step: the checkpoint must come after it."""
    options = ("TEST.EVAL_PERIOD", 2, "DATASETS.TEST", ("shapes_val",))
    check_exact(tmp_path, [2], *options)


def _two_ranks(root: str, output: str) -> None:
    """Runs in each process: each has generators and images of its own."""
    torch.set_num_threads(1)
    register_shapes(root, num_train=12, num_val=6)
    check_exact(Path(output), [2])


def test_two_ranks(tiny_shapes: Path, tmp_path: Path, forked_workers: None) -> None:
    launch(_two_ranks, 2, args=(str(tiny_shapes), str(tmp_path)))
    saved = torch.load(tmp_path / "whole" / "model_final.pth", weights_only=True)
    first, second = saved["trainer"]["hooks"]["ExactResume"]["processes"]
    assert not torch.equal(first["generators"]["torch"], second["generators"]["torch"])


def test_old_and_other_checkpoints_say_so(
    tiny_shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, kill_after=2)
    logging.getLogger("seg_every_thing").propagate = True

    def warnings(*opts: Any) -> List[str]:
        caplog.clear()
        run(tmp_path, *opts, kill_after=2, resume=True)
        return [x.getMessage() for x in caplog.records if "not bit for bit" in x.getMessage()]

    assert warnings() == []
    (line,) = warnings("DATALOADER.NUM_WORKERS", 1)
    assert "DATALOADER.NUM_WORKERS was 0, is 1" in line and "\n" not in line
    path = tmp_path / "model_0000001.pth"
    saved = torch.load(path, weights_only=True)
    del saved["trainer"]["hooks"]["ExactResume"]
    torch.save(saved, path)
    (line,) = warnings()
    assert "does not hold the position" in line and "\n" not in line
