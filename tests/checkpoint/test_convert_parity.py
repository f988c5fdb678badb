"""Masks of converted models equal those that numpy computes from the original's blobs."""

from pathlib import Path
from typing import Any, Dict
from unittest import mock

import numpy as np
import pytest
import torch
from caffe2_reference import Caffe2Model, python2_pickle
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from seg_every_thing.checkpoint.caffe2 import convert_detectron_file
from seg_every_thing.cli.convert import write_conversion
from seg_every_thing.config import load_config

TRANSFERS: Dict[str, Dict[str, Any]] = {
    "1_layer": {"layers": 1},
    "2_layer": {},
    "3_layer": {"layers": 3},
    "cls": {"inputs": "cls"},
    "box": {"inputs": "box"},
    "glove": {"inputs": "v_glove"},
    "randn_1_layer": {"inputs": "v_randn_0", "layers": 1},
    "2_layer_mlp": {"mlp": 1},
    "cls_3_layer_deep_mlp": {"inputs": "cls", "layers": 3, "mlp": 3},
    "agnostic": {"mask": "agnostic"},
    "agnostic_mlp": {"mask": "agnostic", "mlp": 1},
    "specific": {"mask": "specific"},
    "specific_mlp": {"mask": "specific", "mlp": 2},
}
SLOPES = {"leaky_relu": 0.1, "relu": 0.0}
CASES = [(name, "leaky_relu") for name in TRANSFERS] + [("2_layer", "relu"), ("3_layer", "relu")]


@pytest.mark.parametrize("variant, activation", CASES)
def test_mask_probabilities(variant: str, activation: str, tmp_path: Path) -> None:
    original = Caffe2Model(**TRANSFERS[variant])
    blobs = original.blobs(seed=1)
    source, output = tmp_path / "X.pkl", tmp_path / "Y.pth"
    source.write_bytes(python2_pickle({"blobs": blobs, "cfg": ""}, 2))
    write_conversion(convert_detectron_file(source, activation), str(source), output)
    cfg = load_config(str(tmp_path / "Y.yaml"))
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)

    rng = np.random.default_rng(2)
    classes = np.arange(original.classes - 1).repeat(2)
    rois = rng.standard_normal((len(classes), original.fpn, 14, 14)).astype("f4")
    expected = original.mask_probabilities(blobs, rois, classes, SLOPES[activation])
    assert expected.std() > 0.1 and len(np.unique(expected.round(3))) > 500

    images = []
    for part in np.split(classes, [3]):  # two images
        x = Instances((64, 64))
        x.pred_boxes, x.pred_classes = Boxes(torch.zeros(len(part), 4)), torch.from_numpy(part)
        images.append(x)
    heads = model.roi_heads
    pooled = mock.patch.object(heads.mask_pooler, "forward", return_value=torch.from_numpy(rois))
    with torch.no_grad(), pooled:
        images = heads._forward_mask({f: torch.zeros(0) for f in ("p2", "p3", "p4", "p5")}, images)
    masks = torch.cat([x.pred_masks for x in images])[:, 0]
    torch.testing.assert_close(masks.double(), torch.from_numpy(expected), rtol=0, atol=1e-5)
