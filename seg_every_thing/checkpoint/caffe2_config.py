"""The config of a Detectron (Caffe2) model, told from the names and shapes of its weights."""

import re
from collections import Counter
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from detectron2.config import CfgNode, get_cfg

from ..config import add_seg_every_thing_config

Shapes = Mapping[str, Tuple[int, ...]]

TRANSFER_OUTPUT = "mask_fcn_logits_w_flat"
MLP_OUTPUT = "mask_mlp_logits_raw"
VECTORS = r"v_\w+(?<!_momentum)(?<!_jcvbackup)"
"""Names of blobs that hold class vectors from outside the detector."""

_MASK_BRANCH = r"(_\[mask\]_fcn\d|conv5_mask|mask_(fcn|mlp)_\w+|bbox2mask_mlp_l\d)_[wb]"
_DEPTHS: Mapping[Tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}


def config_from_shapes(
    shapes: Shapes, activation: str = "leaky_relu", embedding: Optional[str] = None
) -> Tuple[CfgNode, Optional[str]]:
    """The config of the model that has these weights, with Detectron's conventions for boxes.

    Args:
        shapes: Detectron's names -> shapes; names that no model has do not matter.
        activation: of T's hidden layers.
        embedding: name of the blob with the class vectors, where there are several.

    Returns:
        The config, and the name of the blob that holds the class vectors, if T reads one.

    Raises:
        ValueError: when they are not those of a ResNet-FPN detector.
    """
    cfg = _with_conventions_of_detectron()
    model, box = cfg.MODEL, cfg.MODEL.ROI_BOX_HEAD
    blocks = resnet_blocks(shapes)
    model.RESNETS.DEPTH = _DEPTHS[blocks]
    model.RESNETS.STEM_OUT_CHANNELS = _width(
        shapes, ["conv1_w:0", "res_conv1_bn_s:0", "res_conv1_bn_b:0"]
    )
    model.RESNETS.RES2_OUT_CHANNELS = _width(
        shapes, ["res2_0_branch2c_w:0", "res2_0_branch2c_bn_s:0", "res2_0_branch1_bn_s:0"]
    )
    model.RESNETS.WIDTH_PER_GROUP = _width(
        shapes, ["res2_0_branch2a_w:0", "res2_0_branch2a_bn_s:0", "res2_0_branch2b_bn_s:0"]
    )
    top = f"res5_{blocks[3] - 1}_sum"
    model.FPN.OUT_CHANNELS = _width(
        shapes, [f"fpn_inner_{top}_w:0", f"fpn_inner_{top}_b:0", f"fpn_{top}_b:0"]
    )
    rows = _width(shapes, ["cls_score_w:0", "cls_score_b:0", "bbox_pred_w:0/4", "bbox_pred_b:0/4"])
    model.ROI_HEADS.NUM_CLASSES = rows - 1
    if rows == 81:
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("coco_2017_train",), ("coco_2017_val",)
    box.FC_DIM = _width(
        shapes, ["fc6_w:0", "fc6_b:0", "fc7_b:0", "fc7_w:0", "fc7_w:1", "cls_score_w:1"]
    )
    # Class-agnostic boxes have the rows of background and object.
    box.CLS_AGNOSTIC_BBOX_REG = 2 == _width(shapes, ["bbox_pred_w:0/4", "bbox_pred_b:0/4"]) != rows
    model.MASK_ON = any(re.fullmatch(_MASK_BRANCH, name) for name in shapes)
    return cfg, _set_mask_branch(cfg, shapes, activation, embedding) if model.MASK_ON else None


def _with_conventions_of_detectron() -> CfgNode:
    """Our defaults with what holds for every ResNet-FPN model of Detectron."""
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    model = cfg.MODEL
    model.PIXEL_MEAN = [102.9801, 115.9465, 122.7717]
    model.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    model.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    model.ANCHOR_GENERATOR.SIZES = [[32], [64], [128], [256], [512]]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]
    model.ANCHOR_GENERATOR.OFFSET = 0.5
    model.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    model.RPN.PRE_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TRAIN = 2000, 1000
    model.RPN.PRE_NMS_TOPK_TEST, model.RPN.POST_NMS_TOPK_TEST = 1000, 1000
    model.RPN.BOUNDARY_THRESH = 0
    model.RPN.SMOOTH_L1_BETA = 0.1111
    model.ROI_HEADS.NAME = "PartiallySupervisedROIHeads"
    model.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    for head in (model.ROI_BOX_HEAD, model.ROI_MASK_HEAD):
        head.POOLER_TYPE, head.POOLER_SAMPLING_RATIO = "ROIAlign", 2  # not aligned
    model.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    model.ROI_BOX_HEAD.NUM_FC, model.ROI_BOX_HEAD.POOLER_RESOLUTION = 2, 7
    model.ROI_BOX_HEAD.SMOOTH_L1_BETA = 1.0
    model.ROI_MASK_HEAD.NAME, model.ROI_MASK_HEAD.POOLER_RESOLUTION = "MaskXHead", 14
    cfg.INPUT.MIN_SIZE_TRAIN = (800,)
    cfg.SOLVER.BIAS_LR_FACTOR, cfg.SOLVER.WEIGHT_DECAY_BIAS = 2.0, 0.0
    return cfg


def _set_mask_branch(
    cfg: CfgNode, shapes: Shapes, activation: str, embedding: Optional[str]
) -> Optional[str]:
    head, transfer = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.WEIGHT_TRANSFER
    head.NUM_CONV = _layers(shapes, "_[mask]_fcn")
    head.CONV_DIM = _width(
        shapes, ["conv5_mask_w:0", "conv5_mask_b:0", "_[mask]_fcn1_w:0", "_[mask]_fcn1_b:0"]
    )
    head.MLP.ENABLED = _has(shapes, MLP_OUTPUT)
    hidden = _layers(shapes, "fc_mask_head_mlp_l")
    head.MLP.NUM_FC = 1 + hidden
    if head.MLP.ENABLED and hidden:
        head.MLP.FC_DIM = _width(
            shapes, ["fc_mask_head_mlp_l1_w:0", "fc_mask_head_mlp_l1_b:0", f"{MLP_OUTPUT}_w:1"]
        )
    hidden = _layers(shapes, "bbox2mask_mlp_l")
    if hidden or _has(shapes, TRANSFER_OUTPUT):
        head.PREDICTOR = "transfer"
        transfer.NUM_LAYERS = 1 + hidden
        transfer.ACTIVATION = activation
        return _set_transfer_input(cfg, shapes, embedding)
    if _has(shapes, "mask_fcn_logits"):
        agnostic = _width(shapes, ["mask_fcn_logits_w:0", "mask_fcn_logits_b:0"]) == 1
        head.PREDICTOR = "class_agnostic" if agnostic else "class_specific"
    else:
        head.PREDICTOR = "none" if head.MLP.ENABLED else "class_agnostic"
    return None


def _set_transfer_input(cfg: CfgNode, shapes: Shapes, embedding: Optional[str]) -> Optional[str]:
    """Tell by its width what T reads; the name of the blob where that is an embedding."""
    transfer, features = cfg.MODEL.WEIGHT_TRANSFER, cfg.MODEL.ROI_BOX_HEAD.FC_DIM
    first = "bbox2mask_mlp_l1_w" if transfer.NUM_LAYERS > 1 else f"{TRANSFER_OUTPUT}_w"
    if first not in shapes:
        raise ValueError(f"it has no '{first}', whose width tells what its transfer function reads")
    width = shapes[first][1] if len(shapes[first]) == 2 else None
    inputs = {features: "cls", 4 * features: "box", 5 * features: "cls+box"}
    if width in inputs:
        transfer.INPUT = inputs[width]
        return None
    vectors = {n: s[1] for n, s in shapes.items() if re.fullmatch(VECTORS, n) and len(s) == 2}
    fitting = sorted(n for n, w in vectors.items() if w == width)
    if embedding is not None and embedding in fitting:
        fitting = [embedding]
    if not fitting:
        known = [f"{w} ({kind})" for w, kind in [*inputs.items(), *zip(vectors.values(), vectors)]]
        rows = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM
        raise ValueError(
            mismatch(first, shapes[first], f"({rows}, D) with D one of {', '.join(known)}")
        )
    if len(fitting) > 1:
        raise ValueError(
            f"several embeddings fit its transfer function: name one of {', '.join(fitting)} "
            f"with --embedding"
        )
    transfer.INPUT = "embedding"
    return fitting[0]


def resnet_blocks(shapes: Shapes) -> Tuple[int, ...]:
    counts = [0, 0, 0, 0]
    for name in shapes:
        match = re.fullmatch(r"res([2-5])_(\d+)_branch(1|2[abc])_(w|bn_[sb])", name)
        if match:
            stage = int(match[1]) - 2
            counts[stage] = max(counts[stage], int(match[2]) + 1)
    if tuple(counts) not in _DEPTHS:
        raise ValueError(
            f"not a ResNet-50, -101 or -152 detector of Detectron: its stages res2 to res5 have "
            f"{', '.join(map(str, counts))} blocks"
        )
    return tuple(counts)


def _width(shapes: Shapes, places: Sequence[str]) -> int:
    """The size that most of the given places agree on: "blob:dimension" or "blob:dimension/n".

    One blob of a wrong shape is then found by comparing it with the model, and named.

    Raises:
        ValueError: when there is none of these blobs.
    """
    votes: List[int] = []
    for place in places:
        name, _, dimension = place.partition(":")
        dimension, _, divisor = dimension.partition("/")
        if len(shapes.get(name, ())) > int(dimension):
            votes.append(shapes[name][int(dimension)] // int(divisor or 1))
    if not votes:
        names = dict.fromkeys(place.partition(":")[0] for place in places)
        raise ValueError(f"not a Detectron model with FPN: it has no {' or '.join(names)}")
    return Counter(votes).most_common(1)[0][0]


def _has(shapes: Shapes, layer: str) -> bool:
    return f"{layer}_w" in shapes or f"{layer}_b" in shapes


def _layers(shapes: Shapes, prefix: str) -> int:
    """Number of layers named prefix + 1, 2, ...; no head of Detectron has more than 8."""
    return max((i for i in range(1, 9) if _has(shapes, f"{prefix}{i}")), default=0)


def mismatch(name: str, found: Tuple[int, ...], expected: Any) -> str:
    return f"blob '{name}' has shape {tuple(found)}, expected {expected}"
