"""Models on ground-truth boxes: the right boxes, both thresholds from one pass, the trainer."""

import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.structures import Boxes, Instances
from helpers import shapes_config
from torch import nn

from seg_every_thing import Trainer
from seg_every_thing.engine.given_boxes import GivenBoxModel, evaluate_given_boxes, fitted
from seg_every_thing.evaluation.given_boxes import GIVEN_INDEX, ImageObjects, objects_with_masks
from seg_every_thing.modeling.mask_geometry import EnlargedROIMasks
from seg_every_thing.modeling.mask_rois import MaskRoIs

CLIP = "MODEL.ROI_MASK_HEAD.CLIP_TO_BOX"
SCALE = "MODEL.ROI_MASK_HEAD.BOX_SCALE"
THRESHOLD = "TEST.MASK_THRESHOLD"


def config(output: Path, *opts: Any) -> CfgNode:
    return shapes_config("class_agnostic", output, "MODEL.FREEZE_DETECTOR", False, *opts)


def model_of(cfg: CfgNode) -> nn.Module:
    """With masks that are neither full nor empty, and do not reach the sides of their boxes."""
    torch.manual_seed(0)
    model = Trainer.build_model(cfg).eval()
    nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.5)
    nn.init.constant_(model.roi_heads.mask_head.predictor.bias, -2.0)
    return model


def batch(cfg: CfgNode, count: int = 2) -> List[Dict[str, Any]]:
    mapper = DatasetMapper(cfg, is_train=False)
    return [mapper(dict(record)) for record in DatasetCatalog.get("shapes_val")[:count]]


@torch.no_grad()
def outputs_of(cfg: CfgNode, fit: bool = False, count: int = 2) -> List[Dict[str, Instances]]:
    given = GivenBoxModel(model_of(cfg), objects_with_masks("shapes_val"), fit=fit)
    return given(batch(cfg, count))


def test_masks_are_those_of_the_boxes(tiny_shapes: Path, tmp_path: Path) -> None:
    """The same as those of the model's own inference, with the boxes scaled by hand."""
    cfg = config(tmp_path, "INPUT.MIN_SIZE_TEST", 192, "INPUT.MAX_SIZE_TEST", 192)
    objects = objects_with_masks("shapes_val")
    for x, output in zip(batch(cfg), outputs_of(cfg)):
        truth = objects[x["image_id"]]
        assert x["image"].shape == (3, 192, 192) and (x["height"], x["width"]) == (128, 128)
        boxes = Instances((192, 192), pred_boxes=Boxes(torch.tensor(truth.boxes).float() * 1.5))
        boxes.pred_classes = torch.tensor(truth.classes)
        with torch.no_grad():
            (expected,) = model_of(cfg).inference([x], detected_instances=[boxes])
        assert output.keys() == {"instances"}
        assert torch.equal(output["instances"].pred_masks, expected["instances"].pred_masks)
        found = output["instances"]
        assert torch.allclose(found.pred_boxes.tensor, torch.tensor(truth.boxes).float(), atol=1e-3)
        assert found.get(GIVEN_INDEX).tolist() == list(range(len(truth.classes)))
        assert 0 < found.pred_masks.float().mean() < 1


@pytest.mark.parametrize(
    "opts", [(), (SCALE, 1.25), (SCALE, 1.25, CLIP, False)], ids=["box", "clipped", "free"]
)
def test_fit_is_that_of_a_model_with_this_threshold(
    tiny_shapes: Path, tmp_path: Path, opts: Any
) -> None:
    both = outputs_of(config(tmp_path, *opts), fit=True)
    plain = outputs_of(config(tmp_path, *opts))
    fit = outputs_of(config(tmp_path, *opts, THRESHOLD, "fit"))
    for x, at_half, at_fit in zip(both, plain, fit):
        assert x.keys() == {"instances", "instances_fit"}
        for found, expected in ((x["instances"], at_half), (x["instances_fit"], at_fit)):
            assert torch.equal(found.pred_masks, expected["instances"].pred_masks)
            assert torch.equal(found.pred_boxes.tensor, expected["instances"].pred_boxes.tensor)
        assert not torch.equal(x["instances"].pred_masks, x["instances_fit"].pred_masks)


def test_fitted_leaves_its_argument_alone() -> None:
    for masks in (torch.full((1, 1, 4, 4), 0.3), EnlargedROIMasks(torch.full((1, 4, 4), 0.3), 1.2)):
        x = Instances((9, 9), pred_boxes=Boxes(torch.tensor([[0.0, 0, 9, 9]])), pred_masks=masks)
        y = fitted(x)
        y.pred_boxes.scale(2, 2)
        assert x.pred_masks is masks and x.pred_boxes.tensor.tolist() == [[0, 0, 9, 9]]
        moved = getattr(y.pred_masks, "tensor", y.pred_masks)
        assert moved.flatten().tolist() == pytest.approx([0.5] * 16)  # 0.3 is the fitted one
    assert MaskRoIs().threshold is None


def test_a_model_wrapped_for_several_processes(tiny_shapes: Path, tmp_path: Path) -> None:
    cfg = config(tmp_path)

    class Wrapped(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    with torch.no_grad():
        given = GivenBoxModel(Wrapped(model_of(cfg)), objects_with_masks("shapes_val"))
        (output,) = given(batch(cfg, 1))
    (expected,) = outputs_of(cfg, count=1)
    assert torch.equal(output["instances"].pred_masks, expected["instances"].pred_masks)


def test_an_image_without_objects(tiny_shapes: Path, tmp_path: Path) -> None:
    cfg = config(tmp_path)
    objects = objects_with_masks("shapes_val")
    first, second = batch(cfg)
    objects[first["image_id"]] = ImageObjects(np.zeros((0, 4)), np.zeros(0, np.int64), [])
    with torch.no_grad():
        outputs = GivenBoxModel(model_of(cfg), objects, fit=True)([first, second])
    for key in ("instances", "instances_fit"):
        assert outputs[0][key].pred_masks.shape == (0, 128, 128)
        assert len(outputs[1][key]) == len(objects[second["image_id"]].classes) > 0


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_evaluation_of_a_model(tiny_shapes: Path, tmp_path: Path, threshold: Any) -> None:
    opts = () if threshold is None else (THRESHOLD, threshold)
    cfg = config(tmp_path, "TEST.CLASS_SPLIT", "shapes_A", *opts)
    model = model_of(cfg).train()
    loader = Trainer.build_test_loader(cfg, "shapes_val")
    results = evaluate_given_boxes(cfg, model, "shapes_val", loader)
    assert model.training  # as before
    expected = {"given", "given_fit"} if threshold is None else {"given"}
    assert results.keys() == expected
    for name, metrics in results.items():
        assert 0 < metrics["mIoU"] < 95
        assert {"mIoU_A", "mIoU_B", "boundary_IoU_B", "AP_B"} < metrics.keys()
        folder = tmp_path / "inference" / "shapes_val" / name
        written = json.loads((folder / "metrics.json").read_text())
        assert written == {f"{name}/{k}": v for k, v in metrics.items()}
    if threshold is None:
        assert results["given"]["mIoU"] != results["given_fit"]["mIoU"]


def test_trainer_reports_given_boxes(tiny_shapes: Path, tmp_path: Path) -> None:
    names = ("shapes_val", "shapes_train")
    cfg = config(tmp_path, "DATASETS.TEST", names, "TEST.DETECTIONS_PER_IMAGE", 5)
    model = model_of(cfg)
    without = Trainer.test(cfg, model)
    cfg.TEST.GIVEN_BOXES = True
    results = Trainer.test(cfg, model)
    for name in names:
        assert results[name].keys() - without[name].keys() == {"given", "given_fit"}
        assert {k: results[name][k] for k in without[name]} == without[name]
    assert results["shapes_val"]["given"]["mIoU"] != results["shapes_train"]["given"]["mIoU"] > 0


def test_given_boxes_need_masks(tiny_shapes: Path, tmp_path: Path) -> None:
    cfg = config(tmp_path, "TEST.GIVEN_BOXES", True, "MODEL.MASK_ON", False)
    with pytest.raises(ValueError, match="TEST.GIVEN_BOXES True needs masks"):
        Trainer(cfg)


def test_a_model_without_a_detector(tiny_shapes: Path, tmp_path: Path) -> None:
    """Its masks are those of the detector that has the same mask branch."""
    cfg = config(tmp_path, "TEST.GIVEN_BOXES", True, "TEST.DETECTIONS_PER_IMAGE", 5)
    detector = model_of(cfg)
    expected = Trainer.test(cfg, detector)
    assert expected.keys() == {"bbox", "segm", "given", "given_fit"}
    cfg.MODEL.META_ARCHITECTURE = "BoxToMask"
    cfg.TEST.GIVEN_BOXES = False  # it is evaluated in no other way
    alone = Trainer.build_model(cfg)
    assert not alone.load_state_dict(detector.state_dict(), strict=False).missing_keys
    results = Trainer.test(cfg, alone)
    assert results.keys() == {"given", "given_fit"}
    assert results == {key: expected[key] for key in results}


@pytest.mark.parametrize("fast", (False, True))
def test_an_evaluation_leaves_the_mode_of_the_model(
    tiny_shapes: Path, tmp_path: Path, fast: bool
) -> None:
    """An accelerated model could not even be brought back to training."""
    cfg = config(tmp_path, "TEST.GIVEN_BOXES", True, "TEST.FAST", fast)
    model = model_of(cfg)
    results = Trainer.test(cfg, model)
    assert results["given"]["mIoU"] >= 0
    assert not model.training
