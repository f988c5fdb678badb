"""Two processes under DDP on CPU: one of them without any mask; one model to evaluate."""

import sys
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

import pytest
import torch
from detectron2.engine import defaults
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from helpers import CONFIGS, TINY, shapes_config, snapshot
from torch import nn

import projects_train_net
from seg_every_thing import Trainer, register_shapes
from seg_every_thing.engine.ranks import launch
from seg_every_thing.engine.teaching import write_taught_masks

pytestmark = pytest.mark.usefixtures("forked_workers")

MASK = "MODEL.ROI_MASK_HEAD."
BOX_LOSSES = (
    *(MASK + "BOX_LOSS.ENABLED", True, MASK + "BOX_SCALE", 1.25, MASK + "LOSS", "bce+dice"),
    *(MASK + "TRAIN_ON", "both", MASK + "BOX_JITTER", 0.05, MASK + "COORDINATES", True),
    *(MASK + "BOX_LOSS.CRF_WEIGHT", 0.5),
)
RUNS = (
    ("MODEL.FREEZE_DETECTOR", False),
    ("MODEL.FREEZE_DETECTOR", True),
    ("MODEL.FREEZE_DETECTOR", False, *BOX_LOSSES),
    (
        "MODEL.FREEZE_DETECTOR",
        True,
        *BOX_LOSSES,
        MASK + "TRUNK",
        "hourglass",
        MASK + "HOURGLASS_DEPTH",
        10,
    ),
    (
        *("MODEL.META_ARCHITECTURE", "BoxToMask", MASK + "PREDICTOR", "class_agnostic"),
        *("MODEL.FREEZE_DETECTOR", False, *BOX_LOSSES),
        *(MASK + "BOX_LOSS.PROJECTION", "tightness"),
    ),
)


def _steps_with_masks_on_one_rank(root: str, output: str, taught: str, device: str) -> None:
    """Runs in each process.  Rank 1 has no mask, then no object at all."""
    torch.set_num_threads(1)
    register_shapes(root, num_train=12, num_val=6)
    for options in RUNS:
        options = (*options, "SOLVER.IMS_PER_BATCH", 4, "MODEL.DEVICE", device)
        cfg = shapes_config("maskx", Path(output), *options)
        box_losses = cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.ENABLED
        cfg.DATASETS.PSEUDO_MASKS = taught * box_losses
        trainer = Trainer(cfg)
        batch: Any = next(iter(trainer.data_loader))
        for kind in ("no mask", "no object"):
            if comm.get_rank() == 1:
                for sample in batch:
                    instances = sample["instances"]
                    if kind == "no mask":
                        instances.gt_has_mask = torch.zeros_like(instances.gt_has_mask)
                    else:
                        sample["instances"] = instances[:0]
            trainer.model.zero_grad()
            with EventStorage(0):
                losses = trainer.model(batch)
            assert (losses["loss_mask"].item() == 0) == (comm.get_rank() == 1)
            if box_losses:
                nothing = kind == "no object" and comm.get_rank() == 1
                assert (losses["loss_mask_projection"].item() == 0) == nothing
                assert (losses["loss_mask_pseudo"].item() == 0) == nothing
            sum(losses.values()).backward()
            flat = torch.cat(
                [p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad]
            )
            everywhere = comm.all_gather(flat.cpu())
            assert torch.equal(everywhere[0], everywhere[1])
            assert torch.isfinite(flat).all() and flat.any()


def _evaluates_the_model_of_the_checkpoint(root: str, output: str, device: str) -> None:
    """Runs in each process.  Running statistics are of the images of the process."""
    torch.set_num_threads(1)
    register_shapes(root, num_train=12, num_val=6)
    evaluated: List[Dict[str, torch.Tensor]] = []

    def look(model: nn.Module, *_: Any) -> Dict[str, Any]:
        evaluated.append({k: x.cpu() for k, x in snapshot(model).items()})
        return {}

    opts = ("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.WEIGHTS", "")
    opts = (*opts, "MODEL.FREEZE_DETECTOR", False, "MODEL.DEVICE", device)
    opts = (*opts, "SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1, "TEST.AUG.ENABLED", True)
    trainer = Trainer(shapes_config("maskx", Path(output), *opts))
    with mock.patch.object(defaults, "inference_on_dataset", look):
        trainer.train()
    assert len(evaluated) == 3  # after each iteration, and augmented
    for states in zip(*comm.all_gather(evaluated)):
        assert [name for name, x in states[0].items() if not torch.equal(x, states[1][name])] == []
    if comm.is_main_process():
        saved = torch.load(Path(output) / "model_final.pth", weights_only=True)["model"]
        statistics = [name for name in saved if name.endswith("running_mean")]
        assert statistics
        for name in statistics:
            assert saved[name].any() and torch.equal(
                saved[name].cpu(), evaluated[1]["module." + name]
            )


ON_EACH_DEVICE = pytest.mark.parametrize(
    "device",
    [
        pytest.param(
            "cpu",
            marks=pytest.mark.skipif(
                torch.cuda.is_available(), reason="detectron2 starts NCCL where there is CUDA"
            ),
        ),
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
            ],
        ),
    ],
)


@ON_EACH_DEVICE
def test_a_rank_without_masks_neither_fails_nor_hangs(
    device: str, tiny_shapes: Path, tmp_path: Path
) -> None:
    taught = tmp_path / "taught"
    cfg = shapes_config("class_agnostic", tmp_path, "MODEL.WEIGHTS", "")
    write_taught_masks(cfg, Trainer.build_model(cfg), taught, {"sha256": "0"})
    arguments = (str(tiny_shapes), str(tmp_path), str(taught), device)
    launch(_steps_with_masks_on_one_rank, 2, args=arguments)


@ON_EACH_DEVICE
def test_all_processes_evaluate_the_model_of_the_checkpoint(
    device: str, tiny_shapes: Path, tmp_path: Path
) -> None:
    arguments = (str(tiny_shapes), str(tmp_path), device)
    launch(_evaluates_the_model_of_the_checkpoint, 2, args=arguments)


def test_projects_train_net_on_two_processes(
    tiny_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        *("--num-gpus", "2", "--config-file", str(CONFIGS / "shapes" / "maskx.yaml")),
        *("OUTPUT_DIR", str(tmp_path / "out"), *map(str, TINY), "DATASETS.TEST", "()"),
        *("MODEL.FREEZE_DETECTOR", "False"),
    ]
    monkeypatch.setattr(sys, "argv", ["projects_train_net.py", *arguments])
    projects_train_net.invoke_main()
    assert (tmp_path / "out" / "model_final.pth").is_file()
