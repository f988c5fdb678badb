"""Learning to Segment Every Thing (Mask^X R-CNN) as a detectron2 plugin.

Importing the package registers the RoI heads and the mask head, and does nothing else.
"""

from typing import TYPE_CHECKING, Any

from .diagnosis import is_asked_for as _doctor_is_asked_for

if TYPE_CHECKING:
    from .export.predictor import load_predictor

try:
    from . import model_zoo
    from .annotation.api import annotate
    from .config import add_seg_every_thing_config
    from .data.dataset_mapper import PartialSupervisionMapper
    from .data.datasets.shapes import register_shapes
    from .data.splits import resolve_class_split
    from .engine.freezing import freeze_detector
    from .engine.launch import train
    from .engine.trainer import Trainer
    from .evaluation.coco import PartialCOCOEvaluator
    from .evaluation.given_boxes import GivenBoxEvaluator
    from .modeling import ablations, semantic, timm_backbone  # noqa: F401  (for their registries)
    from .modeling.box_to_mask import BoxToMask
    from .modeling.mask_heads import MaskXHead
    from .modeling.roi_heads import PartiallySupervisedROIHeads
    from .modeling.weight_transfer import WeightTransfer
except Exception as e:  # of libraries that do not fit each other
    if not _doctor_is_asked_for():
        raise ImportError(f"{e} (`seg-every-thing doctor` says what to mend)") from e

__all__ = [
    "BoxToMask",
    "GivenBoxEvaluator",
    "MaskXHead",
    "PartialCOCOEvaluator",
    "PartialSupervisionMapper",
    "PartiallySupervisedROIHeads",
    "Trainer",
    "WeightTransfer",
    "add_seg_every_thing_config",
    "annotate",
    "freeze_detector",
    "load_predictor",
    "model_zoo",
    "register_shapes",
    "resolve_class_split",
    "train",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """What is imported when it is asked for: detectron2's tools for export are."""
    if name == "load_predictor":
        from .export.predictor import load_predictor

        return load_predictor
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
