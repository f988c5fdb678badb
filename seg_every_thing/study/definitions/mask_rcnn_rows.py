"""Rows of Mask R-CNN's own ablations (its Table 2, b to e), stage-wise, with all masks."""

from typing import Any, Dict, Mapping, Tuple

from .rows import Row
from .table import Table

_NAME = "MODEL.ROI_MASK_HEAD.NAME"
_POOLER = "MODEL.ROI_MASK_HEAD.POOLER_TYPE"
_LEVELS = "MODEL.ROI_MASK_HEAD.IN_FEATURES"
_NUM_FC = "MODEL.ROI_MASK_HEAD.NUM_FC"

METRICS = ("segm/AP", "segm/AP50", "segm/AP75", "bbox/AP")


def _row(name: str, title: str, overrides: Mapping[str, Any]) -> Row:
    return Row(name, title, "stage_two", tuple(overrides.items()), all_masks=True)


_HEAD = {_NAME: "MaskRCNNConvUpsampleHead"}
_STRIDE_16 = {**_HEAD, "MODEL.ROI_HEADS.NAME": "AblationROIHeads", _LEVELS: ("p4",)}

SIGMOID = _row("mrcnn_sigmoid", "FCN, sigmoid, class-specific", _HEAD)
SOFTMAX = SIGMOID.changed("mrcnn_softmax", "softmax over classes", {_NAME: "MaskRCNNSoftmaxHead"})
AGNOSTIC = SIGMOID.changed(
    "mrcnn_agnostic", "class-agnostic", {"MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True}
)
MLP_2 = SIGMOID.changed(
    "mrcnn_mlp2",
    "MLP, 2 hidden layers",
    {_NAME: "MaskRCNNMLPHead", "MODEL.ROI_MASK_HEAD.FC_DIM": 256},
)
MLP_3 = MLP_2.changed("mrcnn_mlp3", "MLP, 3 hidden layers", {_NUM_FC: 3})
ALIGN_16 = _row("mrcnn_s16_roialign_avg", "RoIAlign, average, stride 16", _STRIDE_16)
ALIGN_32 = _row(
    "mrcnn_s32_roialign", "RoIAlign, average, stride 32", {**_STRIDE_16, _LEVELS: ("p5",)}
)
POOL_32 = ALIGN_32.changed("mrcnn_s32_roipool", "RoIPool, stride 32", {_POOLER: "ROIPool"})

_POOLERS = {
    "roipool": ("RoIPool", "ROIPool"),
    "roiwarp_max": ("RoIWarp, max", "ROIWarpMax"),
    "roiwarp_avg": ("RoIWarp, average", "ROIWarpAvg"),
    "roiwarp_inclusive_max": ("RoIWarp, max, last cell included", "ROIWarpInclusiveMax"),
    "roiwarp_inclusive_avg": ("RoIWarp, average, last cell included", "ROIWarpInclusiveAvg"),
    "roialign_max": ("RoIAlign, max", "ROIAlignMax"),
}
_STRIDE_16_ROWS: Tuple[Row, ...] = tuple(
    ALIGN_16.changed(f"mrcnn_s16_{name}", f"{title}, stride 16", {_POOLER: kind})
    for name, (title, kind) in _POOLERS.items()
)


def _table(title: str, rows: Tuple[Row, ...], *claims: Tuple[str, str]) -> Table:
    return Table(title, rows, claims=tuple((a, b, "") for a, b in claims), metrics=METRICS)


TABLES: Dict[str, Table] = {
    "mask_rcnn_2b": _table(
        "2b of Mask R-CNN: independent masks", (SOFTMAX, SIGMOID), (SIGMOID.name, SOFTMAX.name)
    ),
    "mask_rcnn_2c": _table(
        "2c of Mask R-CNN: RoI layers at stride 16",
        (*_STRIDE_16_ROWS, ALIGN_16),
        *((ALIGN_16.name, f"mrcnn_s16_{x}") for x in ("roipool", "roiwarp_max", "roiwarp_avg")),
    ),
    "mask_rcnn_2d": _table(
        "2d of Mask R-CNN: RoI layers at stride 32",
        (POOL_32, ALIGN_32),
        (ALIGN_32.name, POOL_32.name),
    ),
    "mask_rcnn_2e": _table(
        "2e of Mask R-CNN: mask head",
        (MLP_2, MLP_3, SIGMOID),
        *((SIGMOID.name, MLP_2.name), (SIGMOID.name, MLP_3.name)),
    ),
    "mask_rcnn_agnostic": _table(
        "class-agnostic masks in Mask R-CNN", (AGNOSTIC, SIGMOID), (SIGMOID.name, AGNOSTIC.name)
    ),
}

LEAVES: Dict[str, str] = {
    row: f"mask_rcnn_ablations/shapes/{leaf}.yaml"
    for row, leaf in {
        SIGMOID.name: "2b_sigmoid",
        SOFTMAX.name: "2b_softmax",
        AGNOSTIC.name: "class_agnostic",
        MLP_2.name: "2e_mlp2",
        MLP_3.name: "2e_mlp3",
        ALIGN_16.name: "2c_roialign_avg",
        ALIGN_32.name: "2d_roialign",
        POOL_32.name: "2d_roipool",
        **{row.name: f"2c_{row.name[len('mrcnn_s16_') :]}" for row in _STRIDE_16_ROWS},
    }.items()
}
