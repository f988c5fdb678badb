"""Mask heads and RoI heads of the ablations, built by their registry names."""

from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_mask_head, build_roi_heads
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from helpers import detectron2_config_file, run_in_foreign_project

from seg_every_thing.modeling.ablations import (
    AblationRes5ROIHeads,
    MaskRCNNMLPHead,
    RoISamplePool,
    add_ablation_config,
)

K = 5
FEATURES = {f"p{i}": ShapeSpec(channels=8, stride=2**i) for i in (2, 3, 4)}


@pytest.fixture(autouse=True)
def storage() -> Iterator[None]:
    torch.manual_seed(0)
    with EventStorage():
        yield


def config(name: str = "AblationROIHeads", **mask_head: Any) -> CfgNode:
    cfg = get_cfg()
    add_ablation_config(cfg)
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NAME = name
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    cfg.MODEL.ROI_HEADS.IN_FEATURES = list(FEATURES)
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 4
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 4
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    for head in (cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD):
        head.POOLER_SAMPLING_RATIO = 2
    for key, value in mask_head.items():
        cfg.MODEL.ROI_MASK_HEAD[key] = value
    if name == "AblationRes5ROIHeads":
        cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p4"]
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 2  # res4 has four times as many, res5 eight times
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 1
        cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 8
    return cfg


def features() -> Dict[str, torch.Tensor]:
    return {n: torch.randn(1, 8, 128 // s.stride, 128 // s.stride) for n, s in FEATURES.items()}


def targets(has_mask: List[bool]) -> Instances:
    x = Instances((128, 128))
    left = torch.tensor([4.0, 44, 84])
    x.gt_boxes = Boxes(torch.stack([left, left, left + 36, left + 37], dim=1))
    x.gt_classes = torch.tensor([1, 3, 4])
    masks = torch.zeros(3, 128, 128, dtype=torch.bool)
    masks[:, :60] = masks[:, 80:100] = True
    x.gt_masks = BitMasks(masks)
    x.gt_has_mask = torch.tensor(has_mask)
    return x


def losses_of(heads: Any, maps: Dict[str, torch.Tensor], objects: Instances) -> Dict[str, Any]:
    proposals = Instances((128, 128))
    proposals.proposal_boxes = Boxes(objects.gt_boxes.tensor + 1)
    proposals.objectness_logits = torch.zeros(len(objects))
    images = ImageList(torch.zeros(1, 3, 128, 128), [(128, 128)])
    return heads(images, maps, [proposals], [objects])[1]


def test_mlp_head_is_its_definition() -> None:
    shape = ShapeSpec(channels=3, height=4, width=4)
    head = MaskRCNNMLPHead(shape, num_classes=K, num_fc=2, fc_dim=6).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    w1, b1, w2, b2, w3, b3 = (p.detach() for p in head.parameters())
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    found = head.layers(x)
    assert found.shape == (2, K, 8, 8)
    for r in range(2):
        hidden = (w2 @ (w1 @ x[r].flatten() + b1).clamp(min=0) + b2).clamp(min=0)
        torch.testing.assert_close(found[r].flatten(), w3 @ hidden + b3)


@pytest.mark.parametrize(("num_fc", "hidden"), [(0, 0), (1, 1), (3, 3)])
def test_mlp_head_from_config(num_fc: int, hidden: int) -> None:
    cfg = config(NAME="MaskRCNNMLPHead", NUM_FC=num_fc, FC_DIM=7)
    shape = ShapeSpec(channels=2, height=3, width=3)
    head = build_mask_head(cfg, shape)
    assert sum(isinstance(m, torch.nn.ReLU) for m in head.modules()) == hidden
    assert head.predictor.in_features == (7 if num_fc else 18)
    assert head.layers(torch.randn(4, 2, 3, 3)).shape == (4, K, 6, 6)
    assert head.layers(torch.randn(0, 2, 3, 3)).shape == (0, K, 6, 6)
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    assert build_mask_head(cfg, shape).layers(torch.randn(4, 2, 3, 3)).shape == (4, 1, 6, 6)


def test_mlp_head_refuses_what_it_cannot_do() -> None:
    square = ShapeSpec(channels=2, height=3, width=3)
    with pytest.raises(ValueError, match="NUM_FC must be 0 or more, got -1"):
        MaskRCNNMLPHead(square, num_classes=K, num_fc=-1)
    with pytest.raises(ValueError, match="square"):
        MaskRCNNMLPHead(ShapeSpec(channels=2, height=3, width=4), num_classes=K)
    with pytest.raises(ValueError, match=r"\(2, 3, 3\) and got \(2, 2, 2\)"):
        MaskRCNNMLPHead(square, num_classes=K).layers(torch.zeros(1, 2, 2, 2))


# Paper size, 80 classes, on 14 x 14 x 256 features (FPN), res5 (C4, C5).
COUNTS = [
    ("MaskRCNNConvUpsampleHead", 256, {"NUM_CONV": 4}, 2_643_280),
    ("MaskRCNNConvUpsampleHead", 256, {"NUM_CONV": 4, "CLS_AGNOSTIC_MASK": True}, 2_622_977),
    ("MaskRCNNConvUpsampleHead", 2048, {"NUM_CONV": 0}, 2_117_968),
    ("MaskRCNNConvUpsampleHead", 2048, {"NUM_CONV": 0, "CLS_AGNOSTIC_MASK": True}, 2_097_665),
    ("MaskRCNNConvUpsampleHead", 2048, {"NUM_CONV": 4}, 6_772_048),
    ("MaskRCNNMLPHead", 256, {"NUM_FC": 2}, 116_718_848),
    ("MaskRCNNMLPHead", 256, {"NUM_FC": 3}, 117_768_448),
    # One filter more than the sigmoid form: 256 weights and a bias.
    ("MaskRCNNSoftmaxHead", 256, {"NUM_CONV": 4}, 2_643_280 + 257),
]


@pytest.mark.parametrize(("name", "channels", "keys", "count"), COUNTS)
def test_parameter_counts(name: str, channels: int, keys: Dict[str, Any], count: int) -> None:
    cfg = get_cfg()  # 80 classes, and layers as wide as in the paper
    add_ablation_config(cfg)
    cfg.MODEL.ROI_MASK_HEAD.NAME = name
    for key, value in keys.items():
        cfg.MODEL.ROI_MASK_HEAD[key] = value
    with torch.device("meta"):  # sizes without memory
        head = build_mask_head(cfg, ShapeSpec(channels=channels, height=14, width=14))
    assert sum(p.numel() for p in head.parameters()) == count


def test_box_and_mask_poolers_are_chosen_apart() -> None:
    cfg = config(POOLER_TYPE="ROIAlignMax")
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIWarpAvg"
    cfg.freeze()
    heads = build_roi_heads(cfg, FEATURES)
    found = {
        name: [(p.rounding, p.reduction, p.spatial_scale) for p in pooler.level_poolers]
        for name, pooler in (("box", heads.box_pooler), ("mask", heads.mask_pooler))
    }
    scales = (1 / 4, 1 / 8, 1 / 16)
    assert found["box"] == [("exclusive", "avg", s) for s in scales]
    assert found["mask"] == [("none", "max", s) for s in scales]
    assert cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE == "ROIWarpAvg"  # as the user wrote it


@pytest.mark.parametrize("pooler_type", ["ROIAlign", "ROIAlignV2", "ROIPool"])
def test_detectron2s_types_stay_its_own(pooler_type: str) -> None:
    heads = build_roi_heads(config(POOLER_TYPE=pooler_type), FEATURES)
    assert not any(isinstance(m, RoISamplePool) for m in heads.modules())
    stock = build_roi_heads(config("StandardROIHeads", POOLER_TYPE=pooler_type), FEATURES)
    boxes = [Boxes(torch.tensor([[10.0, 12, 70, 61], [3, 5, 99, 100]]))]
    maps = list(features().values())
    assert torch.equal(heads.mask_pooler(maps, boxes), stock.mask_pooler(maps, boxes))


def test_masks_from_one_level() -> None:
    heads = build_roi_heads(config(IN_FEATURES=["p4"], POOLER_TYPE="ROIWarpMax"), FEATURES)
    assert heads.box_in_features == list(FEATURES)
    assert heads.mask_in_features == ["p4"]
    maps, boxes = features(), Boxes(torch.tensor([[16.0, 32, 80, 96]]))
    losses = losses_of(heads.train(), maps, targets([True] * 3))
    assert losses["loss_mask"] > 0
    x = Instances((128, 128))
    x.pred_boxes, x.pred_classes = boxes, torch.tensor([2])
    before = heads.eval().forward_with_given_boxes(maps, [x])[0].pred_masks
    assert before.shape == (1, 1, 8, 8)
    maps["p2"], maps["p3"] = torch.randn_like(maps["p2"]), torch.randn_like(maps["p3"])
    assert torch.equal(heads.forward_with_given_boxes(maps, [x])[0].pred_masks, before)


@pytest.mark.parametrize("mask_head", ["MaskRCNNSoftmaxHead", "MaskRCNNMLPHead"])
@pytest.mark.parametrize("name", ["AblationROIHeads", "PartiallySupervisedROIHeads"])
def test_box_only_objects_leave_the_mask_loss_alone(name: str, mask_head: str) -> None:
    cfg = config(name, NAME=mask_head, FC_DIM=8)
    cfg.MODEL.FREEZE_DETECTOR = False
    heads, maps = build_roi_heads(cfg, FEATURES).train(), features()
    check_box_only(heads, maps)


@pytest.mark.parametrize("mask_head", ["MaskRCNNSoftmaxHead", "MaskRCNNConvUpsampleHead"])
def test_box_only_objects_with_c4(mask_head: str) -> None:
    cfg = config("AblationRes5ROIHeads", NAME=mask_head)
    cfg.MODEL.ROI_BOX_HEAD.POOLER_TYPE = "ROIWarpMax"
    heads, maps = build_roi_heads(cfg, {"p4": FEATURES["p4"]}).train(), features()
    assert [p.rounding for p in heads.pooler.level_poolers] == ["exclusive"]
    check_box_only(heads, maps)
    x = Instances((128, 128))
    x.pred_boxes, x.pred_classes = targets([True] * 3).gt_boxes, torch.tensor([1, 0, 2])
    (found,) = heads.eval().forward_with_given_boxes(maps, [x])
    assert found.pred_masks.shape == (3, 1, 8, 8)


def check_box_only(heads: Any, maps: Dict[str, torch.Tensor]) -> None:
    for parameter in heads.mask_head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    objects = targets([True, False, True])
    few = losses_of(heads, maps, objects)
    changed = targets([True, False, True])
    changed.gt_masks.tensor[1] ^= True
    again = losses_of(heads, maps, changed)  # RoIs come in another order: rounding differs
    torch.testing.assert_close(again["loss_mask"], few["loss_mask"])
    changed = targets([True] * 3)
    changed.gt_masks.tensor[1] ^= True
    assert (losses_of(heads, maps, changed)["loss_mask"] - few["loss_mask"]).abs() > 1e-3
    none = losses_of(heads, maps, targets([False] * 3))
    assert none["loss_mask"] == 0
    assert none["loss_cls"] > 0
    heads.zero_grad(set_to_none=True)
    none["loss_mask"].backward()
    mask_gradients = [p.grad for p in heads.mask_head.parameters()]
    assert all(g is not None and not g.any() for g in mask_gradients)


WRONG = [
    ({"POOLER_TYPE": "ROIWarp"}, "ROI_MASK_HEAD.POOLER_TYPE 'ROIWarp' is not one of .*ROIWarpAvg"),
    ({"POOLER_TYPE": "ROIAlignMax", "POOLER_SAMPLING_RATIO": 0}, "POOLER_SAMPLING_RATIO"),
    ({"IN_FEATURES": ["p4", "p9"]}, "the backbone has no feature p9; choose from p2, p3, p4"),
]


@pytest.mark.parametrize(("keys", "message"), WRONG)
def test_wrong_configs(keys: Dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_roi_heads(config(**keys), FEATURES)


def test_c4_has_no_features_for_masks_alone() -> None:
    cfg = config("AblationRes5ROIHeads", IN_FEATURES=["p4"])
    with pytest.raises(ValueError, match="IN_FEATURES must be"):
        build_roi_heads(cfg, {"p4": FEATURES["p4"]})


def test_without_masks() -> None:
    for name, shapes in (("AblationROIHeads", FEATURES), ("AblationRes5ROIHeads", {})):
        cfg = config(name)
        cfg.MODEL.MASK_ON = False
        heads = build_roi_heads(cfg, shapes or {"p4": FEATURES["p4"]}).train()
        assert not heads.mask_on
        assert sorted(losses_of(heads, features(), targets([True] * 3))) == [
            *("loss_box_reg", "loss_cls"),
        ]
    assert isinstance(heads, AblationRes5ROIHeads)


FOREIGN = """
import torch
import seg_every_thing.modeling.ablations
from detectron2.config import get_cfg
from detectron2.model_zoo import get_config_file
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

def sample():
    x = Instances((64, 64))
    x.gt_boxes = Boxes(torch.tensor([[8.0, 8, 50, 56]]))
    x.gt_classes = torch.tensor([3])
    x.gt_masks = BitMasks(torch.ones(1, 64, 64) > 0)
    return {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "instances": x}

def losses(base, heads, mask_head, pooler, fc=None):
    cfg = get_cfg()  # no key of ours
    cfg.merge_from_file(get_config_file(f"COCO-InstanceSegmentation/mask_rcnn_{base}_1x.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    r = cfg.MODEL.RESNETS
    r.STEM_OUT_CHANNELS, r.RES2_OUT_CHANNELS, r.WIDTH_PER_GROUP = 4, 8, 4
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 4
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_MASK_HEAD.NAME = heads, mask_head
    for head in (cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD):
        head.POOLER_TYPE, head.POOLER_SAMPLING_RATIO = pooler, 2
    model = build_model(cfg).train()
    with EventStorage():
        found = model([sample()])
    sum(found.values()).backward()
    assert torch.isfinite(found["loss_mask"]), found
    return sorted(found)

first = losses("R_50_FPN", "AblationROIHeads", "MaskRCNNSoftmaxHead", "ROIWarpAvg")
assert first == losses("R_50_FPN", "StandardROIHeads", "MaskRCNNMLPHead", "ROIPool")
assert first == losses("R_50_C4", "AblationRes5ROIHeads", "MaskRCNNSoftmaxHead", "ROIAlignMax")
print(*first)
"""


def test_in_a_foreign_project(tmp_path: Path) -> None:
    for base in ("R_50_FPN", "R_50_C4"):  # those of losses()
        detectron2_config_file(f"COCO-InstanceSegmentation/mask_rcnn_{base}_1x.yaml")
    done = run_in_foreign_project(FOREIGN, tmp_path)
    wanted = "loss_box_reg loss_cls loss_mask loss_rpn_cls loss_rpn_loc"
    assert done.stdout.strip() == wanted, done.stderr[-2000:]
