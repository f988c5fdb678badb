"""The config keys of the semantic segmentation systems: FCN, FC-DenseNet, and their training."""

from detectron2.config import CfgNode as CN


def add_semantic_config(cfg: CN) -> None:
    """Add the keys of the FCN components to a detectron2 config, in place.

    Args:
        cfg: a config from ``detectron2.config.get_cfg()``.
    """
    cfg.MODEL.VGG = _vgg()
    cfg.MODEL.SEM_SEG_HEAD.FCN = _fcn()


def semantic_config(cfg: CN) -> CN:
    """A config with the keys of the FCN components, also where its project never added them.

    Args:
        cfg: any detectron2 config.

    Returns:
        ``cfg`` itself when it has the keys, else a copy in which the missing ones have defaults.
    """
    if "VGG" in cfg.MODEL and "FCN" in cfg.MODEL.SEM_SEG_HEAD:
        return cfg
    complete = cfg.clone()
    complete.defrost()
    if "VGG" not in complete.MODEL:
        complete.MODEL.VGG = _vgg()
    if "FCN" not in complete.MODEL.SEM_SEG_HEAD:
        complete.MODEL.SEM_SEG_HEAD.FCN = _fcn()
    return complete


def _vgg() -> CN:
    node = CN()
    # Features to give out, of "pool1" ... "pool5" (strides 2 ... 32), "fc6" and "fc7" (stride 32).
    # Layers behind the last of them are not built.
    node.OUT_FEATURES = ("pool3", "pool4", "fc7")
    # 3x3 convolutions, and their channels, in each of the five groups.
    node.NUM_CONVS = (2, 2, 3, 3, 3)
    node.CHANNELS = (64, 128, 256, 512, 512)
    # Channels of fc6 and fc7, and the kernel size of fc6.
    node.FC_DIM = 4096
    node.FC6_KERNEL = 7
    # Dropout behind fc6 and fc7.
    node.DROPOUT = 0.5
    # Normalisation after each convolution: "" (as in the paper), "BN", "SyncBN", "GN", "FrozenBN".
    node.NORM = ""
    # Zeros around the image in conv1_1.  1: every layer keeps its size, the image is padded to a
    # multiple of 32.  100: the original geometry, in which fc6 has no padding and images of any
    # size come out by exact crops.
    node.CONV1_PAD = 1
    # Initial weights: "" = random, a torchvision state dict (.pth, .pt), or arrays named as in
    # Caffe (.npz, .pkl).
    node.WEIGHTS = ""
    return node


def _fcn() -> CN:
    node = CN()
    # Stride of the finest feature that is scored: 32 (FCN-32s), 16, 8; any smaller power of two
    # for which the backbone has features.
    node.STRIDE = 32
    # Constant factor on each skip's features, coarse to fine; () = all 1.
    node.SKIP_SCALES = ()
    # "paper": the last upsampling is fixed bilinear, those between are learned from bilinear;
    # "fixed" or "learned": all of them.
    node.UPSAMPLE = "paper"
    # False: one upsampling filter a class.  True: full C x C kernels, bilinear on the diagonal.
    node.UPSAMPLE_DENSE = False
    # Weights of the score layers: "zero" (as in the paper) or "msra".
    node.SCORE_INIT = "zero"
    # The loss of all pixels: "sum", "valid" (mean over pixels that are not void) or "batch" (sum
    # over the pixels, mean over the images).
    node.LOSS_NORM = "valid"
    # Loss sampling (patchwise training): each cell of the loss is kept with this probability ...
    node.LOSS_SAMPLE_P = 1.0
    # ... and has this side in pixels; 0 = STRIDE, so one score of the finest level.
    node.LOSS_SAMPLE_CELL = 0
    # Inference without skips at stride 1: "none", "shift_and_stitch" or "rarefy" (the same scores).
    # Needs META_ARCHITECTURE "DenseSemanticSegmentor".
    node.DENSE_INFERENCE = "none"
    return node


def add_tiramisu_config(cfg: CN) -> None:
    """Add the keys of FC-DenseNet and of semantic training to a detectron2 config, in place.

    Args:
        cfg: a config from ``detectron2.config.get_cfg()``.
    """
    cfg.MODEL.FC_DENSENET = fc_densenet_defaults()

    # "SGD" (detectron2's, with its MOMENTUM and NESTEROV), "RMSprop", "Adam" or "AdamW".
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
