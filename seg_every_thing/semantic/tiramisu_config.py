"""The config keys of FC-DenseNet and of its training."""

from detectron2.config import CfgNode as CN


def add_tiramisu_config(cfg: CN) -> None:
    """Add the keys of FC-DenseNet and of semantic training to a detectron2 config, in place.

    Args:
        cfg: a config from ``detectron2.config.get_cfg()``.
    """
    cfg.MODEL.FC_DENSENET = fc_densenet_defaults()

    # "SGD" (detectron2's, with its MOMENTUM and NESTEROV), "RMSprop" or "Adam".
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.RMSPROP = CN()
    # Decay of the running mean of squared gradients, and what is added to its root.
    cfg.SOLVER.RMSPROP.ALPHA = 0.99
    cfg.SOLVER.RMSPROP.EPS = 1e-8
    # For LR_SCHEDULER_NAME "EpochExponentialLR": the rate is multiplied by this after each epoch.
    cfg.SOLVER.EPOCH_GAMMA = 0.995
    # Iterations of an epoch; 0 = images of the training sets / IMS_PER_BATCH, rounded up.
    cfg.SOLVER.ITERS_PER_EPOCH = 0

    # Images of a test batch (of each process).  It matters where batch statistics are used.
    cfg.TEST.IMS_PER_BATCH = 1
    cfg.TEST.EARLY_STOPPING = CN()
    # Stop after so many evaluations (one each TEST.EVAL_PERIOD) without a new best; 0 = never.
    cfg.TEST.EARLY_STOPPING.PATIENCE = 0
    # What decides, as logged: "<task>/<metric>", with several test sets "<set>/<task>/<metric>".
    # Semantic training keeps the best model of it as model_best.pth when EVAL_PERIOD is not 0.
    cfg.TEST.EARLY_STOPPING.METRIC = "sem_seg/mIoU"


def fc_densenet_defaults() -> CN:
    """``MODEL.FC_DENSENET``: FC-DenseNet103."""
    node = CN()
    # Layers of each dense block on the way down, at the bottom, and on the way up (coarse to fine).
    node.DOWN = (4, 5, 7, 10, 12)
    node.BOTTLENECK = 15
    node.UP = (12, 10, 7, 5, 4)
    # New maps of each layer.
    node.GROWTH_RATE = 16
    # Maps of the first convolution.
    node.STEM_CHANNELS = 48
    node.DROPOUT = 0.2
    # False: no concatenation with the way down (an ablation).
    node.SKIPS = True
    # Batch normalisation at test time: "batch" (statistics of the test batch) or "running".
    node.BN_STATS = "batch"
    return node
