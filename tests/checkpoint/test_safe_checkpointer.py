"""The checkpointer reads what detectron2's reads, as far as it is weights, and nothing else."""

import copy
import io
import logging
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any, Dict, Tuple

import numpy as np
import pytest
import torch
from caffe2_reference import Caffe2Model, python2_pickle
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from helpers import changed, shapes_config, snapshot
from torch import nn

from seg_every_thing import Trainer
from seg_every_thing.checkpoint.caffe2 import convert_blobs
from seg_every_thing.checkpoint.safe_checkpointer import SafeCheckpointer, load_tensors


class MakesFolder:
    """Unpickles as a call of os.mkdir."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Tuple[Any, Tuple[str]]:
        return os.mkdir, (self.path,)


def layer(value: float = 0.0) -> nn.Linear:
    model = nn.Linear(2, 3)
    nn.init.constant_(model.weight, value)
    nn.init.constant_(model.bias, value + 1)
    return model


def arrays(model: nn.Module) -> Dict[str, np.ndarray]:
    return {name: x.numpy() for name, x in model.state_dict().items()}


def loaded(path: Path) -> nn.Linear:
    model = layer()
    SafeCheckpointer(model).load(str(path))
    return model


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("heuristics", [False, True])
def test_zoo_pickles(protocol: int, heuristics: bool, tmp_path: Path) -> None:
    content: Dict[str, Any] = {"model": arrays(layer(5)), "__author__": "them"}
    if heuristics:
        content["matching_heuristics"] = True
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    assert changed(snapshot(layer(5)), loaded(path)) == []


def test_detectron_pickles_load_as_in_the_parent(tmp_path: Path) -> None:
    blobs = Caffe2Model(mask="specific").blobs()
    cfg = convert_blobs(blobs).cfg
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    path = tmp_path / "caffe2.pkl"
    content = {**blobs, **{f"{n}_momentum": x + 1 for n, x in blobs.items()}}
    path.write_bytes(python2_pickle({"blobs": content, "cfg": ""}, 2))
    before, other = snapshot(model), copy.deepcopy(model)
    SafeCheckpointer(model).load(str(path))
    DetectionCheckpointer(other).load(str(path))
    assert changed(snapshot(other), model) == []
    learned = {n for n in before if "running" not in n}
    assert learned <= set(changed(before, model))
    np.testing.assert_array_equal(
        model.state_dict()["roi_heads.box_predictor.bbox_pred.bias"], blobs["bbox_pred_b"][4:]
    )


def as_bytes(value: Any) -> Any:
    """What Python 3 has after pickle.load(f, encoding="bytes")."""
    if isinstance(value, dict):
        return {as_bytes(k): as_bytes(v) for k, v in value.items()}
    return value.encode("latin-1") if isinstance(value, str) else value


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_with_keys_of_bytes(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "again.pkl"
    content: Dict[str, Any] = {"model": arrays(layer(5)), "__author__": "them"}
    path.write_bytes(pickle.dumps(as_bytes(content), protocol))
    assert changed(snapshot(layer(5)), loaded(path)) == []
    blobs = Caffe2Model(mask=None).blobs()
    cfg = convert_blobs(blobs).cfg
    cfg.MODEL.DEVICE = "cpu"
    models = [build_model(cfg), build_model(cfg)]
    for model, content in zip(models, ({"blobs": blobs}, as_bytes({"blobs": blobs}))):
        path.write_bytes(pickle.dumps(content, protocol))
        SafeCheckpointer(model).load(str(path))
    assert changed(snapshot(models[0]), models[1]) == []
    np.testing.assert_array_equal(
        models[1].state_dict()["roi_heads.box_head.fc2.bias"], blobs["fc7_b"]
    )


def test_a_mask_x_pickle_is_told_to_be_converted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("seg_every_thing"), "propagate", True)
    path = tmp_path / "maskx.pkl"
    path.write_bytes(python2_pickle({"blobs": {"mask_fcn_logits_w_flat_w": np.zeros((2, 2))}}, 2))
    SafeCheckpointer(layer()).load(str(path))
    assert "maskx.pkl' is a Mask^X model of Detectron" in caplog.text
    assert "seg-every-thing convert" in caplog.text


@pytest.mark.parametrize("name", ["x.pkl", "x.pth", "x.pyth", "x.bin", "legacy.pth"])
def test_hostile_files_are_refused_and_do_nothing(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    state: Any = arrays(layer()) if name.endswith(".pkl") else layer().state_dict()
    content = {"model": state, "model_state": state, "__author__": MakesFolder(canary)}
    path = tmp_path / name
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=not name.startswith("legacy"))
    message = f"^refused to (load|unpickle) '.*{name}': .*mkdir"
    with pytest.raises(ValueError, match=message) as error:
        loaded(path)
    assert "\n" not in str(error.value) and not canary.exists()
    assert "weights_only" not in str(error.value)  # torch's advice to load it all the same
    if not name.endswith(".pkl"):
        torch.load(path, weights_only=False)
        assert canary.exists()  # so the file was dangerous


def test_a_zip_named_pkl_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    torch.save({"model": layer().state_dict()}, path)
    with pytest.raises(ValueError, match="x.pkl' is not a valid pickle: it is a zip archive"):
        loaded(path)


def test_archives_that_can_hold_programs_are_refused(tmp_path: Path) -> None:
    script, tar = tmp_path / "script.pth", tmp_path / "tar.pth"
    torch.jit.script(layer()).save(str(script))
    with tarfile.open(tar, "w") as f:
        f.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    for path in (script, tar):
        with pytest.raises(ValueError, match=f"refused to load '{path}': it is an archive"):
            loaded(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"model": layer().state_dict()}, path)
    content = path.read_bytes()
    for data in (b"", b"text", content[: len(content) // 2], content[:-30]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="x.pth'") as error:
            load_tensors(str(path))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="cannot read '.*missing.pth': No such file"):
        load_tensors(str(tmp_path / "missing.pth"))
    for content in ([1], {"blobs": 1}, {1: 2}):
        path = tmp_path / "x.pkl"
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match="x.pkl' holds no weights"):
            loaded(path)
    for content in ([1], torch.zeros(3), {1: torch.zeros(3)}, {"model": [1]}):
        path = tmp_path / "x.pth"
        torch.save(content, path)
        with pytest.raises(ValueError, match="x.pth' holds no weights by name"):
            loaded(path)


def test_plain_state_dicts_and_pycls_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(layer(7).state_dict(), path)
    assert changed(snapshot(layer(7)), loaded(path)) == []
    path = tmp_path / "x.pyth"
    torch.save({"model_state": layer(8).state_dict()}, path)
    assert changed(snapshot(layer(8)), loaded(path)) == []


def test_training_resumes_with_optimizer_and_schedule(tmp_path: Path, tiny_shapes: Path) -> None:
    cfg = shapes_config(
        "maskx", tmp_path, *("MODEL.WEIGHTS", "", "DATASETS.TEST", "()", "SOLVER.MAX_ITER", 2),
        *("DATALOADER.NUM_WORKERS", 0, "MODEL.FREEZE_DETECTOR", False),
    )  # fmt: skip
    first = Trainer(cfg)
    first.resume_or_load(resume=False)
    first.train()

    second = Trainer(cfg)
    checkpointer = SafeCheckpointer(second.model, str(tmp_path), trainer=second)
    rest = checkpointer.resume_or_load("", resume=True)
    assert rest["iteration"] == second.iter == 1
    assert changed(snapshot(first.model), second.model) == []
    state, expected = second.optimizer.state_dict(), first.optimizer.state_dict()
    assert state["param_groups"] == expected["param_groups"]
    assert state["state"].keys() == expected["state"].keys() and state["state"]
    for key, value in state["state"].items():
        assert torch.equal(value["momentum_buffer"], expected["state"][key]["momentum_buffer"])
    assert second.scheduler.last_epoch == 2


def test_a_checkpoint_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = SafeCheckpointer(layer(1), str(tmp_path))
    checkpointer.save("model_0000001")

    def break_off(_: Any, f: Any) -> None:
        f.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", break_off)
    for name in ("model_0000003", "model_0000001"):
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save(name)
    assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth"]
    assert torch.equal(loaded(tmp_path / "model_0000001.pth").weight, layer(1).weight)
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000001.pth")


def test_training_goes_on_from_the_last_model_not_from_the_best(tmp_path: Path) -> None:
    checkpointer = SafeCheckpointer(layer(1), str(tmp_path))
    checkpointer.save("model_best")
    assert (tmp_path / "model_best.pth").is_file() and not checkpointer.has_checkpoint()
    checkpointer.save("model_0000001")
    checkpointer.save("model_best")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"
