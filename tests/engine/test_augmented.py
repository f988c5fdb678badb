"""TEST.AUG reaches the evaluation, in the end of training and without one."""

import json
from pathlib import Path
from typing import Any, List

import pytest
from detectron2.config import CfgNode
from helpers import shapes_config

from seg_every_thing import Trainer
from seg_every_thing.engine.agreement import check_settings
from seg_every_thing.engine.launch import evaluate


def config(output: Path, *opts: Any) -> CfgNode:
    small = ("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MIN_SIZE_TEST", 64, "DATALOADER.NUM_WORKERS", 0)
    augmented = ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (48,))
    return shapes_config("maskx", output, *small, *augmented, "SOLVER.MAX_ITER", 1, *opts)


@pytest.mark.parametrize("crf", [False, True])
def test_evaluation_with_it(crf: bool, tiny_shapes: Path, tmp_path: Path) -> None:
    few = ("TEST.DETECTIONS_PER_IMAGE", 3, "TEST.CRF", crf)
    results = evaluate(config(tmp_path, *few), resume=False)
    assert {"bbox", "segm", "bbox_TTA", "segm_TTA"} == results.keys()
    assert {"AP", "AP_A", "AP_B"} <= results["segm_TTA"].keys()
    metrics = tmp_path / "inference_TTA" / "shapes_val" / "metrics.json"
    assert {"bbox/AP", "segm/AP_B"} <= json.loads(metrics.read_text()).keys()


@pytest.mark.parametrize("enabled", [True, False])
def test_once_in_the_end_of_training(
    tiny_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: bool
) -> None:
    done: List[str] = []

    def record(kind: str) -> Any:
        return staticmethod(lambda cfg, model: done.append(kind) or {kind: {"AP": 7.0}})

    monkeypatch.setattr(Trainer, "test", record("segm"))
    monkeypatch.setattr(Trainer, "test_augmented", record("segm_TTA"))
    steps = ("SOLVER.MAX_ITER", 2, "TEST.EVAL_PERIOD", 1, "TEST.AUG.ENABLED", enabled)
    Trainer(config(tmp_path, *steps)).train()
    assert done == ["segm", "segm", *["segm_TTA"] * enabled]
    written = (tmp_path / "metrics.json").read_text()
    assert ('"segm_TTA/AP": 7.0' in written) == enabled


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.KEYPOINT_ON", True),
        ("MODEL.LOAD_PROPOSALS", True),
        ("MODEL.ROI_MASK_HEAD.CLIP_TO_BOX", False),
        ("MODEL.META_ARCHITECTURE", "BoxToMask"),
        ("MODEL.META_ARCHITECTURE", "SemanticSegmentor"),
    ],
)
def test_models_that_it_does_not_work_with(
    tiny_shapes: Path, tmp_path: Path, key: str, value: Any
) -> None:
    check_settings(config(tmp_path), training=True)
    for training in (True, False):
        with pytest.raises(ValueError, match=f"TEST.AUG does not work with {key}"):
            check_settings(config(tmp_path, key, value), training)
