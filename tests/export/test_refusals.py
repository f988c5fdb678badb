"""What cannot be exported is said in one line before anything is written."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from exporting import trained
from tiny_models import make_cfg

from seg_every_thing.cli import main
from seg_every_thing.export import to_onnx, to_openvino, to_torchscript
from seg_every_thing.export.checks import check_exportable
from seg_every_thing.export.layout import written_folder
from seg_every_thing.export.paste_masks import paste_masks
from seg_every_thing.export.torchscript_model import TorchScriptModel

REFUSED = [
    ("MODEL.META_ARCHITECTURE", "RetinaNet", "META_ARCHITECTURE GeneralizedRCNN or BoxToMask"),
    ("MODEL.META_ARCHITECTURE", "DenseSemanticSegmentor", "labels pixels"),
    ("MODEL.MASK_ON", False, "train a model with MODEL.MASK_ON True"),
    ("MODEL.ROI_HEADS.NAME", "Res5ROIHeads", "ROI_HEADS.NAME PartiallySupervisedROIHeads"),
    ("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead", "ROI_MASK_HEAD.NAME MaskXHead"),
    ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIPool", "POOLER_TYPE ROIAlignV2 or ROIAlign"),
    ("MODEL.RPN.HEAD_NAME", "Another", "RPN.HEAD_NAME StandardRPNHead"),
    ("TEST.CRF", True, "add TEST.CRF False to --opts"),
    ("MODEL.WEIGHTS", "", "add MODEL.WEIGHTS"),
]


@pytest.mark.parametrize("key, value, mend", REFUSED)
def test_models_that_cannot_be_exported(key: str, value: Any, mend: str) -> None:
    cfg = make_cfg(weights="x.pth")
    check_exportable(cfg, "onnx")
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError) as error:
        check_exportable(cfg, "onnx")
    message = str(error.value)
    assert key in message and mend in message and "\n" not in message


def test_the_command_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path / "a")
    command = ["export", "--config-file", str(tmp_path / "a" / "ours.yaml")]
    for format in ("torchscript", "onnx", "openvino"):
        arguments = [*command, "--format", format, "--output", str(tmp_path / "b")]
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--opts", "TEST.CRF", "True"])
        assert end.value.code == 1
        assert f"TEST.CRF True cannot be exported with --format {format}" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "package, run",
    [
        ("onnx", to_onnx.export_onnx),
        ("onnxruntime", to_onnx.export_onnx),
        ("openvino", to_openvino.export_openvino),
    ],
)
def test_missing_packages(
    package: str, run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError) as error:
        run(make_cfg(weights="x.pth"), tmp_path / "b")
    message = str(error.value)
    if package == "onnxruntime" and " needs onnx " in message:
        pytest.skip("needs onnx")
    assert f"needs {package} " in message and "\n" not in message
    assert message.endswith('pip install "seg_every_thing[export]"')
    assert not list(tmp_path.iterdir())


class Untraceable(Backbone):
    """Its result depends on what it sees in a way that no trace can hold."""

    def __init__(self) -> None:
        super().__init__()
        self._out_features = ["p2"]
        self._out_feature_channels, self._out_feature_strides = {"p2": 4}, {"p2": 4}
        self.layer = torch.nn.Conv2d(3, 4, 4, stride=4)

    def forward(self, x: torch.Tensor) -> Any:
        if torch.jit.is_tracing():
            raise RuntimeError("no trace of this")
        return {"p2": self.layer(x)}


def test_a_backbone_that_cannot_be_traced(tmp_path: Path) -> None:
    if "Untraceable" not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY._do_register("Untraceable", lambda cfg, shape: Untraceable())
    cfg, _ = trained(
        tmp_path / "a",
        meta_architecture="BoxToMask",
        backbone__name="Untraceable",
        roi_heads__in_features=["p2"],
        roi_mask_head__predictor="class_agnostic",
    )
    with pytest.raises(ValueError) as error:
        to_torchscript.export_torchscript(cfg, tmp_path / "b")
    assert re.search(r"no trace of this.*MODEL.BACKBONE.NAME than Untraceable", str(error.value))
    assert not (tmp_path / "b").exists()


def test_a_graph_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, _ = trained(
        tmp_path / "a", meta_architecture="BoxToMask", roi_mask_head__predictor="class_agnostic"
    )
    run = TorchScriptModel.prompted
    monkeypatch.setattr(TorchScriptModel, "prompted", lambda *args: 0.999 * run(*args))
    with pytest.raises(RuntimeError, match="masks of given boxes of the exported model differ by"):
        to_torchscript.export_torchscript(cfg, tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


KILLED = """
import sys, time
from pathlib import Path
from seg_every_thing.export import layout
from seg_every_thing.config import load_config
cfg = load_config(sys.argv[1])
with layout.written_folder(sys.argv[2], cfg, "torchscript") as folder:
    (folder / "prompted.ts").write_bytes(b"half")
    print("half", flush=True)
    time.sleep(60)
"""


def test_killed_half_way_nothing_is_left(tmp_path: Path) -> None:
    cfg, _ = trained(
        tmp_path / "a", meta_architecture="BoxToMask", roi_mask_head__predictor="class_agnostic"
    )
    output = tmp_path / "b"
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "a" / "ours.yaml"), str(output)]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not output.exists()
    old = time.time() - 60  # what is young may be in use
    for path in tmp_path.glob(".b.*"):
        os.utime(path, (old, old))
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    for _ in range(2):  # the second one replaces the first
        with written_folder(output, cfg, "torchscript") as folder:
            (folder / "prompted.ts").write_bytes(b"all")
        assert sorted(p.name for p in output.iterdir()) == [
            *("config.yaml", "model.json", "notes.txt", "paste_masks.py", "prompted.ts"),
        ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_files_of_another_origin_are_not_replaced(tmp_path: Path) -> None:
    cfg = make_cfg(weights="x.pth")
    for name in ("config.yaml", "model.json", "detector.ts"):
        output = tmp_path / name.replace(".", "_")
        output.mkdir()
        (output / name).write_text("mine")
        what = f"{name}' exists, and is of no such export"
        with pytest.raises(ValueError, match=what), written_folder(output, cfg, "torchscript"):
            pass
        assert [p.read_text() for p in output.iterdir()] == ["mine"]


def test_pasting_by_hand() -> None:
    # A box of 8 x 8 pixels, whose mask of 2 x 2 cells is its left half: the edge lies between them.
    masks = np.array([[[1.0, 0], [1, 0]]])
    pasted = paste_masks(masks, np.array([[4.0, 2, 12, 10]]), 12, 20)
    expected = np.zeros((1, 12, 20), bool)
    expected[0, 2:10, 4:8] = True
    assert (pasted[0, 3:9] == expected[0, 3:9]).all() and pasted.dtype == bool
    # Twice the side, about the same centre: the same mask is of a box half as large.
    half = paste_masks(masks, np.array([[6.0, 4, 10, 8]]), 12, 20, scale=2.0)
    assert (half == pasted).all()
    assert paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), 5, 6).shape == (0, 5, 6)
    outside = np.array([[-30.0, 2, -20, 8], [90, 2, 99, 8], [2, 30, 9, 40]])
    assert not paste_masks(np.ones((3, 4, 4)), outside, 12, 20).any()
