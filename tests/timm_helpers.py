"""A narrow timm backbone's config, and weights that make mistakes visible."""

import torch
from detectron2.config import get_cfg
from torch import nn

from seg_every_thing import add_seg_every_thing_config


def config(**keys):
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.TIMM.NAME = "test_efficientnet"
    cfg.MODEL.FPN.IN_FEATURES = ["stage2", "stage3", "stage4", "stage5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    for key, value in keys.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def with_random_statistics(module, seed=0):
    """Statistics and affine parameters that make a wrong normalisation visible."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.5, 2.0),
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.5, 0.5),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    return module
