"""A frozen body sees each image once; what is learned does not depend on it."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest
import torch
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from helpers import snapshot
from tiny_models import make_batch, make_cfg
from torch import nn

from seg_every_thing import Trainer
from seg_every_thing.engine.agreement import check_settings
from seg_every_thing.modeling import kept_features
from seg_every_thing.modeling.kept_features import KeptFeatures, shared_features

ROOM, NONE = 1.0, 1e-9  # in GB: for all features, and for no image's


def make_model(folder: Path, gigabytes: float, **overrides: Any) -> nn.Module:
    torch.manual_seed(0)
    cfg = make_cfg(
        meta_architecture="BoxToMask",
        roi_mask_head__predictor="class_agnostic",
        freeze_detector=overrides.pop("freeze_detector", True),
        keep_features_gb=gigabytes,
        **overrides,
    )
    cfg.OUTPUT_DIR = str(folder)
    return Trainer.build_model(cfg)


def trained(model: nn.Module, steps: int = 3, half: bool = False) -> Dict[str, Any]:
    """Weights after some steps on two images of different sizes, and the losses."""
    batch = make_batch()
    batch[1]["image"] = batch[1]["image"][:, :48, :32]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses: List[float] = []
    with EventStorage() as storage:
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = sum(model(batch).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        times = dict(storage.latest())
    return {"losses": losses, "weights": snapshot(model), "times": times}


@pytest.mark.parametrize("half", [False, True])
def test_each_image_passes_the_body_once_and_the_outcome_is_the_same(
    half: bool, tmp_path: Path
) -> None:
    kept, computed = make_model(tmp_path, ROOM), make_model(tmp_path, NONE)
    once, each_time = trained(kept, half=half), trained(computed, half=half)
    assert (kept.kept_features.computed, computed.kept_features.computed) == (2, 6)
    assert (len(kept.kept_features), len(computed.kept_features)) == (2, 0)
    assert once["losses"] == each_time["losses"] and len({*once["losses"]}) == 3
    for name, value in once["weights"].items():
        assert torch.equal(value, each_time["weights"][name]), name
    assert once["times"]["body_time"][0] == 0 < each_time["times"]["body_time"][0]
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_of_one_image_they_are_those_of_the_body(tmp_path: Path) -> None:
    model = make_model(tmp_path, ROOM)
    images = model.preprocess_image(make_batch()[:1])
    expected = model.backbone(images.tensor)
    for _ in range(2):
        found = model.kept_features.of(model.backbone, images, [make_batch()[0]["image"]])
        assert {*found} == {*expected}
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


def test_a_smaller_image_has_zeros_beside_it() -> None:
    body = nn.Identity()
    body.forward = lambda x: {"p": x * 2}
    body.output_shape = lambda: {"p": None}
    body.size_divisibility = 0
    pictures = [torch.ones(1, 2, 3), torch.ones(1, 3, 1)]
    kept = KeptFeatures(ROOM)
    for _ in range(2):
        found = kept.of(body, ImageList.from_tensors(pictures), pictures)["p"]
        assert found.tolist() == [
            [[[2, 2, 2], [2, 2, 2], [0, 0, 0]]],
            [[[2, 0, 0], [2, 0, 0], [2, 0, 0]]],
        ]
    assert kept.computed == 2


def test_trainings_of_one_body_share_what_they_keep(tmp_path: Path) -> None:
    with shared_features():
        first, second = make_model(tmp_path, ROOM), make_model(tmp_path, ROOM)
        expected = trained(first)["losses"]
        assert trained(second)["losses"] == expected
        assert (first.kept_features.computed, second.kept_features.computed) == (2, 0)
        others = [
            make_model(tmp_path, ROOM),
            make_model(tmp_path, ROOM, pixel_mean=[1.0, 2.0, 3.0]),
        ]
        with torch.no_grad():
            next(others[0].backbone.parameters()).add_(1)
        for other in others:
            trained(other, 1)
            assert other.kept_features.computed == 2
    later = make_model(tmp_path, ROOM)
    trained(later, 1)
    assert later.kept_features.computed == 2


def test_other_weights_and_copies_begin_anew(tmp_path: Path) -> None:
    model = make_model(tmp_path, ROOM)
    trained(model, 1)
    twin = copy.deepcopy(model)
    assert len(twin.kept_features) == 0 and len(model.kept_features) == 2
    state = {k: v + 1 if "backbone" in k else v for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    assert len(model.kept_features) == 0
    trained(model, 2)
    assert model.kept_features.computed == 4


@pytest.mark.parametrize("overrides", [{"freeze_detector": False}, {"freeze_detector": True}])
def test_a_body_that_learns_runs_each_time(overrides: Dict[str, bool], tmp_path: Path) -> None:
    model = make_model(tmp_path, ROOM, **overrides)
    trained(model, 1)
    assert len(model.kept_features) == 2 * overrides["freeze_detector"]


def test_a_full_disk_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, other = make_model(tmp_path, ROOM), make_model(tmp_path, ROOM)
    expected = trained(other)
    full = SimpleNamespace(free=kept_features._LEAST_FREE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    found = trained(model)
    assert found["losses"] == expected["losses"]
    assert model.kept_features.computed == 6
    assert [r.message for r in caplog.records if "nearly full" in r.message] == [
        f"No more features are kept in '{tmp_path}' (the disk is nearly full): training takes "
        f"longer, its outcome is the same"
    ]


@pytest.mark.parametrize(("architecture", "value"), [("BoxToMask", -1.0), ("GeneralizedRCNN", 1.0)])
def test_refused_settings(architecture: str, value: float) -> None:
    cfg = make_cfg(meta_architecture=architecture, keep_features_gb=value)
    with pytest.raises(ValueError, match=f"MODEL.KEEP_FEATURES_GB is {value:g}, expected 0"):
        check_settings(cfg, training=True)
