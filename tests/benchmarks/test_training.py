"""The suite on narrow models: equal work for all of them, and what the rows say."""

import json
from typing import Any, Dict

import pytest
import torch
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.utils.events import EventStorage
from same_process import SameProcess

from seg_every_thing import PartiallySupervisedROIHeads
from seg_every_thing.benchmarks import training, turns
from seg_every_thing.benchmarks.loading import Loading, write_images
from seg_every_thing.benchmarks.training import benchmark_training
from seg_every_thing.benchmarks.training_step import TrainingIteration

NARROW = (
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
)
SIZE = (64, 96)


def iteration(kind: str) -> TrainingIteration:
    torch.manual_seed(0)
    return TrainingIteration(kind, SIZE, 8, "cpu", NARROW)


@pytest.mark.parametrize("kind", ["stock", "ours", "ours+boxes"])
def test_an_iteration(kind: str) -> None:
    step = iteration(kind)
    heads = step.model.roi_heads
    assert type(heads) is (StandardROIHeads if kind == "stock" else PartiallySupervisedROIHeads)
    sizes = step.sizes()
    assert sizes["mask_rois"] == 8
    assert sizes["peak_bytes"] > 1e6
    assert all(p.grad is None for p in step.model.parameters())
    before = {n: p.clone() for n, p in step.model.named_parameters()}
    first, again = step.run(), step.run()
    assert first > 0
    without = {n for n, p in step.model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without
    assert all(torch.equal(p, before[n]) for n, p in step.model.named_parameters())
    assert abs(first - again) < first / 2  # it samples anchors and RoIs


def test_losses_are_those_of_the_kind() -> None:
    names: Dict[str, Any] = {}
    for kind in ("stock", "ours", "ours+boxes"):
        step = iteration(kind)
        with EventStorage():
            names[kind] = set(step.model(step.batch))
    assert names["stock"] == names["ours"]
    added = names["ours+boxes"] - names["ours"]
    assert added == {"loss_mask_projection", "loss_mask_affinity"}


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "FreshProcess", SameProcess)
    result = benchmark_training(SIZE, rois=8, repeats=1, num_images=2, options=NARROW)
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == [
        *("stock", "ours", "ours+boxes", "loading, polygon: stock", "loading, polygon: ours"),
        *("loading, bitmask: stock", "loading, bitmask: ours"),
    ]
    assert rows["stock"]["ratio"] == 1
    for name, row in rows.items():
        assert row["ratio"] > 0 and row["cpu_ratio"] > 0 and row["repeats"] == 1
        assert ("images_per_second" in row) == name.startswith("loading")
        assert ("peak_bytes" in row) != name.startswith("loading")
    assert result["size"] == list(SIZE)
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("mask_format", ["polygon", "bitmask"])
def test_both_mappers_load_the_same(mask_format: str, tmp_path: Any) -> None:
    write_images(tmp_path, 2)
    samples = {}
    for kind in ("stock", "ours"):
        loading = Loading(kind, str(tmp_path), 2, mask_format, ("INPUT.RANDOM_FLIP", "none"))
        samples[kind] = loading.run()
    for stock, ours in zip(*samples.values()):
        assert torch.equal(stock["image"], ours["image"])
        ours, stock = ours["instances"], stock["instances"]
        assert torch.equal(ours.gt_boxes.tensor, stock.gt_boxes.tensor) and len(ours) == 8
        assert type(ours.gt_masks) is type(stock.gt_masks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (63, 200)}, "at least 64x64 pixels, got 63x200"),
        ({"rois": 7}, "the number of RoIs must be even and at least 2, got 7"),
        ({"repeats": 0}, "the number of repeats must be at least 1, got 0"),
        ({"device": "quantum"}, "cannot use the device 'quantum'"),
    ],
)
def test_bad_input(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        training.benchmark_training(**arguments)
