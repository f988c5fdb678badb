"""The config keys of the Mask R-CNN ablations."""

from detectron2.config import CfgNode as CN


def add_ablation_config(cfg: CN) -> None:
    """Add the keys of the ablations to a detectron2 config, in place.

    Args:
        cfg: a config from ``detectron2.config.get_cfg()``.
    """
    # MaskRCNNMLPHead: number and width of the hidden layers, as the keys of that name for boxes.
    cfg.MODEL.ROI_MASK_HEAD.NUM_FC = 2
    cfg.MODEL.ROI_MASK_HEAD.FC_DIM = 1024
    # AblationROIHeads: feature levels for masks; () = those of MODEL.ROI_HEADS.IN_FEATURES.
    # One level fixes the stride, as an ablation of RoI pooling needs it.
    cfg.MODEL.ROI_MASK_HEAD.IN_FEATURES = ()


def ablation_config(cfg: CN) -> CN:
    """A config with all keys that the ablations read, also where its project never added them.

    Args:
        cfg: any detectron2 config.

    Returns:
        ``cfg`` itself when it has the keys, else a copy in which the missing ones have defaults.
    """
    if "NUM_FC" in cfg.MODEL.ROI_MASK_HEAD and "FREEZE_DETECTOR" in cfg.MODEL:
        return cfg
    complete = cfg.clone()
    complete.defrost()
    if "NUM_FC" not in cfg.MODEL.ROI_MASK_HEAD:
        add_ablation_config(complete)
    if "FREEZE_DETECTOR" not in cfg.MODEL:
        complete.MODEL.FREEZE_DETECTOR = False
    return complete
