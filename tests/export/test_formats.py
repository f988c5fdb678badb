"""Every format gives what the model gives, and its files need neither package."""

from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from exporting import MODELS, given_boxes, picture, run_without_packages, save, trained
from torch import nn

from seg_every_thing.cli.export import FORMATS
from seg_every_thing.engine.predictor import build_predictor
from seg_every_thing.export.predictor import Predictor, load_predictor

PACKAGES = {
    "torchscript": (),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
}
SIZES = ((90, 130), (128, 101))
CASES = [
    *(("torchscript", name) for name in MODELS),
    # PyTorch takes a quarter of a minute to write the ONNX of a detector.
    *(("onnx", name) for name in ("transfer_mlp", "box_to_mask", "mlp_alone")),
    *(("openvino", name) for name in MODELS),
]
Made = Tuple[CfgNode, nn.Module, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Made]:
    """Models by name, and their exports; each is made once."""
    root = tmp_path_factory.mktemp("exports")
    models: Dict[str, Any] = {}

    def make(name: str, format: str) -> Made:
        for package in PACKAGES[format]:
            pytest.importorskip(package)
        if name not in models:
            cfg, model = trained(root / name, **MODELS[name])
            cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 100, 0.95
            save(root / name, cfg, model)
            models[name] = cfg, build_predictor(cfg).model
        output = root / name / format
        if not output.exists():
            FORMATS[format](models[name][0], output)
        return (*models[name], output)

    return make


def same(found: Any, expected: Any, share: float = 0.002) -> None:
    """Of two instances with masks of the image."""
    assert len(found) == len(expected)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    boxes = found.pred_boxes.tensor, expected.pred_boxes.tensor
    torch.testing.assert_close(*boxes, rtol=0, atol=0.05)
    assert found.pred_masks.shape == expected.pred_masks.shape
    if len(found):
        differ = (found.pred_masks != expected.pred_masks).float().mean()
        assert differ <= share and 0.001 < expected.pred_masks.float().mean() < 0.9


@pytest.mark.parametrize("format, name", CASES)
def test_exports_find_what_the_model_finds(
    name: str, format: str, made: Callable[[str, str], Made]
) -> None:
    cfg, model, folder = made(name, format)
    exported, ours = load_predictor(folder), Predictor(cfg, model)
    assert exported.vocabulary.names == ["0", "1", "2"]
    for size in SIZES:
        image = picture(*size)
        for count in (0, 1, 5):
            boxes, classes = given_boxes(count, *size)
            found = exported.masks_of(image, boxes, classes)
            same(found, ours.masks_of(image, boxes, classes))
            assert found.pred_masks.shape == (count, *size)
        if cfg.MODEL.META_ARCHITECTURE == "BoxToMask":
            with pytest.raises(ValueError, match="masks_of"):
                exported(image)
        else:
            found = exported(image)["instances"]
            same(found, ours(image)["instances"])
            assert len(found) == 100 and len(found.pred_classes.unique()) > 1


@pytest.mark.parametrize("format", PACKAGES)
def test_no_detection_and_few(format: str, tmp_path: Path) -> None:
    for package in PACKAGES[format]:
        pytest.importorskip(package)
    cfg, model = trained(tmp_path / "a")
    images = [picture(96, 128, seed) for seed in range(6)]
    highest = [Predictor(cfg, model)(x)["instances"].scores.max().item() for x in images]
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = (min(highest) + max(highest)) / 2
    save(tmp_path / "a", cfg, model)
    FORMATS[format](cfg, tmp_path / "exported")
    exported, ours = (
        load_predictor(tmp_path / "exported"),
        Predictor(cfg, build_predictor(cfg).model),
    )
    counts = []
    for image in images:
        found = exported(image)["instances"]
        same(found, ours(image)["instances"])
        counts.append(len(found))
    assert min(counts) == 0 < max(counts)


TORCHSCRIPT = """
import json, sys
import numpy as np
import torch, torchvision
folder, data = sys.argv[1:]
content = json.load(open(folder + "/model.json"))
given = {k: torch.from_numpy(v) for k, v in np.load(data).items()}
image, boxes, classes = given["image"], given["boxes"], given["classes"]
load = lambda name: torch.jit.load(folder + "/" + content["graphs"][name]["file"])
found = load("detector")(image)
(masks,) = load("prompted")(image, boxes, classes)
found = dict(zip(content["graphs"]["detector"]["outputs"], found))
sys.path.insert(0, folder)
from paste_masks import paste_masks
scale = content["masks"]["scale"]
pasted = paste_masks(masks.numpy(), boxes.numpy(), *image.shape[1:], scale)
found = {"found_" + k: v.numpy() for k, v in found.items()}
np.savez(data, **found, masks=masks.numpy(), pasted=pasted)
print([name for name in sys.modules if name.startswith(("detectron2", "seg_every"))])
"""
ONNX = """
import json, sys
import numpy as np
import onnxruntime
folder, data = sys.argv[1:]
content = json.load(open(folder + "/model.json"))
given = np.load(data)

def run(name):
    session = onnxruntime.InferenceSession(folder + "/" + content["graphs"][name]["file"])
    return session.run(None, {x.name: given[x.name] for x in session.get_inputs()})

found = dict(zip(content["graphs"]["detector"]["outputs"], run("detector")))
(masks,) = run("prompted")
assert "torch" not in sys.modules
sys.path.insert(0, folder)
from paste_masks import paste_masks
boxes, size = given["boxes"], given["image"].shape[1:]
pasted = paste_masks(masks, boxes, *size, content["masks"]["scale"])
np.savez(data, **{"found_" + k: v for k, v in found.items()}, masks=masks, pasted=pasted)
print([name for name in sys.modules if name.startswith(("detectron2", "seg_every"))])
"""
FOREIGN = {"torchscript": TORCHSCRIPT, "onnx": ONNX}


@pytest.mark.parametrize("format", FOREIGN)
@pytest.mark.parametrize("name", ["transfer_mlp"])
def test_programs_with_neither_package(
    name: str, format: str, made: Callable[[str, str], Made], tmp_path: Path
) -> None:
    cfg, model, folder = made(name, format)
    pixels = picture(96, 128)  # which is the size that the model would resize it to
    boxes, classes = given_boxes(4, 96, 128)
    data = tmp_path / "data.npz"
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)
    np.savez(data, image=image, boxes=boxes.astype(np.float32), classes=np.array(classes))
    assert run_without_packages(FOREIGN[format], folder, data).strip() == "[]"
    found = {k: torch.from_numpy(v) for k, v in np.load(data).items()}
    masks, pasted = found["masks"], found["pasted"]
    ours = Predictor(cfg, model)
    expected = ours(pixels)["instances"]
    assert len(found["found_scores"]) == 100 and torch.equal(
        found["found_classes"], expected.pred_classes
    )
    torch.testing.assert_close(found["found_scores"], expected.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found["found_boxes"], expected.pred_boxes.tensor, rtol=0, atol=0.05)
    assert found["found_masks"].shape == (100, 56, 56)  # twice as fine, as they are cropped
    assert masks.shape == (4, 56, 56) and masks.std() > 0.05
    expected = ours.masks_of(pixels, boxes, classes).pred_masks
    assert (pasted != expected).float().mean() < 1e-3 and np.prod(
        expected.shape
    ) > expected.sum() > 0
