"""The ablations of Mask R-CNN (arXiv 1703.06870, Table 2) as detectron2 components.

Importing this package registers them and does nothing else.
"""

from ...config_ablations import add_ablation_config
from .mlp_mask_head import MaskRCNNMLPHead
from .roi_heads import AblationRes5ROIHeads, AblationROIHeads
from .roi_pooling import POOLER_TYPES, RoISamplePool
from .softmax_masks import MaskRCNNSoftmaxHead

__all__ = [
    "POOLER_TYPES",
    "AblationROIHeads",
    "AblationRes5ROIHeads",
    "MaskRCNNMLPHead",
    "MaskRCNNSoftmaxHead",
    "RoISamplePool",
    "add_ablation_config",
]
