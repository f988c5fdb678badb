"""A checkpoint is told by what of it fits: another model, other class counts, NaN, nothing."""

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np
import pytest
import torch
from caffe2_reference import python2_pickle
from torch import nn

from seg_every_thing.checkpoint.caffe2 import convert_detectron_file
from seg_every_thing.checkpoint.compatibility import (
    NotFiniteError,
    UnfitCheckpointError,
    check_finite,
)
from seg_every_thing.checkpoint.loading import load_for_inference
from seg_every_thing.checkpoint.safe_checkpointer import SafeCheckpointer, read_state_dict
from seg_every_thing.modeling.semantic.vgg_weights import _read_caffe


class Detector(nn.Module):
    """Named as detectron2's are, with layers of one or two numbers."""

    def __init__(self, classes: int = 3, blocks: int = 2, head: str = "box_predictor") -> None:
        super().__init__()
        self.backbone = nn.Module()
        layers = OrderedDict((f"res{i}", nn.Linear(1, 1)) for i in range(blocks))
        self.backbone.bottom_up = nn.Sequential(layers)
        predictor = nn.Module()
        predictor.cls_score = nn.Linear(2, classes + 1)
        predictor.bbox_pred = nn.Linear(2, 4 * classes)
        self.roi_heads = nn.Module()
        setattr(self.roi_heads, head, predictor)
        self.roi_heads.norm = nn.BatchNorm2d(1)


def with_vectors(vectors: torch.Tensor) -> nn.Module:
    model = Detector()
    model.roi_heads.register_buffer("class_vectors", vectors)
    return model


def save(folder: Path, model: nn.Module, **changes: Optional[torch.Tensor]) -> str:
    """A checkpoint of a model, with some tensors replaced, or left out (None)."""
    state: Dict[str, Any] = {**model.state_dict()}
    for name, value in changes.items():
        state[name] = value
    state = {name: value for name, value in state.items() if value is not None}
    torch.save({"model": state}, folder / "saved.pth")
    return str(folder / "saved.pth")


def refused(model: nn.Module, path: str, require: str = "all") -> str:
    with pytest.raises(UnfitCheckpointError) as error:
        SafeCheckpointer(model, require=require).load(path)
    assert "\n" not in str(error.value) and path in str(error.value)
    return str(error.value)


def test_the_same_model_fits_and_nothing_is_said(tmp_path: Path, caplog: Any) -> None:
    saved, model = Detector(), Detector()
    checkpointer = SafeCheckpointer(model, require="all")
    with caplog.at_level(logging.WARNING):
        checkpointer.load(save(tmp_path, saved))
    assert checkpointer.fit is not None and checkpointer.fit.complete
    assert checkpointer.fit.table() == "" and not caplog.records
    assert all(torch.equal(v, saved.state_dict()[n]) for n, v in model.state_dict().items())


def test_other_class_counts_are_named(tmp_path: Path) -> None:
    line = refused(Detector(classes=48), save(tmp_path, Detector(classes=3)))
    assert "it has 3 classes, the config 48 (MODEL.ROI_HEADS.NUM_CLASSES)" in line
    assert "cls_score.weight ((4, 2) there, (49, 2) here)" in line
    assert "--allow-partial-checkpoint" in line

    def segmentor(classes: int) -> nn.Module:
        model = nn.Module()
        model.sem_seg_head = nn.Module()
        model.sem_seg_head.score = nn.ModuleDict({"stage5": nn.Conv2d(2, classes, 1)})
        return model

    line = refused(segmentor(21), save(tmp_path, segmentor(11)))
    assert "it has 11 classes, the config 21 (MODEL.SEM_SEG_HEAD.NUM_CLASSES)" in line


def test_what_is_missing_is_refused_where_the_model_is_used(tmp_path: Path) -> None:
    backbone = {n: None for n in Detector().state_dict() if not n.startswith("backbone")}
    path = save(tmp_path, Detector(), **backbone)
    line = refused(Detector(), path)
    assert "not in the file: roi_heads.box_predictor.cls_score.weight" in line
    SafeCheckpointer(Detector(), require="some").load(path)  # ImageNet weights to train from


def test_a_deeper_network_that_brings_everything_is_another_model(tmp_path: Path) -> None:
    path = save(tmp_path, Detector(blocks=3))
    line = refused(Detector(blocks=2), path)
    assert "not in the model: backbone.bottom_up.res2.weight" in line
    SafeCheckpointer(Detector(blocks=2), require="some").load(path)


def test_a_part_that_the_model_lacks_does_no_harm(tmp_path: Path) -> None:
    """The mask head of a checkpoint, where MODEL.MASK_ON is False."""
    extra = {"roi_heads.mask_head.deconv.weight": torch.ones(2)}
    checkpointer = SafeCheckpointer(Detector(), require="all")
    checkpointer.load(save(tmp_path, Detector(), **extra))
    assert checkpointer.fit is not None and [*checkpointer.fit.unused] == [*extra]


@pytest.mark.parametrize("require", ["some", "all"])
def test_nothing_fits(tmp_path: Path, require: str) -> None:
    torch.save({"layer1.0.conv1.weight": torch.ones(1)}, tmp_path / "resnet.pth")
    line = refused(Detector(), str(tmp_path / "resnet.pth"), require)
    if require == "some":
        assert "nothing in the checkpoint" in line and "layer1.0.conv1.weight" in line
    torch.save({"model": {}}, tmp_path / "empty.pth")
    assert "empty.pth" in refused(Detector(), str(tmp_path / "empty.pth"), require)
    torch.save([1, 2], tmp_path / "list.pth")
    assert "no weights by name" in refused(Detector(), str(tmp_path / "list.pth"), require)
    SafeCheckpointer(Detector(), require="any").load(str(tmp_path / "resnet.pth"))


def test_a_table_of_what_was_not_loaded(
    tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("seg_every_thing"), "propagate", True)
    saved = Detector(classes=5)
    extra = {"old.head.weight": torch.ones(2), "old.head.bias": torch.ones(1)}
    leave_out = {f"backbone.bottom_up.res1.{n}": None for n in ("weight", "bias")}
    path = save(tmp_path, saved, **extra, **leave_out)
    with caplog.at_level(logging.WARNING):
        SafeCheckpointer(Detector(classes=3), require="some").load(path)
    (record,) = (r for r in caplog.records if "saved.pth" in r.getMessage())
    rows = [[c.strip() for c in x.split("|")[1:-1]] for x in record.getMessage().splitlines()[3:]]
    assert rows == [
        ["roi_heads.box_predictor.cls_score.weight", "(6, 2)", "(4, 2)"],
        ["roi_heads.box_predictor.cls_score.bias", "(6,)", "(4,)"],
        ["roi_heads.box_predictor.bbox_pred.weight", "(20, 2)", "(12, 2)"],
        ["roi_heads.box_predictor.bbox_pred.bias", "(20,)", "(12,)"],
        ["backbone.bottom_up.res1.{bias, weight}", "-", "(1,), (1, 1)"],
        ["old.head.{bias, weight}", "(1,), (2,)", "-"],
    ]


def test_counters_of_normalisation_may_be_missing(tmp_path: Path) -> None:
    path = save(tmp_path, Detector(), **{"roi_heads.norm.num_batches_tracked": None})
    SafeCheckpointer(Detector(), require="all").load(path)
    # FrozenBatchNorm2d has none.
    extra = {"backbone.bottom_up.res0.num_batches_tracked": torch.tensor(3)}
    SafeCheckpointer(Detector(), require="all").load(save(tmp_path, Detector(), **extra))


def test_a_number_where_the_model_has_a_row(tmp_path: Path) -> None:
    scalar = {"roi_heads.norm.running_var": torch.tensor(1.0)}
    line = refused(Detector(), save(tmp_path, Detector(), **scalar))
    assert "roi_heads.norm.running_var (() there, (1,) here)" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("require", ["any", "some", "all"])
def test_weights_that_are_not_finite(tmp_path: Path, value: float, require: str) -> None:
    name = "roi_heads.norm.running_var"
    path = save(tmp_path, Detector(), **{name: torch.tensor([value])})
    assert f"'{name}' holds NaN or infinity" in refused(Detector(), path, require)


def test_every_reader_of_weights_refuses_nan(tmp_path: Path) -> None:
    check_finite({"a": np.ones(2), "b": torch.arange(3), "c": "text"}, "x")
    torch.save({"x.weight": torch.tensor([1.0, float("nan")])}, tmp_path / "x.pth")
    with pytest.raises(NotFiniteError, match=r"x\.pth' are not finite: 'x\.weight'"):
        read_state_dict(tmp_path / "x.pth", "MODEL.TIMM.WEIGHTS")
    np.savez(tmp_path / "vgg.npz", conv1_1_w=np.array([np.inf], np.float32))
    with pytest.raises(NotFiniteError, match=r"vgg\.npz' are not finite: 'conv1_1\.weight'"):
        _read_caffe(tmp_path / "vgg.npz")
    blobs = {"cls_score_w": np.array([np.nan], np.float32)}
    (tmp_path / "d.pkl").write_bytes(python2_pickle({"blobs": blobs, "cfg": ""}, 2))
    with pytest.raises(NotFiniteError, match=r"d\.pkl' are not finite: 'cls_score_w'"):
        convert_detectron_file(tmp_path / "d.pkl")


def test_class_vectors_are_those_of_the_config(tmp_path: Path) -> None:
    own, other = torch.eye(3), torch.eye(3).flip(0)
    same = save(tmp_path, with_vectors(own + 1e-7))
    SafeCheckpointer(with_vectors(own), require="all").load(same)
    path = save(tmp_path, with_vectors(other))
    assert "EMBEDDING_FILE" in refused(with_vectors(own), path)
    model = with_vectors(own)
    checkpointer = SafeCheckpointer(model, require="some")  # fine-tuning on other classes
    checkpointer.load(path)
    assert torch.equal(model.roi_heads.class_vectors, own)
    assert checkpointer.fit is not None and "class_vectors" in checkpointer.fit.table()


def test_inference_goes_on_where_it_is_told_to(tmp_path: Path) -> None:
    saved, model = Detector(classes=5), Detector(classes=3)
    before = model.roi_heads.box_predictor.cls_score.weight.clone()
    path = save(tmp_path, saved)
    with pytest.raises(ValueError, match="5 classes, the config 3"):
        load_for_inference(Detector(classes=3), path)
    load_for_inference(model, path, allow_partial=True)
    assert torch.equal(model.roi_heads.box_predictor.cls_score.weight, before)
    assert torch.equal(model.backbone.bottom_up.res0.weight, saved.backbone.bottom_up.res0.weight)
