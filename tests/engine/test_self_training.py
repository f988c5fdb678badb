"""Self-training: rounds on tiny Shapes, going on where it was, and what it refuses."""

import json
import logging
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from helpers import CONFIGS, TINY, changed, shapes_config, snapshot

import seg_every_thing.engine.self_training as module
from seg_every_thing import Trainer
from seg_every_thing.data.pseudo_masks import PseudoMasks
from seg_every_thing.engine.self_training import self_train
from seg_every_thing.engine.teaching import masks_on_boxes, objects_to_teach, write_taught_masks
from seg_every_thing.files import file_digest

CONFIG = str(CONFIGS / "shapes" / "class_agnostic.yaml")
HEAD = "MODEL.ROI_MASK_HEAD."
BOX_TO_MASK: List[Any] = [
    *("MODEL.META_ARCHITECTURE", "BoxToMask", "MODEL.FREEZE_DETECTOR", False),
    *(HEAD + "BOX_SCALE", 1.25, HEAD + "BOX_LOSS.ENABLED", True),
    *(HEAD + "BOX_LOSS.CRF_WEIGHT", 0.5, "DATASETS.MASK_CLASSES", "shapes_A"),
    *("MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0),
]
OPTS = [*TINY, *BOX_TO_MASK]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def weights(folder: Path) -> Dict[str, torch.Tensor]:
    return torch.load(folder / "model_final.pth", map_location="cpu")["model"]


def same(a: Dict[str, torch.Tensor], b: Dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a
    )


def stamps(output: Path) -> Dict[str, int]:
    return {
        str(p.relative_to(output)): p.stat().st_mtime_ns
        for p in output.rglob("*")
        if p.suffix in (".pth", ".npy")
    }


def test_rounds_and_going_on(
    tiny_shapes: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    output = tmp_path / "out"
    # Killed while the first student trains, then run again.
    steps, run_step = [], Trainer.run_step

    def killed(self: Trainer) -> None:
        if self.cfg.DATASETS.PSEUDO_MASKS and self.iter == 1:
            raise KeyboardInterrupt
        steps.append(self.iter)
        run_step(self)

    opts = [*OPTS, "SOLVER.CHECKPOINT_PERIOD", 1]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "run_step", killed)
        with pytest.raises(KeyboardInterrupt):
            self_train(CONFIG, 1, output, opts)
    assert steps == [0, 1, 2, 0] and not (output / "results.json").exists()
    before = stamps(output)
    assert "round_1/pseudo_masks/masks.npy" in before and "round_0/model_final.pth" in before

    result = self_train(CONFIG, 1, output, opts)
    assert before.items() <= stamps(output).items()  # nothing is done twice
    assert result == json.loads((output / "results.json").read_text())
    assert [r["round"] for r in result["rounds"]] == [0, 1]
    objects = sum(
        len(x.classes)
        for x in objects_to_teach(shapes_config("class_agnostic", tmp_path, *OPTS))[1]
    )
    assert result["rounds"][1]["pseudo_masks"] == objects > 0
    for record in result["rounds"]:
        for name in ("mIoU_A", "mIoU_B"):
            assert 0 < record["metrics"][f"given/{name}"] < 100
            assert f"given_fit/{name}" in record["metrics"]
    table = (output / "results.md").read_text().splitlines()
    assert len(table) == 4 and "given_fit/mIoU_B" in table[0]
    index = PseudoMasks(output / "round_1" / "pseudo_masks").index
    assert index["teacher"]["sha256"] == result["rounds"][0]["sha256"]
    assert index["confidence"] == 0.7 and "BoxToMask" in index["config"] and index["date"]
    log, told = (output / "round_0" / "log.txt").read_text(), capsys.readouterr().out
    for line in ("Environment info:", "Running with full config:", "(mask_head)"):
        assert line in log and line not in told
    assert "eta: " in log and "eta: " in told
    assert "loss_mask_pseudo" not in (output / "round_0" / "metrics.json").read_text()
    assert "loss_mask_pseudo" in (output / "round_1" / "metrics.json").read_text()
    assert "round_1" not in (output / "round_0" / "log.txt").read_text()

    # The interruption has left no trace; another round goes on from the first.
    straight = tmp_path / "straight"
    self_train(CONFIG, 1, straight, [*opts, "DATASETS.TEST", ()])
    assert same(weights(output / "round_1"), weights(straight / "round_1"))
    assert not same(weights(output / "round_0"), weights(output / "round_1"))
    before = stamps(output)
    result = self_train(CONFIG, 2, output, opts)
    assert len(result["rounds"]) == 3 and before.items() <= stamps(output).items()

    # Another config is refused; damage is mended.
    for key, value in (("SOLVER.BASE_LR", 0.5), ("INPUT.CROP.ENABLED", True)):
        with pytest.raises(ValueError, match=f"of another config or other data .{key}"):
            self_train(CONFIG, 2, output, [*opts, key, value])
    masks = output / "round_1" / "pseudo_masks" / "masks.npy"
    whole = masks.read_bytes()
    masks.write_bytes(whole[:-1] + b"\x07")
    assert self_train(CONFIG, 1, output, opts)["rounds"] == result["rounds"][:2]
    assert masks.read_bytes() == whole
    changed = output / "round_1" / "model_final.pth"
    torch.save({"model": {k: v + 1 for k, v in weights(changed.parent).items()}}, changed)
    assert self_train(CONFIG, 1, output, opts)["rounds"] == result["rounds"][:2]


def test_a_student_is_not_kept_beside_other_masks(tiny_shapes: Path, tmp_path: Path) -> None:
    output, opts = tmp_path / "out", [*OPTS, "DATASETS.TEST", ()]
    self_train(CONFIG, 1, output, opts)
    student = "round_1/model_final.pth"
    before = stamps(output)[student]
    teacher = output / "round_0" / "model_final.pth"
    torch.save({"model": {k: v * 1.01 for k, v in weights(teacher.parent).items()}}, teacher)
    record = json.loads((teacher.parent / "done.json").read_text())
    record["sha256"] = file_digest(str(teacher))
    (teacher.parent / "done.json").write_text(json.dumps(record))
    self_train(CONFIG, 1, output, opts)
    assert stamps(output)[student] > before
    assert (
        PseudoMasks(output / "round_1" / "pseudo_masks").index["teacher"]["sha256"]
        == (record["sha256"])
    )


def test_files_that_a_config_names_are_of_it(tiny_shapes: Path, tmp_path: Path) -> None:
    classes = tmp_path / "a.txt"
    names = MetadataCatalog.get("shapes_train").thing_classes
    classes.write_text("\n".join(names[:24]))
    cfg = shapes_config("class_agnostic", tmp_path, *OPTS, "DATASETS.MASK_CLASSES", str(classes))
    module._check_same(cfg, tmp_path)
    module._check_same(cfg, tmp_path)
    classes.write_text("\n".join(names[:20]))
    with pytest.raises(ValueError, match="a.txt"):
        module._check_same(cfg, tmp_path)


def test_a_trained_model_is_the_teacher(
    tiny_shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cfg = shapes_config("class_agnostic", tmp_path / "teacher", *OPTS, "DATASETS.TEST", ())
    trainer = Trainer(cfg)
    trainer.train()
    path = str(tmp_path / "teacher" / "model_final.pth")
    full = [*OPTS, "MODEL.WEIGHTS", path, "SOLVER.MAX_ITER", 2]
    result = self_train(CONFIG, 1, tmp_path / "out", full)
    assert result["rounds"][0]["weights"] == path and "is the teacher" in caplog.text
    assert not (tmp_path / "out" / "round_0" / "model_final.pth").exists()
    assert result["rounds"][0]["metrics"]["given/mIoU_B"] > 0
    # A backbone alone is none.
    part = {k: v for k, v in weights(tmp_path / "teacher").items() if k.startswith("backbone")}
    torch.save({"model": part}, tmp_path / "backbone.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "backbone.pth")
    assert not module._is_trained(cfg)


def test_masks_are_those_of_the_model(tiny_shapes: Path, tmp_path: Path) -> None:
    for opts in ([], [HEAD + "CLIP_TO_BOX", False], [HEAD + "BOX_SCALE", 1.0]):
        cfg = shapes_config("class_agnostic", tmp_path, *OPTS, *opts, "TEST.IMS_PER_BATCH", 5)
        model = Trainer.build_model(cfg)
        torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.5)
        masks = write_taught_masks(cfg, model, tmp_path / "taught", {"sha256": "1"})
        assert model.training and masks.is_intact()
        records, objects = objects_to_teach(cfg)
        mapper = Trainer.build_mapper(cfg.clone()).__class__(cfg, is_train=False)
        taught = []
        for record, x in zip(records, objects):
            (expected,) = masks_on_boxes(model.eval(), [mapper(record)], [x])
            for annotation in record["annotations"]:
                found = masks.of(record, annotation)
                if found is not None:
                    taught.append(found)
            np.testing.assert_allclose(
                np.array(taught[-len(expected) :], int), expected.astype(int), atol=1
            )
        assert len(taught) == len(masks) and np.std(taught) > 1


def test_a_crf_is_the_last_step_of_the_teacher(tiny_shapes: Path, tmp_path: Path) -> None:
    masks = {}
    for name in ("", HEAD + "PSEUDO_LOSS.CRF", "TEST.CRF"):
        cfg = shapes_config("class_agnostic", tmp_path, *OPTS, *([name, True] if name else []))
        torch.manual_seed(0)
        model = Trainer.build_model(cfg)
        write_taught_masks(cfg, model, tmp_path / "taught", {"sha256": "1"})
        masks[name] = np.load(tmp_path / "taught" / "masks.npy")
    plain, once, by_model = masks.values()
    assert plain.shape[1:] == (56, 56) and not np.array_equal(plain, once)
    assert np.array_equal(once, by_model)


def test_full_model_learns_with_proposals(tiny_shapes: Path, tmp_path: Path) -> None:
    opts = [*TINY, "MODEL.FREEZE_DETECTOR", False, "MODEL.WEIGHTS", "", "DATASETS.TEST", ()]
    cfg = shapes_config("maskx", tmp_path, *opts)
    write_taught_masks(cfg, Trainer.build_model(cfg), tmp_path / "taught", {"sha256": "1"})
    cfg.DATASETS.PSEUDO_MASKS = str(tmp_path / "taught")
    trainer = Trainer(cfg)
    before = snapshot(trainer.model)
    trainer.train()
    assert any("weight_transfer" in name for name in changed(before, trainer.model))
    assert "loss_mask_pseudo" in (tmp_path / "metrics.json").read_text()


@pytest.mark.parametrize(
    "opts, message",
    [
        (["DATASETS.MASK_CLASSES", "all"], "nothing to teach"),
        (["MODEL.MASK_ON", False], "without masks of objects"),
        (["TEST.GIVEN", 1], "config override"),
    ],
)
def test_what_cannot_work_is_said_at_the_start(
    tiny_shapes: Path, tmp_path: Path, opts: List[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        self_train(CONFIG, 1, tmp_path / "out", [*OPTS, *opts])
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        self_train(CONFIG, 0, tmp_path / "out", OPTS)
