"""Models built by detectron2 from a config alone, and the configs that are refused."""

from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from conftest import MakeDataset
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from tiny_heads import as_predictions, make_image

from seg_every_thing import PartiallySupervisedROIHeads, add_seg_every_thing_config

BASE_CONFIG = Path(__file__).parents[2] / "configs" / "shapes" / "Base-Shapes-RCNN-FPN.yaml"
K = 3


def make_cfg(**overrides: Any) -> CfgNode:
    """The Shapes config, narrowed; ``a__b=1`` overrides ``MODEL.A.B``."""
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.merge_from_file(str(BASE_CONFIG))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = K
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.DATASETS.MASK_CLASSES = "all"
    cfg.TEST.CLASS_SPLIT = ""
    for key, value in overrides.items():
        prefix = "" if key.startswith("datasets") else "MODEL."
        cfg.merge_from_list([prefix + key.upper().replace("__", "."), value])
    return cfg


def make_roi_heads(cfg: CfgNode) -> PartiallySupervisedROIHeads:
    shapes = {f"p{i}": ShapeSpec(channels=64, stride=2**i) for i in (2, 3, 4, 5)}
    return build_roi_heads(cfg, shapes)


def make_batch() -> List[Dict[str, Any]]:
    """An image with one object of set A and a box-only one, and an image without objects."""
    torch.manual_seed(0)
    batch = []
    for n in (2, 0):
        x = Instances((64, 64))
        x.gt_boxes = Boxes(torch.tensor([[4.0, 4, 30, 30], [30, 30, 60, 60]])[:n])
        x.gt_classes = torch.tensor([0, 2])[:n]
        x.gt_masks = BitMasks(torch.arange(64 * 64).view(1, 64, 64).expand(n, 64, 64) < 1000)
        x.gt_has_mask = torch.tensor([True, False])[:n]
        image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
        batch.append({"image": image, "height": 64, "width": 64, "instances": x})
    return batch


VARIANTS: List[Dict[str, Any]] = [
    {},
    {"weight_transfer__input": "cls", "weight_transfer__num_layers": 3},
    {"roi_mask_head__mlp__enabled": True, "weight_transfer__stop_gradient": False},
    {"roi_mask_head__predictor": "class_agnostic"},
    {"roi_mask_head__predictor": "class_specific"},
    {"roi_mask_head__predictor": "none", "roi_mask_head__mlp__enabled": True},
]


@pytest.mark.parametrize("overrides", VARIANTS, ids=str)
def test_a_training_step_and_inference(overrides: Dict[str, Any]) -> None:
    model, batch = build_model(make_cfg(**overrides)), make_batch()
    with EventStorage():
        losses = model(batch)
    assert losses["loss_mask"] > 0
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []

    model.eval()
    with torch.no_grad():
        with_targets = model(batch)
        without = model([{k: v for k, v in x.items() if k != "instances"} for x in batch])
    for a, b in zip(with_targets, without):
        assert len(a["instances"]) > 0
        assert a["instances"].pred_masks.shape == (len(a["instances"]), 64, 64)
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)
        assert torch.equal(a["instances"].pred_masks, b["instances"].pred_masks)


def test_the_transfer_of_a_config(tmp_path: Path) -> None:
    # Width of the class vectors and of T, for 16 box features.
    for kind, width in (("cls", 16), ("box", 64), ("cls+box", 80)):
        heads = make_roi_heads(make_cfg(weight_transfer__input=kind))
        assert next(heads.weight_transfer.parameters()).shape == (8, width)
        assert heads.stop_gradient
        assert heads.mask_weights().shape == (K, 8)
    cfg = make_cfg(weight_transfer__stop_gradient=False)
    assert not make_roi_heads(cfg).stop_gradient
    vectors = np.arange(K * 5, dtype=np.float32).reshape(K, 5)
    np.save(tmp_path / "vectors.npy", vectors)
    heads = make_roi_heads(
        make_cfg(
            weight_transfer__input="embedding",
            weight_transfer__embedding_file=str(tmp_path / "vectors.npy"),
        )
    )
    assert next(heads.weight_transfer.parameters()).shape == (8, 5)
    assert torch.equal(heads.state_dict()["class_vectors"], torch.from_numpy(vectors))
    # A class-agnostic box predictor still has a classifier.
    cfg = make_cfg(weight_transfer__input="cls", roi_box_head__cls_agnostic_bbox_reg=True)
    assert make_roi_heads(cfg).mask_weights().shape == (K, 8)


def test_normalize_centres_on_set_a_of_the_data_set(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    names = tmp_path / "classes.txt"
    names.write_text("kite\ncup\n")  # classes 2 and 0 of cup, dog, kite
    name = make_dataset([[]])
    chosen = {}
    for split in (str(names), "all"):
        cfg = make_cfg(
            weight_transfer__normalize=True, datasets__mask_classes=split, datasets__train=(name,)
        )
        heads = make_roi_heads(cfg)
        chosen[split] = sorted(heads.normalize_over.tolist())
        raw = torch.cat([heads.box_predictor.cls_score.weight[:K],
                         heads.box_predictor.bbox_pred.weight.view(K, -1)], 1)  # fmt: skip
        centred = raw - raw[chosen[split]].mean(0)
        expected = centred / centred.norm(dim=1, keepdim=True)
        torch.testing.assert_close(heads.describe_classes(torch.arange(K)), expected)
    assert chosen == {str(names): [0, 2], "all": [0, 1, 2]}
    assert make_roi_heads(make_cfg()).normalize_over is None


REFUSED = {
    "INPUT 'cls\\+box' needs .* set MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG False": {
        "roi_box_head__cls_agnostic_bbox_reg": True
    },
    "WEIGHT_TRANSFER.INPUT 'bbox' is not one of cls\\+box, cls, box, embedding": {
        "weight_transfer__input": "bbox"
    },
    "ROI_MASK_HEAD.PREDICTOR 'conv' is not one of": {"roi_mask_head__predictor": "conv"},
    "WEIGHT_TRANSFER.ACTIVATION 'elu' is not one of": {"weight_transfer__activation": "elu"},
    "WEIGHT_TRANSFER.NUM_LAYERS must be at least 1: 0": {"weight_transfer__num_layers": 0},
    "MLP.INPUT 'deconv' is not one of upsampled, pooled": {"roi_mask_head__mlp__input": "deconv"},
    "MLP.NUM_FC must be at least 1, got 0": {
        "roi_mask_head__mlp__enabled": True,
        "roi_mask_head__mlp__num_fc": 0,
    },
    "needs MODEL.ROI_MASK_HEAD.MLP.ENABLED True": {"roi_mask_head__predictor": "none"},
    "needs MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE": {"weight_transfer__input": "embedding"},
    "FREEZE_DETECTOR and MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES exclude each other": {
        "freeze_detector": True,
        "roi_box_head__train_on_pred_boxes": True,
    },
    "FREEZE_DETECTOR True leaves nothing to train": {"freeze_detector": True, "mask_on": False},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_configs(message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_roi_heads(make_cfg(**REFUSED[message]))


def test_an_embedding_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vectors.npy"
    np.save(path, np.zeros((K + 1, 5), np.float32))  # with a background row
    cfg = make_cfg(weight_transfer__input="embedding", weight_transfer__embedding_file=str(path))
    with pytest.raises(ValueError, match=r"vectors.npy' have shape \(4, 5\), expected \(3, D\)"):
        make_roi_heads(cfg)


def test_transfer_under_stock_roi_heads_is_refused() -> None:
    heads = make_roi_heads(make_cfg(roi_heads__name="StandardROIHeads")).eval()
    features = {f"p{i}": torch.zeros(1, 64, 64 >> i, 64 >> i) for i in (2, 3, 4, 5)}
    with pytest.raises(ValueError, match="ROI_HEADS.NAME 'PartiallySupervisedROIHeads'"):
        heads.forward_with_given_boxes(features, [as_predictions(make_image([1]))])


def test_a_frozen_detector_gives_the_mask_loss_alone() -> None:
    model = build_model(make_cfg(freeze_detector=True))
    with EventStorage():
        losses = model(make_batch())
    assert {n for n in losses if n in ("loss_mask", "loss_cls", "loss_box_reg")} == {"loss_mask"}


def test_without_masks_only_boxes_are_trained_and_found() -> None:
    model, batch = build_model(make_cfg(mask_on=False)), make_batch()
    with EventStorage():
        assert "loss_mask" not in model(batch)
    with torch.no_grad():
        assert not model.eval()(batch)[0]["instances"].has("pred_masks")
