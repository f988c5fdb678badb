"""Resuming says clearly what it goes on from, or in one line why it cannot."""

import logging
import shutil
from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
from detectron2.config import CfgNode
from helpers import shapes_config

from seg_every_thing import Trainer
from seg_every_thing.engine.launch import evaluate

pytestmark = pytest.mark.usefixtures("tiny_shapes")


def config(output: Path, *opts: Any) -> CfgNode:
    """Of two iterations and a checkpoint after each."""
    small = ("INPUT.MIN_SIZE_TRAIN", (64,), "DATALOADER.NUM_WORKERS", 0, "DATASETS.TEST", "()")
    steps = ("SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1)
    return shapes_config("class_agnostic", output, *small, *steps, *opts)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The output folder of a complete training; made by the first test that needs it."""
    yield tmp_path_factory.mktemp("resuming") / "trained"


@pytest.fixture
def output(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    if not trained.is_dir():
        Trainer(config(trained)).train()
    shutil.copytree(trained, tmp_path / "out")
    return tmp_path / "out"


def resume(output: Path, *opts: Any) -> Trainer:
    trainer = Trainer(config(output, *opts))
    trainer.resume_or_load(resume=True)
    return trainer


def refused(output: Path, *opts: Any) -> str:
    with pytest.raises(ValueError) as error:
        resume(output, *opts)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def words(caplog: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(logging.getLogger("seg_every_thing"), "propagate", True)
    caplog.set_level(logging.WARNING)
    return caplog


def test_without_a_checkpoint_it_says_that_it_starts_anew(tmp_path: Path, words: Any) -> None:
    assert resume(tmp_path).start_iter == 0
    assert f"no checkpoint in '{tmp_path}' to resume: training starts at iteration 0" in words.text


def test_at_the_end_and_past_it(output: Path, words: Any) -> None:
    assert resume(output).start_iter == 2
    assert "model_final.pth' has all 2 iterations of SOLVER.MAX_ITER" in words.text
    words.clear()
    assert resume(output, "SOLVER.MAX_ITER", 3).start_iter == 2
    assert "iterations of SOLVER.MAX_ITER" not in words.text
    line = refused(output, "SOLVER.MAX_ITER", 1)
    assert "model_final.pth' has 2 iterations, more than SOLVER.MAX_ITER 1" in line


def test_broken_checkpoints_offer_the_newest_whole_one(output: Path) -> None:
    final = output / "model_final.pth"
    content = torch.load(final, map_location="cpu")
    content["model"]["roi_heads.box_head.fc1.bias"][0] = float("nan")
    torch.save(content, final)
    line = refused(output)
    assert "'roi_heads.box_head.fc1.bias' holds NaN" in line and "'model_0000001.pth'" in line
    final.write_bytes(final.read_bytes()[:5000])
    line = refused(output)
    assert "cannot load the checkpoint" in line and "'model_0000001.pth'" in line
    final.unlink()
    line = refused(output)
    assert "names 'model_final.pth', which does not exist" in line and "model_0000001" in line
    (output / "last_checkpoint").write_text("model_0000001.pth")  # as the line says
    assert resume(output, "SOLVER.MAX_ITER", 3).start_iter == 2


def test_another_model(output: Path) -> None:
    line = refused(output, "MODEL.ROI_BOX_HEAD.FC_DIM", 16)
    assert "model_final.pth' is of another model: of another shape: roi_heads.box_head" in line
    assert "Give another OUTPUT_DIR" in line
    line = refused(output, "MODEL.FREEZE_DETECTOR", not config(output).MODEL.FREEZE_DETECTOR)
    assert "the optimizer of the checkpoint is another one" in line and "FREEZE_DETECTOR" in line
    line = refused(output, "SOLVER.OPTIMIZER", "AdamW", "SOLVER.MAX_ITER", 9)
    assert "the optimizer of the checkpoint is another one" in line and "train without" in line


def test_weights_alone_are_no_training(output: Path) -> None:
    content = torch.load(output / "model_final.pth", map_location="cpu")
    torch.save({"model": content["model"]}, output / "model_final.pth")
    line = refused(output)
    assert "holds weights and no state of a training" in line and "MODEL.WEIGHTS" in line


def test_fine_tuning_from_too_little(output: Path, tmp_path: Path) -> None:
    torch.save({"layer1.conv.weight": torch.ones(1)}, tmp_path / "other.pth")
    cfg = config(tmp_path / "new", "MODEL.WEIGHTS", str(tmp_path / "other.pth"))
    trainer = Trainer(cfg)
    with pytest.raises(ValueError, match=r"nothing in the checkpoint '.*other\.pth' fits"):
        trainer.resume_or_load(resume=False)
    content = torch.load(output / "model_final.pth", map_location="cpu")["model"]
    backbone = {n: x for n, x in content.items() if n.startswith("backbone.bottom_up")}
    torch.save(backbone, tmp_path / "other.pth")
    trainer.resume_or_load(resume=False)
    loaded = trainer.model.state_dict()
    assert all(torch.equal(loaded[n], x) for n, x in backbone.items())


def test_evaluation_needs_the_whole_model(output: Path, tmp_path: Path) -> None:
    test_set = ("DATASETS.TEST", ("shapes_val",))
    with pytest.raises(ValueError, match=f"--resume: there is no checkpoint in '{tmp_path}/empty'"):
        evaluate(config(tmp_path / "empty", *test_set), resume=True)
    cfg = config(
        output,
        *test_set,
        "MODEL.ROI_BOX_HEAD.FC_DIM",
        16,
        "MODEL.WEIGHTS",
        str(output / "model_final.pth"),
    )
    for resumed in (False, True):
        with pytest.raises(ValueError, match=r"model_final\.pth' is of another model"):
            evaluate(cfg, resume=resumed)
    assert "bbox" in evaluate(cfg, resume=False, allow_partial=True)
