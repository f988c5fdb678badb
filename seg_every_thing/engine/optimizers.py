"""Optimizers and a learning rate schedule that detectron2 does not have."""

import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.solver import build_lr_scheduler as build_stock_lr_scheduler
from detectron2.solver import build_optimizer as build_stock_optimizer
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from ..data.catalog import checked_loading, training_use

OPTIMIZERS = ("SGD", "RMSprop", "Adam", "AdamW")
EPOCH_EXPONENTIAL = "EpochExponentialLR"
"""``SOLVER.LR_SCHEDULER_NAME`` of the rate that falls by a factor after each epoch."""


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that ``SOLVER.OPTIMIZER`` names.

    BASE_LR, WEIGHT_DECAY, WEIGHT_DECAY_NORM, BIAS_LR_FACTOR, WEIGHT_DECAY_BIAS and CLIP_GRADIENTS
    hold for all of them, MOMENTUM and NESTEROV for SGD alone.

    Raises:
        ValueError: for an unknown name.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER == "SGD":
        return build_stock_optimizer(cfg, model)
    if solver.OPTIMIZER not in OPTIMIZERS:
        raise ValueError(
            f"SOLVER.OPTIMIZER is '{solver.OPTIMIZER}', expected one of: {', '.join(OPTIMIZERS)}"
        )
    parameters = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    optimizer: torch.optim.Optimizer
    if solver.OPTIMIZER == "RMSprop":
        optimizer = torch.optim.RMSprop(
            parameters,
            lr=solver.BASE_LR,
            alpha=solver.RMSPROP.ALPHA,
            eps=solver.RMSPROP.EPS,
            weight_decay=solver.WEIGHT_DECAY,
        )
    else:
        kind = torch.optim.Adam if solver.OPTIMIZER == "Adam" else torch.optim.AdamW
        optimizer = kind(parameters, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
    return maybe_add_gradient_clipping(cfg, optimizer)


def iterations_per_epoch(cfg: CfgNode) -> int:
    """Iterations in which each training image is drawn once.

    ``SOLVER.ITERS_PER_EPOCH``, or where that is 0 the number of images of ``DATASETS.TRAIN`` over
    ``SOLVER.IMS_PER_BATCH``, rounded up.

    Raises:
        ValueError: for a negative number.
    """
    if cfg.SOLVER.ITERS_PER_EPOCH < 0:
        raise ValueError(f"SOLVER.ITERS_PER_EPOCH is {cfg.SOLVER.ITERS_PER_EPOCH}, expected >= 0")
    if cfg.SOLVER.ITERS_PER_EPOCH:
        return cfg.SOLVER.ITERS_PER_EPOCH
    with checked_loading(training_use(cfg)):
        images = len(get_detection_dataset_dicts(cfg.DATASETS.TRAIN, filter_empty=False))
    return -(-images // cfg.SOLVER.IMS_PER_BATCH)


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """detectron2's schedules, and ``EpochExponentialLR``: rate x EPOCH_GAMMA after each epoch.

    ``EpochExponentialLR`` has no warm-up.

    Raises:
        ValueError: for an unknown schedule, or a factor outside (0, 1].
    """
    if cfg.SOLVER.LR_SCHEDULER_NAME != EPOCH_EXPONENTIAL:
        return build_stock_lr_scheduler(cfg, optimizer)
    gamma = cfg.SOLVER.EPOCH_GAMMA
    if not 0 < gamma <= 1:
        raise ValueError(f"SOLVER.EPOCH_GAMMA is {gamma}, expected 0 < EPOCH_GAMMA <= 1")
    epoch = iterations_per_epoch(cfg)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: gamma ** (step // epoch))
