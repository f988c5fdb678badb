"""All data sets for semantic segmentation at once, or those that a config uses."""

from typing import Any, Optional

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..labels import PathLike
from .camvid import CAMVID_NAMES, register_camvid
from .shapes_semantic import SHAPES_SEM_NAMES, register_shapes_semantic
from .voc import VOC_SEM_SEG_NAMES, register_voc_sem_seg

_FAMILIES: Any = (
    (register_camvid, CAMVID_NAMES),
    (register_voc_sem_seg, VOC_SEM_SEG_NAMES),
    (register_shapes_semantic, SHAPES_SEM_NAMES),
)


def register_semantic_datasets(root: Optional[PathLike] = None) -> None:
    """Register CamVid, Pascal VOC, SBD and the semantic labels of Shapes with detectron2.

    Nothing is read before a data set is used, and missing data sets are no error until then.
    Calling it again, also with another root, replaces the former registrations.

    Args:
        root: folder that holds the data sets; default ``$DETECTRON2_DATASETS``, else ``datasets``.

    Raises:
        ValueError: when one of the names belongs to a data set that was registered elsewhere.
    """
    for register, _ in _FAMILIES:
        register(root)


def register_used_semantic_datasets(cfg: CfgNode, root: Optional[PathLike] = None) -> None:
    """Register the semantic data sets that a config uses and nobody has registered yet."""
    missing = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST} - set(DatasetCatalog.list())
    for register, names in _FAMILIES:
        if missing & set(names):
            register(root)
