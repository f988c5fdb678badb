"""RMSprop, Adam and the rate that falls after each epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MakeDataset
from tiramisu_helpers import camvid, tiramisu_config  # noqa: F401
from torch import nn

from seg_every_thing.engine.optimizers import (
    build_lr_scheduler,
    build_optimizer,
    iterations_per_epoch,
)


def config(*opts: Any) -> Any:
    return tiramisu_config("fc_densenet56_camvid", *opts)


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))


def test_rmsprop_of_the_configs() -> None:
    net = model()
    optimizer = build_optimizer(config(), net)
    assert isinstance(optimizer, torch.optim.RMSprop)
    settings = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert len(settings) == 4 and {g["lr"] for g in settings.values()} == {0.001}
    assert settings[id(net[0].weight)]["weight_decay"] == 1e-4
    assert settings[id(net[0].bias)]["weight_decay"] == 0
    assert settings[id(net[1].weight)]["weight_decay"] == 0


def test_rmsprop_step_by_hand() -> None:
    net = nn.Linear(1, 1, bias=False).double()
    net.weight.data.fill_(2.0)
    opts = ("SOLVER.RMSPROP.ALPHA", 0.9, "SOLVER.RMSPROP.EPS", 0.5, "SOLVER.BASE_LR", 0.1)
    optimizer = build_optimizer(config(*opts, "SOLVER.WEIGHT_DECAY", 0.25), net)
    net(torch.tensor([[3.0]], dtype=torch.float64)).backward()
    optimizer.step()
    gradient = 3 + 0.25 * 2
    expected = 2 - 0.1 * gradient / ((0.1 * gradient**2) ** 0.5 + 0.5)
    assert net.weight.item() == pytest.approx(expected, rel=1e-12)


def test_other_optimizers() -> None:
    assert isinstance(
        build_optimizer(config("SOLVER.OPTIMIZER", "Adam"), model()), torch.optim.Adam
    )
    adamw = build_optimizer(config("SOLVER.OPTIMIZER", "AdamW"), model())
    assert isinstance(adamw, torch.optim.AdamW)
    sgd = build_optimizer(config("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", 0.99), model())
    assert isinstance(sgd, torch.optim.SGD) and sgd.param_groups[0]["momentum"] == 0.99
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER is 'LBFGS', .*RMSprop"):
        build_optimizer(config("SOLVER.OPTIMIZER", "LBFGS"), model())


def test_gradients_are_clipped() -> None:
    net = nn.Linear(1, 1, bias=False)
    before = net.weight.item()
    opts = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.0)
    optimizer = build_optimizer(config(*opts, "SOLVER.WEIGHT_DECAY", 0.0), net)
    net(torch.tensor([[3.0]])).backward()
    optimizer.step()
    assert net.weight.item() == before


def test_rate_falls_after_each_epoch(camvid: Path) -> None:  # noqa: F811
    cfg = config("SOLVER.IMS_PER_BATCH", 3, "SOLVER.EPOCH_GAMMA", 0.5, "SOLVER.BASE_LR", 8.0)
    assert iterations_per_epoch(cfg) == 2  # 4 images, batches of 3
    optimizer = build_optimizer(cfg, model())
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [8, 8, 4, 4, 2, 2]
    assert iterations_per_epoch(config("SOLVER.ITERS_PER_EPOCH", 7)) == 7


def test_unusable_masks_do_not_end_the_counting(make_dataset: MakeDataset) -> None:
    bad = {"bbox": [4, 5, 10, 20], "category_id": 1, "segmentation": {"counts": [6]}}
    cfg = config("SOLVER.IMS_PER_BATCH", 2, "DATASETS.ON_BAD_ANNOTATION", "set_aside")
    cfg.DATASETS.TRAIN = (make_dataset([[bad], [], []]),)
    assert iterations_per_epoch(cfg) == 2


def test_labels_of_pixels_are_no_report(
    camvid: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level("INFO", "seg_every_thing"):
        assert iterations_per_epoch(config("SOLVER.IMS_PER_BATCH", 4)) == 1
    assert not caplog.text


def test_other_schedules_are_detectron2s() -> None:
    cfg = config("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.WARMUP_ITERS", 10)
    cfg.SOLVER.WARMUP_FACTOR = 0.1
    optimizer = build_optimizer(cfg, model())
    build_lr_scheduler(cfg, optimizer)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize(
    "opts, words",
    [
        (("SOLVER.EPOCH_GAMMA", 0.0, "SOLVER.ITERS_PER_EPOCH", 1), "EPOCH_GAMMA is 0.0"),
        (("SOLVER.ITERS_PER_EPOCH", -1), "ITERS_PER_EPOCH is -1"),
        (("SOLVER.LR_SCHEDULER_NAME", "Cosine"), "Cosine"),
    ],
)
def test_bad_settings(opts: Any, words: str) -> None:
    cfg = config(*opts)
    with pytest.raises(ValueError, match=words):
        build_lr_scheduler(cfg, build_optimizer(cfg, model()))
