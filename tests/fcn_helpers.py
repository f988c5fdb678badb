"""The config that the tests of FCN start from."""

from detectron2.config import CfgNode, get_cfg

from seg_every_thing.modeling.semantic import add_semantic_config


def fcn_config(stride: int, num_classes: int, architecture: str = "SemanticSegmentor") -> CfgNode:
    """FCN on VGG16 with scores down to a stride, on the CPU; widths are left to the test."""
    cfg = get_cfg()
    add_semantic_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.BACKBONE.NAME = "build_vgg16_fcn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.SEM_SEG_HEAD.NAME = "FCNHead"
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = ["pool3", "pool4", "fc7"]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    cfg.MODEL.SEM_SEG_HEAD.FCN.STRIDE = stride
    return cfg
