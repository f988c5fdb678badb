"""Kill a training with SIGKILL at random steps, resume it each time, compare all bits at the end.

python tests/engine/kill_and_resume.py --steps 20                      one process
python tests/engine/kill_and_resume.py --steps 20 --num-gpus 2         two, of which one is killed
python tests/engine/kill_and_resume.py --steps 20 --num-workers 2      two more load the data

Shapes with tiny layers, random flips, and evaluations on the way.  For the CPU: on a GPU some
kernels add in no fixed order.
"""

import argparse
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, List

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from detectron2.engine import HookBase  # noqa: E402
from detectron2.utils import comm  # noqa: E402
from detectron2.utils.env import seed_all_rng  # noqa: E402
from helpers import shapes_config  # noqa: E402

from seg_every_thing import Trainer, register_shapes  # noqa: E402
from seg_every_thing.cli import one_line_errors  # noqa: E402
from seg_every_thing.engine.ranks import launch  # noqa: E402

logger = logging.getLogger("kill_and_resume")

PHASES = ("before the step", "after the step", "after its checkpoint")


class Kill(HookBase):
    """Ends this process as the kernel would for want of memory."""

    def __init__(self, iteration: int, phase: str) -> None:
        self._when = (iteration, phase)

    def reach(self, phase: str) -> None:
        if (self.trainer.iter, phase) == self._when:
            os.kill(os.getpid(), signal.SIGKILL)

    def before_step(self) -> None:
        self.reach(PHASES[0])

    def after_step(self) -> None:
        self.reach(PHASES[1])


class KillLater(Kill):
    """The same, as the last hook."""

    def before_step(self) -> None:
        pass

    def after_step(self) -> None:
        self.reach(PHASES[2])


class KilledTrainer(Trainer):
    """Is killed at an iteration on one of its processes."""

    when: List[Any] = []

    def build_hooks(self) -> Any:
        if comm.get_rank() != self.when[0]:
            return super().build_hooks()
        return [Kill(*self.when[1:]), *super().build_hooks(), KillLater(*self.when[1:])]


def train(args: argparse.Namespace, output: str, when: List[Any]) -> None:
    """Runs in each process of a training."""
    torch.set_num_threads(1)
    register_shapes(Path(args.folder), num_train=12, num_val=6)
    options = ("INPUT.RANDOM_FLIP", "horizontal", "MODEL.FREEZE_DETECTOR", False)
    cfg = shapes_config(
        *("maskx", Path(output), *options, "DATALOADER.NUM_WORKERS", args.num_workers),
        *("SOLVER.MAX_ITER", 3 * args.steps, "SOLVER.CHECKPOINT_PERIOD", 3, "TEST.EVAL_PERIOD", 6),
    )
    seed_all_rng(cfg.SEED + comm.get_rank())
    KilledTrainer.when = when
    trainer = KilledTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()


def start(args: argparse.Namespace, output: Path, *when: Any) -> int:
    """A training in processes of its own; its exit code."""
    flags = ["--folder", args.folder, "--steps", args.steps, "--num-gpus", args.num_gpus]
    flags += ["--num-workers", args.num_workers, "--train", output, *when]
    log = output.with_suffix(".txt")
    with log.open("a") as f:
        command = [sys.executable, __file__, *map(str, flags)]
        return subprocess.call(command, stdout=f, stderr=subprocess.STDOUT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="at which it is killed")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes")
    parser.add_argument("--num-workers", type=int, default=0, help="that load data, for each")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of steps")
    parser.add_argument("--folder", default=tempfile.mkdtemp(), help="for data, logs and results")
    parser.add_argument("--train", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        output, rank, iteration, phase = args.train
        with one_line_errors("kill_and_resume.py"):
            launch(train, args.num_gpus, args=(args, output, [int(rank), int(iteration), phase]))
        return 0
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    whole, killed = Path(args.folder, "whole"), Path(args.folder, "killed")
    os.makedirs(args.folder, exist_ok=True)
    logger.info("Without interruption: %s", whole)
    assert start(args, whole, -1, -1, "") == 0, f"see {whole}.txt"
    chance = random.Random(args.seed)
    for step in sorted(chance.sample(range(3 * args.steps - 1), args.steps)):
        rank, phase = chance.randrange(args.num_gpus), chance.choice(PHASES)
        code = start(args, killed, rank, step, phase)
        logger.info("Process %d killed at iteration %d %s: exit code %d", rank, step, phase, code)
        assert code in (-signal.SIGKILL, 128 + signal.SIGKILL), f"see {killed}.txt"
    assert start(args, killed, -1, -1, "") == 0, f"see {killed}.txt"
    states = [torch.load(f / "model_final.pth", weights_only=True) for f in (whole, killed)]
    expected, got = (state["model"] for state in states)
    other = [name for name, x in expected.items() if not torch.equal(x, got[name])]
    logger.info("Tensors: %d; not the same bit for bit: %d", len(expected), len(other))
    return int(bool(other) or expected.keys() != got.keys())


if __name__ == "__main__":
    sys.exit(main())
