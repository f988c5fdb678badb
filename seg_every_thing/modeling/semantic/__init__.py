"""Semantic segmentation systems, FCN and FC-DenseNet, as detectron2 backbones and heads.

Importing this package registers them and does nothing else.
"""

from ...config_semantic import add_semantic_config, add_tiramisu_config
from .bilinear import BilinearUpsample, bilinear_kernel
from .dense_inference import rarefy, shift_and_stitch
from .dense_segmentor import DenseSemanticSegmentor, dense_segmentor
from .fc_densenet import FCDenseNet, FCDenseNetHead, build_fc_densenet_backbone
from .fcn_head import FCNHead
from .vgg import VGG16FCN, build_vgg16_fcn_backbone

__all__ = [
    "BilinearUpsample",
    "DenseSemanticSegmentor",
    "FCDenseNet",
    "FCDenseNetHead",
    "FCNHead",
    "VGG16FCN",
    "add_semantic_config",
    "add_tiramisu_config",
    "bilinear_kernel",
    "build_fc_densenet_backbone",
    "build_vgg16_fcn_backbone",
    "dense_segmentor",
    "rarefy",
    "shift_and_stitch",
]
