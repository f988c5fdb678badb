"""RoI features that are sums over all levels of the backbone."""

from typing import Dict

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes
from torchvision.ops import roi_align

from seg_every_thing import add_seg_every_thing_config, freeze_detector
from seg_every_thing.modeling.all_levels_pooler import AllLevelsPooler
from seg_every_thing.modeling.box_to_mask import BoxToMask, GivenBoxROIHeads

SHAPES: Dict[str, ShapeSpec] = {
    "res2": ShapeSpec(channels=3, stride=4),
    "res3": ShapeSpec(channels=5, stride=8),
}


def config(*opts: object) -> CfgNode:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.META_ARCHITECTURE = "BoxToMask"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = list(SHAPES)
    cfg.MODEL.ROI_MASK_HEAD.update(
        NAME="MaskXHead", PREDICTOR="class_agnostic", CONV_DIM=4, NUM_CONV=1, POOLER_RESOLUTION=6
    )
    cfg.MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO = 2
    cfg.MODEL.ROI_MASK_HEAD.POOLER_LEVELS = "all"
    cfg.merge_from_list(list(opts))
    return cfg


def test_it_is_the_sum_of_the_levels_after_a_linear_map_each() -> None:
    torch.manual_seed(0)
    pooler = AllLevelsPooler(config(), SHAPES).double()
    features = [torch.rand(2, 3, 16, 16).double(), torch.rand(2, 5, 8, 8).double()]
    boxes = [[[3.0, 5, 40, 33]], [[0.0, 0, 64, 64], [10, 20, 30, 60]]]
    got = pooler(features, [Boxes(torch.tensor(b).double()) for b in boxes])
    rois = torch.tensor(
        [[i, *box] for i, of_image in enumerate(boxes) for box in of_image]
    ).double()
    expected = torch.zeros(3, 4, 6, 6).double()
    for feature, scale, lateral in zip(features, (1 / 4, 1 / 8), pooler.laterals):
        pooled = roi_align(feature, rois, 6, scale, 2, True)
        expected += torch.einsum("oc,rchw->rohw", lateral.weight[:, :, 0, 0], pooled)
        expected += lateral.bias.view(1, 4, 1, 1)
    torch.testing.assert_close(got, expected.clamp(min=0), rtol=1e-10, atol=1e-12)


def test_no_box_at_all_gives_gradients_of_zero() -> None:
    pooler = AllLevelsPooler(config(), SHAPES)
    features = [torch.rand(1, 3, 16, 16), torch.rand(1, 5, 8, 8)]
    out = pooler(features, [Boxes(torch.zeros(0, 4))])
    assert out.shape == (0, 4, 6, 6)
    out.sum().backward()
    assert all((lateral.weight.grad == 0).all() for lateral in pooler.laterals)


def test_heads_take_it_by_config() -> None:
    heads = GivenBoxROIHeads(config(), SHAPES)
    assert isinstance(heads.mask_pooler, AllLevelsPooler)
    assert heads.mask_head.mask_fcn1.weight.shape[1] == 4
    other = config("MODEL.ROI_MASK_HEAD.POOLER_LEVELS", "some")
    with pytest.raises(ValueError, match="POOLER_LEVELS 'some' is not one of assigned, all"):
        GivenBoxROIHeads(other, SHAPES)


def test_its_weights_are_part_of_the_mask_branch() -> None:
    cfg = config("MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3"]
    cfg.MODEL.DEVICE = "cpu"
    model = BoxToMask(cfg)
    freeze_detector(model)
    trained = {n.rsplit(".", 2)[0] for n, p in model.named_parameters() if p.requires_grad}
    assert {"roi_heads.mask_pooler.laterals", "roi_heads.mask_head"} <= trained
    assert all(name.startswith("roi_heads.mask_") for name in trained)
