"""VGG16 as a convolutional backbone: sizes, counts, and weights of classifiers."""

import logging
import pickle
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn
from torchvision.models.vgg import make_layers

from seg_every_thing.modeling.semantic import VGG16FCN, add_semantic_config
from seg_every_thing.modeling.semantic.vgg import feature_grids

CHANNELS = (3, 4, 5, 6, 7)
NARROW: Dict[str, Any] = {"out_features": ["fc7"], "channels": CHANNELS, "fc_dim": 8}


def narrow(**kwargs: Any) -> VGG16FCN:
    return VGG16FCN(**{**NARROW, **kwargs}).eval()


class TorchvisionVGG(nn.Module):
    """torchvision's VGG16 with few channels; its own class would make the full classifier first."""

    def __init__(self, extra_in_group_3: int = 0) -> None:
        super().__init__()
        a, b, c, d, e = CHANNELS
        third = [c] * (3 + extra_in_group_3)
        self.features = make_layers([a, a, "M", b, b, "M", *third, "M", d, d, d, "M", e, e, e, "M"])
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            *(nn.Linear(e * 49, 8), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(8, 8), nn.ReLU(), nn.Dropout()),
            nn.Linear(8, 2),
        )
        torch.manual_seed(0)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter)
            else:
                nn.init.normal_(parameter, std=0.2)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameter_counts_of_the_full_size() -> None:
    with torch.device("meta"):
        vgg = VGG16FCN(out_features=["pool3", "pool4", "pool5", "fc7"])
    convolutions = [m for name, m in vgg.named_children() if name.startswith("conv")]
    assert len(convolutions) == 13
    assert sum(map(count, convolutions)) == 14_714_688
    assert count(vgg.fc6) == 102_764_544
    assert count(vgg.fc7) == 16_781_312
    assert count(vgg) == 134_260_544
    shapes = {k: (v.stride, v.channels) for k, v in vgg.output_shape().items()}
    assert shapes == {
        "pool3": (8, 256),
        "pool4": (16, 512),
        "pool5": (32, 512),
        "fc7": (32, 4096),
    }
    assert vgg.size_divisibility == 32


def test_same_padding_gives_sizes_divided_by_the_stride() -> None:
    vgg = narrow(out_features=["pool1", "pool3", "pool4", "pool5", "fc6", "fc7"])
    for name, feature in vgg(torch.rand(2, 3, 64, 96)).items():
        shape = vgg.output_shape()[name]
        assert feature.shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)


@pytest.mark.parametrize(
    "size, expected",
    [(224, (53, 27, 14, 8)), (375, (72, 36, 18, 12)), (500, (88, 44, 22, 16)), (1, (25, 13, 7, 1))],
)
def test_sizes_in_the_original_geometry(size: int, expected: Tuple[int, ...]) -> None:
    names = ["pool3", "pool4", "pool5", "fc7"]
    with torch.device("meta"):
        vgg = narrow(out_features=names, conv1_pad=100)
        features = vgg(torch.rand(1, 3, size, size))
    assert tuple(features[name].shape[-1] for name in names) == expected
    assert features["image"].shape[-1] == size
    assert vgg.size_divisibility == 0


@pytest.mark.parametrize("feature, size", [("pool5", 212), ("fc7", 404)])
def test_receptive_field_and_position(feature: str, size: int) -> None:
    """How many pixels a unit's gradient reaches, and that feature_grids has their middle."""
    vgg = narrow(out_features=[feature], conv1_pad=100, channels=(1,) * 5, fc_dim=1).double()
    for parameter in vgg.parameters():
        nn.init.constant_(parameter, 0.5)
    # Ties in max-pooling would hide pixels from the gradient.
    for group in range(1, 6):
        setattr(vgg, f"pool{group}", nn.AvgPool2d(2, ceil_mode=True))
    image = torch.rand(1, 3, 640, 480, dtype=torch.float64, requires_grad=True)
    output = vgg(image)[feature]
    i, j = output.shape[-2] // 2, output.shape[-1] // 2
    output[0, 0, i, j].backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    columns = image.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert len(rows) == len(columns) == size
    grid = feature_grids()[feature]
    assert (rows[0] + rows[-1]).item() / 2 == grid.start + grid.step * i
    assert (columns[0] + columns[-1]).item() / 2 == grid.start + grid.step * j


def test_only_what_the_features_need_is_built() -> None:
    names = {name for name, _ in narrow(out_features=["pool3"]).named_children()}
    assert "pool3" in names
    assert not names & {"conv4_1", "fc6"}
    assert "fc6" not in dict(narrow(out_features=["pool5"]).named_children())


def test_layers_up_to_a_feature() -> None:
    vgg = narrow(out_features=["pool3", "fc7"])
    image = torch.rand(1, 3, 64, 64)
    features = vgg(image)
    for name in ("pool3", "fc7"):
        assert torch.equal(vgg.sequential(name)(image), features[name])
    assert vgg.sequential("pool3").conv1_1.weight is vgg.conv1_1.weight
    with pytest.raises(ValueError, match="no feature 'pool9'"):
        vgg.sequential("pool9")


@pytest.mark.parametrize("freeze_at, frozen", [(0, 0), (1, 2), (2, 4), (5, 13), (6, 14), (7, 15)])
def test_freezing(freeze_at: int, frozen: int) -> None:
    vgg = narrow(freeze_at=freeze_at, norm="BN")
    fixed = [m for m in vgg.children() if hasattr(m, "weight") and not m.weight.requires_grad]
    assert len(fixed) == frozen
    assert sum(isinstance(m, FrozenBatchNorm2d) for m in vgg.modules()) == frozen
    trained = {name for name, p in vgg.named_parameters() if p.requires_grad}
    assert any(name.startswith("fc7") for name in trained) == (freeze_at < 7)


def test_from_config_with_detectron2s_defaults_alone() -> None:
    cfg: CfgNode = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_vgg16_fcn_backbone"
    with torch.device("meta"):
        backbone = build_backbone(cfg)
    assert "VGG" not in cfg.MODEL
    assert list(backbone.output_shape()) == ["pool3", "pool4", "fc7"]
    assert not backbone.conv2_2.weight.requires_grad  # detectron2's FREEZE_AT is 2
    assert backbone.conv3_1.weight.requires_grad


@pytest.mark.parametrize(
    "key, value, named",
    [
        ("OUT_FEATURES", ("pool6",), "OUT_FEATURES"),
        ("OUT_FEATURES", (), "OUT_FEATURES"),
        ("CHANNELS", (1, 2, 3), "CHANNELS"),
        ("NUM_CONVS", (1, 2, 3, 0, 1), "NUM_CONVS"),
        ("FC6_KERNEL", 4, "FC6_KERNEL 4"),
        ("CONV1_PAD", 0, "CONV1_PAD 0"),
        ("WEIGHTS", "no/such.pth", "no/such.pth"),
    ],
)
def test_bad_settings(key: str, value: Any, named: str) -> None:
    cfg = get_cfg()
    add_semantic_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_vgg16_fcn_backbone"
    cfg.MODEL.VGG.CHANNELS, cfg.MODEL.VGG.FC_DIM = CHANNELS, 8
    cfg.MODEL.VGG[key] = value
    with pytest.raises(ValueError, match=f"MODEL.VGG.*{named}"):
        build_backbone(cfg)


# Weights


@pytest.mark.parametrize("convolutional", [False, True])
def test_torchvision_weights_give_its_classifier(convolutional: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    classifier = TorchvisionVGG()
    state = classifier.state_dict()
    if convolutional:
        state["classifier.0.weight"] = state["classifier.0.weight"].view(8, 7, 7, 7)
        state["classifier.3.weight"] = state["classifier.3.weight"].view(8, 8, 1, 1)
    torch.save(state, tmp_path / "vgg.pth")
    vgg = narrow(
        weights=str(tmp_path / "vgg.pth"), channel_order="RGB", pixel_std=(58.395, 57.12, 57.375)
    )
    # Where the pooled map is 7x7, the middle unit of the padded fc6 sees exactly that map.
    image = torch.randn(2, 3, 224, 224)
    feature = vgg(image)["fc7"][:, :, 3, 3]
    expected = classifier.classifier[:5](classifier.features(image).flatten(1))
    assert (expected[0] - expected[1]).abs().max() > 0.1
    assert torch.allclose(feature, expected, rtol=1e-4, atol=1e-5)
    assert torch.allclose(
        classifier.classifier[6](feature), classifier(image), rtol=1e-4, atol=1e-5
    )


def test_torchvision_weights_are_adapted_to_bgr_and_scale(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(TorchvisionVGG().state_dict(), tmp_path / "vgg.pth")
    path, mean = str(tmp_path / "vgg.pth"), torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    first = {"out_features": ["pool2"], "weights": path}
    native = narrow(**first, channel_order="RGB", pixel_std=(58.395, 57.12, 57.375))
    bgr = narrow(**first, channel_order="BGR", pixel_std=(1.0, 2.0, 4.0))
    image = torch.rand(3, 64, 64) * 255
    scale = torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    expected = native(((image - mean) / std)[None])["pool2"]
    found = bgr(((image - mean).flip(0) / scale)[None])["pool2"]
    assert expected.max() > 0.1
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def caffe_arrays(vgg: nn.Module, matrices: bool) -> Dict[str, np.ndarray]:
    arrays = {}
    for name, value in vgg.state_dict().items():
        layer, kind = name.split(".")
        flat = matrices and layer.startswith("fc") and kind == "weight"
        arrays[f"{layer}_{kind[0]}"] = (value.flatten(1) if flat else value).numpy()
    arrays["fc8_w"] = np.zeros((1000, 8), np.float32)
    return arrays


def save_npz(path: Path, arrays: Dict[str, np.ndarray]) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def save_pkl(path: Path, arrays: Dict[str, np.ndarray]) -> Path:
    path.with_suffix(".pkl").write_bytes(pickle.dumps({"blobs": arrays}, protocol=2))
    return path.with_suffix(".pkl")


@pytest.mark.parametrize("save", [save_npz, save_pkl])
@pytest.mark.parametrize("matrices", [False, True])
def test_caffe_arrays(save: Callable[..., Path], matrices: bool, tmp_path: Path) -> None:
    source = narrow(conv1_pad=100)
    path = str(save(tmp_path / "vgg", caffe_arrays(source, matrices)))
    loaded = narrow(weights=path)
    for name, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    rgb = narrow(weights=path, channel_order="RGB")
    assert torch.equal(rgb.conv1_1.weight, source.conv1_1.weight.flip(1))
    assert torch.equal(rgb.conv1_2.weight, source.conv1_2.weight)


def test_names_of_arrays_may_be_written_otherwise(tmp_path: Path) -> None:
    source = narrow()
    arrays = {name.replace(".", "/"): v.numpy() for name, v in source.state_dict().items()}
    with open(tmp_path / "vgg.pkl", "wb") as f:
        pickle.dump(arrays, f)
    loaded = narrow(weights=str(tmp_path / "vgg.pkl"))
    assert torch.equal(loaded.fc6.weight, source.fc6.weight)


def test_a_shorter_vgg_takes_what_it_has(tmp_path: Path, caplog: Any) -> None:
    torch.save(TorchvisionVGG().state_dict(), tmp_path / "vgg.pth")
    with caplog.at_level(logging.INFO, logger="seg_every_thing.modeling.semantic.vgg_weights"):
        narrow(out_features=["pool3"], weights=str(tmp_path / "vgg.pth"))
    assert "all 14 tensors" in caplog.text  # 7 convolutions


class Hostile:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("hostile_was_here"),))


def test_weights_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def refused(name: str, message: str, **kwargs: Any) -> None:
        with pytest.raises(ValueError, match=message) as e:
            narrow(weights=name, **kwargs)
        assert "\n" not in str(e.value)
        assert name in str(e.value) or "NORM" in str(e.value)

    arrays = caffe_arrays(narrow(), True)
    incomplete = {k: v for k, v in arrays.items() if k != "conv4_2_b"}
    np.savez("incomplete.npz", **incomplete)
    refused("incomplete.npz", r"'conv4_2.bias' is missing")
    # Rows, columns, in, out: as many numbers, in another order.
    turned = {**arrays, "conv3_1_w": arrays["conv3_1_w"].transpose(2, 3, 1, 0)}
    np.savez("turned.npz", **turned)
    refused("turned.npz", r"'conv3_1.weight' has the shape \(3, 3, 4, 5\), not \(5, 4, 3, 3\)")
    np.savez("good.npz", **arrays)
    refused("good.npz", r"'fc6.weight' has the shape \(8, 343\), not \(8, 7, 3, 3\)", fc6_kernel=3)
    refused("good.npz", "NORM", norm="BN")
    torch.save(TorchvisionVGG(extra_in_group_3=1).state_dict(), "vgg17.pth")
    refused("vgg17.pth", r"'conv3_4.weight' is not part of the model")
    (tmp_path / "broken.pth").write_bytes(b"PK no zip file")
    refused("broken.pth", "cannot read")
    (tmp_path / "broken.npz").write_bytes(b"PK no zip file")
    refused("broken.npz", "cannot read")
    torch.save({"epoch": 3}, "other.pth")
    refused("other.pth", "not a state dict")
    normalised = {"features.0.weight": torch.zeros(1), "features.1.running_mean": torch.zeros(1)}
    torch.save(normalised, "bn.pth")
    refused("bn.pth", "batch normalisation")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2]))
    refused("list.pkl", "mapping")
    (tmp_path / "hostile.pkl").write_bytes(pickle.dumps({"conv1_1_w": Hostile()}))
    refused("hostile.pkl", "refused")
    assert not (tmp_path / "hostile_was_here").exists()
