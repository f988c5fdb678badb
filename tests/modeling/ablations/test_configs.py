"""Configs of the ablations: each row differs from its baseline in what it is about, alone."""

from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.modeling.poolers import ROIPooler
from helpers import CONFIGS
from torch import nn

from seg_every_thing.config import load_config
from seg_every_thing.modeling.ablations import POOLER_TYPES, RoISamplePool

FOLDER = CONFIGS / "mask_rcnn_ablations"

BOX, MASK = "MODEL.ROI_BOX_HEAD.", "MODEL.ROI_MASK_HEAD."
R_101 = {
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
}
X_101 = {
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.RESNETS.NUM_GROUPS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl",
    "MODEL.PIXEL_STD": [57.375, 57.120, 58.395],
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.BASE_LR": 0.01,
}
MLP: Dict[str, Any] = {MASK + "NAME": "MaskRCNNMLPHead"}
SOFTMAX = {MASK + "NAME": "MaskRCNNSoftmaxHead"}
AGNOSTIC = {MASK + "CLS_AGNOSTIC_MASK": True}
WARPS = {  # leaf -> POOLER_TYPE
    "2c_roipool": "ROIPool",
    "2c_roiwarp_max": "ROIWarpMax",
    "2c_roiwarp_avg": "ROIWarpAvg",
    "2c_roiwarp_inclusive_max": "ROIWarpInclusiveMax",
    "2c_roiwarp_inclusive_avg": "ROIWarpInclusiveAvg",
    "2c_roialign_max": "ROIAlignMax",
}

# Leaf -> its baseline, and all keys in which it differs from it.
ROWS: Dict[str, Tuple[str, Dict[str, Any]]] = {
    "2a_r101_c4": ("2a_r50_c4", R_101),
    "2a_r101_fpn": ("2a_r50_fpn", R_101),
    "2a_x101_fpn": ("2a_r50_fpn", X_101),
    "2b_sigmoid": ("2a_r50_c4", {}),
    "2b_softmax": ("2b_sigmoid", SOFTMAX),
    "2c_roialign_avg": ("2a_r50_c4", {}),
    **{leaf: ("2c_roialign_avg", {BOX + "POOLER_TYPE": kind}) for leaf, kind in WARPS.items()},
    "2d_c5_roipool": (
        "2d_c5_roialign",
        {BOX + "POOLER_TYPE": "ROIPool", MASK + "POOLER_TYPE": "ROIPool"},
    ),
    "2e_fcn": ("2a_r50_fpn", {}),
    "2e_mlp2": ("2e_fcn", MLP),
    "2e_mlp3": ("2e_fcn", {**MLP, MASK + "NUM_FC": 3}),
    "class_specific": ("2a_r50_c4", {}),
    "class_agnostic": ("class_specific", AGNOSTIC),
    "shapes/2b_softmax": ("shapes/2b_sigmoid", SOFTMAX),
    **{
        f"shapes/{leaf}": ("shapes/2c_roialign_avg", {MASK + "POOLER_TYPE": kind})
        for leaf, kind in WARPS.items()
    },
    "shapes/2c_roialign_avg": (
        "shapes/2b_sigmoid",
        {MASK + "IN_FEATURES": ["p4"], "MODEL.ROI_HEADS.NAME": "AblationROIHeads"},
    ),
    "shapes/2d_roialign": ("shapes/2c_roialign_avg", {MASK + "IN_FEATURES": ["p5"]}),
    "shapes/2d_roipool": ("shapes/2d_roialign", {MASK + "POOLER_TYPE": "ROIPool"}),
    "shapes/2e_fcn": ("shapes/2b_sigmoid", {}),
    "shapes/2e_mlp2": ("shapes/2e_fcn", {**MLP, MASK + "FC_DIM": 256}),
    "shapes/2e_mlp3": ("shapes/2e_mlp2", {MASK + "NUM_FC": 3}),
    "shapes/class_specific": ("shapes/2b_sigmoid", {}),
    "shapes/class_agnostic": ("shapes/class_specific", AGNOSTIC),
}
ROOTS = {"2a_r50_c4", "2a_r50_fpn", "2d_c5_roialign", "shapes/2b_sigmoid"}


def config_of(leaf: str) -> CfgNode:
    return load_config(str(FOLDER / f"{leaf}.yaml"))


def flat(node: CfgNode, prefix: str = "") -> Iterator[Tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def test_every_config_is_a_row() -> None:
    paths = [p.relative_to(FOLDER).with_suffix("") for p in FOLDER.rglob("*.yaml")]
    leaves = {p.as_posix() for p in paths if not p.name.startswith("Base")}
    assert leaves == {*ROWS, *ROOTS}


@pytest.mark.parametrize("leaf", ROWS)
def test_a_row_differs_from_its_baseline_in_what_it_is_about(leaf: str, tiny_shapes: Path) -> None:
    baseline, changes = ROWS[leaf]
    before, after = (dict(flat(config_of(name))) for name in (baseline, leaf))
    assert {key: value for key, value in after.items() if value != before[key]} == changes


@pytest.mark.parametrize(
    ("leaf", "count"),
    [("2a_r50_c4", 35_909_612), ("2a_r50_fpn", 44_343_216), ("2d_c5_roialign", 172_353_516)],
)
def test_parameter_counts_of_whole_models(leaf: str, count: int) -> None:
    assert sum(p.numel() for p in on_meta(leaf).parameters()) == count


def on_meta(leaf: str) -> nn.Module:
    """The model in full size, without memory for its weights."""
    cfg = config_of(leaf)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


POOLED = {  # leaf -> POOLER_TYPE of each pooler, and the strides
    "2c_roialign_max": ("ROIAlignMax", [16]),
    "2c_roiwarp_avg": ("ROIWarpAvg", [16]),
    "2c_roipool": ("ROIPool", [16]),
    "2d_c5_roipool": ("ROIPool", [32]),
    "2d_c5_roialign": ("ROIAlign", [32]),
}


@pytest.mark.parametrize("leaf", POOLED)
def test_poolers_are_those_of_the_config(leaf: str) -> None:
    kind, strides = POOLED[leaf]
    poolers = [m for m in on_meta(leaf).roi_heads.modules() if isinstance(m, ROIPooler)]
    assert len(poolers) == (1 if leaf.startswith("2c") else 2)
    for pooler in poolers:
        levels = list(pooler.level_poolers)
        assert [round(1 / level.spatial_scale) for level in levels] == strides
        for level in levels:
            if kind in POOLER_TYPES:
                assert isinstance(level, RoISamplePool)
                assert (level.rounding, level.reduction) == POOLER_TYPES[kind]
                assert level.sampling_ratio == 2
            else:
                assert type(level).__name__.lower() == kind.lower()


def test_schedule_and_numbers_of_rois() -> None:
    for leaf, rois, proposals in (("2a_r50_c4", 64, 300), ("2a_r50_fpn", 512, 1000)):
        cfg = config_of(leaf)
        assert (cfg.SOLVER.MAX_ITER, list(cfg.SOLVER.STEPS)) == (160000, [120000])
        assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.BASE_LR) == (16, 0.02)
        assert (cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.MOMENTUM) == (0.0001, 0.9)
        assert rois == cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
        assert cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION == 0.25
        assert proposals == cfg.MODEL.RPN.POST_NMS_TOPK_TEST
        assert cfg.TEST.DETECTIONS_PER_IMAGE == 100
        assert cfg.DATASETS.MASK_CLASSES == "all"
