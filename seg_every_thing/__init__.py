"""Learning to Segment Every Thing (Mask^X R-CNN) as a detectron2 plugin.

Importing the package registers the RoI heads and the mask head, and does nothing else.
"""

from . import timm_backbone  # noqa: F401  (registers its backbones)
from .config import add_seg_every_thing_config
from .data.dataset_mapper import PartialSupervisionMapper
from .data.shapes import register_shapes
from .data.splits import resolve_class_split
from .engine import Trainer, freeze_detector
from .evaluation import PartialCOCOEvaluator
from .mask_heads import MaskXHead
from .roi_heads import PartiallySupervisedROIHeads
from .weight_transfer import WeightTransfer

__all__ = [
    "MaskXHead",
    "PartialCOCOEvaluator",
    "PartialSupervisionMapper",
    "PartiallySupervisedROIHeads",
    "Trainer",
    "WeightTransfer",
    "add_seg_every_thing_config",
    "freeze_detector",
    "register_shapes",
    "resolve_class_split",
]

__version__ = "0.1.0"
