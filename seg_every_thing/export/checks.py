"""Which models can be exported, said before anything is written."""

from typing import Any, Dict, Tuple

from detectron2.config import CfgNode

_NEEDED: Dict[str, Tuple[Any, ...]] = {
    "MODEL.META_ARCHITECTURE": ("GeneralizedRCNN", "BoxToMask"),
    "MODEL.MASK_ON": (True,),
    "MODEL.KEYPOINT_ON": (False,),
    "MODEL.ROI_MASK_HEAD.NAME": ("MaskXHead",),
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
}
_NEEDED_OF_DETECTORS: Dict[str, Tuple[Any, ...]] = {
    "MODEL.ROI_HEADS.NAME": ("PartiallySupervisedROIHeads",),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
    "MODEL.PROPOSAL_GENERATOR.NAME": ("RPN",),
    "MODEL.RPN.HEAD_NAME": ("StandardRPNHead",),
}


def finds_boxes(cfg: CfgNode) -> bool:
    """Whether a model finds boxes by itself."""
    return cfg.MODEL.META_ARCHITECTURE != "BoxToMask"


def check_exportable(cfg: CfgNode, format: str) -> None:
    """Make sure that a format can hold the model of a config.

    Args:
        cfg: of the model.
        format: for messages.

    Raises:
        ValueError: when it cannot; the message names the config key and the mend.
    """
    architecture = cfg.MODEL.META_ARCHITECTURE
    if architecture in ("SemanticSegmentor", "DenseSemanticSegmentor"):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE {architecture} labels pixels: --format {format} is for "
            f"models that give masks of boxes. Use this one with seg_every_thing"
        )
    needed = {**_NEEDED, **(_NEEDED_OF_DETECTORS if finds_boxes(cfg) else {})}
    for key, allowed in needed.items():
        value = value_of(cfg, key)
        if value not in allowed:
            raise ValueError(
                f"{key} {value} cannot be exported with --format {format}: train a model with "
                f"{key} {' or '.join(map(str, allowed))}, or use this one with seg_every_thing"
            )
    if cfg.TEST.CRF:
        raise ValueError(
            f"TEST.CRF True cannot be exported with --format {format}: add TEST.CRF False to --opts"
        )
    check_weights(cfg)


def check_weights(cfg: CfgNode) -> None:
    """Make sure that there is something to export.

    Raises:
        ValueError: when a config names no checkpoint.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("there is nothing to export: add MODEL.WEIGHTS, a checkpoint, to --opts")


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a key such as "MODEL.MASK_ON"."""
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
