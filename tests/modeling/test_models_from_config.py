"""Models built by detectron2 from a config alone, and the configs that are refused."""

from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from conftest import MakeDataset
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from tiny_heads import as_predictions, make_image
from tiny_models import K, make_batch, make_cfg, make_roi_heads

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


def test_vectors_are_centred_on_a_set_a_that_there_is(make_dataset: MakeDataset) -> None:
    name = make_dataset([[]])
    cfg = make_cfg(weight_transfer__normalize=True, datasets__train=(name,))
    cfg.DATASETS.MASK_CLASSES = "none"
    with pytest.raises(
        ValueError, match="True needs a set A, and DATASETS.MASK_CLASSES names none"
    ):
        build_model(cfg)
