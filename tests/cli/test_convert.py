"""`seg-every-thing convert`: its files, its report, and nothing left behind when it fails."""

import argparse
import json
import logging
import os
import re
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
import yaml
from caffe2_reference import Caffe2Model, python2_pickle
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from full_disk import full_disk

from seg_every_thing import add_seg_every_thing_config
from seg_every_thing.cli import convert


@pytest.fixture(autouse=True)
def _log_is_seen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logging.getLogger("seg_every_thing"), "propagate", True)
    caplog.set_level(logging.INFO, "seg_every_thing")


def run(*arguments: Any) -> None:
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    convert.run(parser.parse_args([str(a) for a in arguments]))


def write(folder: Path, blobs: Dict[str, Any], name: str = "X.pkl") -> Path:
    path = folder / name
    path.write_bytes(python2_pickle({"blobs": blobs, "cfg": "MODEL: {}\n"}, 2))
    return path


def load_yaml(path: Path) -> Any:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


CASES = [
    Caffe2Model(mlp=1),
    Caffe2Model(mask="agnostic"),
    Caffe2Model(inputs="v_glove", layers=3),
    Caffe2Model(mask=None, classes=9),
]


@pytest.mark.parametrize("original", CASES)
def test_checkpoint_and_config_make_the_model(original: Caffe2Model, tmp_path: Path) -> None:
    blobs, output = original.blobs(), tmp_path / "new" / "Y.pth"
    run("--input", write(tmp_path, blobs), "--output", output, "--activation", "relu")
    expected_files = {"Y.pth", "Y.yaml"}
    if original.inputs == "v_glove":
        expected_files.add("Y_class_vectors.npy")
        vectors = np.load(output.parent / "Y_class_vectors.npy")
        np.testing.assert_array_equal(vectors, blobs["v_glove"][1:])
    assert set(os.listdir(output.parent)) == expected_files
    assert all(f.stat().st_mode & 0o777 == 0o644 for f in output.parent.iterdir())

    content = torch.load(output, weights_only=True)
    assert content.keys() == {"model", "__author__"}
    expected = original.detectron2_state(blobs)
    assert content["model"].keys() == expected.keys()

    cfg = load_yaml(output.with_suffix(".yaml"))
    assert (
        str(output) == cfg.MODEL.WEIGHTS and original.classes - 1 == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    )
    assert (original.mask is not None) == cfg.MODEL.MASK_ON
    if original.mask == "transfer":
        assert cfg.MODEL.WEIGHT_TRANSFER.ACTIVATION == "relu"
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    state = model.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(state[name].numpy(), value, err_msg=name)

    model.eval()
    with torch.no_grad():
        image = {"image": torch.zeros(3, 64, 64, dtype=torch.uint8), "height": 64, "width": 64}
        instances = model([image])[0]["instances"]
    assert instances.has("pred_masks") == (original.mask is not None)


def test_the_config_is_complete_by_itself(tmp_path: Path) -> None:
    run("--input", write(tmp_path, Caffe2Model().blobs()), "--output", tmp_path / "Y.pth")
    content = yaml.safe_load((tmp_path / "Y.yaml").read_text())
    assert "_BASE_" not in content
    assert content["MODEL"]["RESNETS"]["DEPTH"] == 50  # also what is a default
    assert content["MODEL"]["WEIGHT_TRANSFER"]["INPUT"] == "cls+box"
    assert content["MODEL"]["ANCHOR_GENERATOR"]["OFFSET"] == 0.5


def test_the_report_accounts_for_every_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blobs = Caffe2Model(mlp=1).blobs()
    extra = {
        "fc6_w_momentum": blobs["fc6_w"],
        "fc1000_b": np.zeros(3),
        "cls_score_b_jcvbackup": np.zeros(9),
    }
    for name in [n for n in blobs if "rpn" in n]:
        del blobs[name]
    report = tmp_path / "deep" / "R.json"
    source = write(tmp_path, {**blobs, **extra})
    run("--input", source, "--output", tmp_path / "Y.pth", "--report", report)
    content = json.loads(report.read_text())
    assert content["used"].keys() == blobs.keys()
    assert (
        content["used"]["mask_fcn_logits_w_flat_w"] == "roi_heads.weight_transfer.layers.2.weight"
    )
    assert content["ignored"].keys() == extra.keys() | {"cfg"}
    assert content["ignored"]["fc6_w_momentum"] == "optimizer state"
    assert sorted(content["missing"]) == [
        f"proposal_generator.rpn_head.{layer}.{kind}"
        for layer in ("anchor_deltas", "conv", "objectness_logits")
        for kind in ("bias", "weight")
    ]
    # Used, constant and missing together are the model.
    names = {*content["used"].values(), *content["constants"], *content["missing"]}
    assert names == build_model(load_yaml(tmp_path / "Y.yaml")).state_dict().keys()
    assert content["model"] == {
        "backbone": "R-50-FPN",
        "num_classes": 5,
        "mask_branch": {
            "predictor": "transfer",
            "mlp": True,
            "input": "cls+box",
            "num_layers": 2,
            "activation": "leaky_relu",
        },
    }
    assert (
        "R-50-FPN, 5 classes, masks: transfer (cls+box, 2 layers, leaky_relu) + MLP" in caplog.text
    )
    assert f"{len(blobs)} blobs used, 4 ignored" in caplog.text
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and "no weights for the RPN (6 tensors)" in warnings[0]


def test_a_relative_output_is_found_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("--input", write(tmp_path, Caffe2Model().blobs()), "--output", "Y.pth")
    assert str(tmp_path / "Y.pth") == load_yaml(tmp_path / "Y.yaml").MODEL.WEIGHTS


def refused(tmp_path: Path, *arguments: Any) -> str:
    before = sorted(os.walk(tmp_path))
    with pytest.raises((ValueError, OSError)) as error:
        run(*arguments)
    assert sorted(os.walk(tmp_path)) == before  # nothing is left behind
    assert "\n" not in str(error.value)
    return str(error.value)


def test_refused_inputs_leave_nothing(tmp_path: Path) -> None:
    output: List[Any] = ["--output", tmp_path / "Y.pth", "--report", tmp_path / "R.json"]
    assert "missing.pkl" in refused(tmp_path, "--input", tmp_path / "missing.pkl", *output)
    blobs = Caffe2Model().blobs()
    blobs["fc7_w"] = blobs["fc7_w"][:, :3]
    message = refused(tmp_path, "--input", write(tmp_path, blobs), *output)
    assert message.endswith("X.pkl': blob 'fc7_w' has shape (8, 3), expected (8, 8)")
    source = write(tmp_path, {})
    source.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert "it names 'os.system'" in refused(tmp_path, "--input", source, *output)


def test_refused_outputs(tmp_path: Path) -> None:
    source = write(tmp_path, Caffe2Model().blobs())
    (tmp_path / "Y.yaml").mkdir()
    (tmp_path / "file").write_text("")
    inp = ("--input", source)
    assert "must end in .pth" in refused(tmp_path, *inp, "--output", tmp_path / "Y.pkl")
    assert "Y.yaml': it is a folder" in refused(tmp_path, *inp, "--output", tmp_path / "Y.pth")
    message = refused(tmp_path, *inp, "--output", tmp_path / "Z.pth", "--report", source)
    assert "X.pkl' would be written over" in message
    message = refused(
        tmp_path, *inp, "--output", tmp_path / "Z.pth", "--report", tmp_path / "Z.yaml"
    )
    assert "Z.yaml' would be written over" in message
    message = refused(tmp_path, *inp, "--output", tmp_path / "file" / "Z.pth")
    assert "cannot write to the output folder" in message


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.99, 0.999])
def test_a_failure_while_writing_keeps_the_old_files(share: float, tmp_path: Path) -> None:
    """The disk may get full in any of the four files."""
    source = write(tmp_path, Caffe2Model(inputs="v_glove").blobs())
    files = [tmp_path / name for name in ("Y.pth", "Y.yaml", "Y_class_vectors.npy", "R.json")]
    command = ("--input", source, "--output", files[0], "--report", files[3])
    run(*command)
    size = sum(file.stat().st_size for file in files)
    for file in files:
        file.write_text("old")
    with full_disk(int(share * size)) as disk:
        message = refused(tmp_path, *command)
    assert disk.was_full
    # vectors.npy is a file of its own work, in the system's temporary folder.
    assert re.search(r"cannot write '\S*/(Y|R|vectors)[.\w]*': No space left on dev", message)
    assert [file.read_text() for file in files] == ["old"] * 4
