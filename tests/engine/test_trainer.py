"""Training: no mask of set B leaks, a frozen detector stays as it is, missing masks do no harm."""

import copy
import json
import logging
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import pytest
import torch
from conftest import unregister
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from helpers import changed, shapes_config, snapshot

from seg_every_thing import Trainer, freeze_detector
from seg_every_thing.checkpoint.loading import readable_checkpoint
from seg_every_thing.data.splits import resolve_class_split
from seg_every_thing.engine.teaching import write_taught_masks

Edit = Callable[[Dict[str, Any]], None]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Bit-identical results need sums in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_variant(folder: Path, name: str, edit: Edit) -> str:
    """Register a copy of shapes_train with each annotation edited."""
    metadata = MetadataCatalog.get("shapes_train")
    content = json.loads(Path(metadata.json_file).read_text())
    for annotation in content["annotations"]:
        edit(annotation)
    json_file = folder / f"{name}.json"
    json_file.write_text(json.dumps(content))
    unregister(name)
    register_coco_instances(name, {}, str(json_file), metadata.image_root)
    return name


MASK = "MODEL.ROI_MASK_HEAD."
BOX_LOSSES: Tuple[Any, ...] = (
    *(MASK + "BOX_LOSS.ENABLED", True, MASK + "BOX_SCALE", 1.25, MASK + "LOSS", "bce+dice"),
    *(MASK + "TRAIN_ON", "gt_boxes", MASK + "BOX_JITTER", 0.05, MASK + "COORDINATES", True),
    *(MASK + "BOX_LOSS.CRF_WEIGHT", 0.5),
)
BOX_TO_MASK: Tuple[Any, ...] = (
    *("MODEL.META_ARCHITECTURE", "BoxToMask", "MODEL.WEIGHT_TRANSFER.INPUT", "embedding"),
    *("MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE", "random:0", *BOX_LOSSES),
)
ways = {
    "masks alone": (),
    "proposals and box losses": (
        *(MASK + "BOX_LOSS.ENABLED", True, MASK + "BOX_LOSS.PROJECTION", "tightness"),
    ),
    "ground-truth boxes and box losses": BOX_LOSSES,
    "BoxToMask": BOX_TO_MASK,
}
each_way = pytest.mark.parametrize("way", ways.values(), ids=ways.keys())


def train(dataset: str, output: Path, *opts: Any) -> torch.nn.Module:
    cfg = shapes_config(
        "maskx", output, "MODEL.FREEZE_DETECTOR", False, "DATASETS.TRAIN", (dataset,), *opts
    )
    if cfg.DATASETS.PSEUDO_MASKS:
        teacher = train(dataset, output / "teacher", *opts, "DATASETS.PSEUDO_MASKS", "")
        write_taught_masks(cfg, teacher, cfg.DATASETS.PSEUDO_MASKS, {"sha256": "0"})
    seed_all_rng(1)
    trainer = Trainer(cfg)
    trainer.train()
    return trainer.model


@pytest.mark.parametrize(
    "way, taught",
    [*((way, False) for way in ways.values()), (BOX_LOSSES, True), (BOX_TO_MASK, True)],
    ids=[*ways, "self-training", "BoxToMask, self-training"],
)
def test_masks_of_set_b_cannot_reach_the_weights(
    way: Tuple[Any, ...], taught: bool, tiny_shapes: Path, tmp_path: Path
) -> None:
    names = MetadataCatalog.get("shapes_train").thing_classes
    set_b = set(resolve_class_split("shapes_A", names).set_b)

    def on_set(members: bool, change: Edit) -> Edit:
        def edit(annotation: Dict[str, Any]) -> None:
            if ((annotation["category_id"] - 1) in set_b) == members:
                change(annotation)

        return edit

    def whole_image(a: Dict[str, Any]) -> None:
        a["segmentation"] = [[0, 0, 128, 0, 128, 128, 0, 128]]

    variants: Dict[str, Edit] = {
        "whole_image": on_set(True, whole_image),
        "not_a_polygon": on_set(True, lambda a: a.update(segmentation=[[1.0, 2.0], [3.0]])),
        "removed": on_set(True, lambda a: a.pop("segmentation")),
        "emptied": on_set(True, lambda a: a.update(segmentation=[])),
        "set_a_changed": on_set(False, whole_image),  # the control: these masks do count
    }
    way = (*way, "DATASETS.TEST", ())
    if taught:
        way = (*way, "DATASETS.PSEUDO_MASKS", str(tmp_path / "taught"))
    expected = snapshot(train("shapes_train", tmp_path / "original", *way))
    for name, edit in variants.items():
        dataset = write_variant(tmp_path, f"leak_{name}", edit)
        model = train(dataset, tmp_path / name, *way)
        unregister(dataset)
        if name == "set_a_changed":
            assert any("mask_head" in tensor for tensor in changed(expected, model))
        else:
            assert changed(expected, model) == [], name


@each_way
def test_stage_two_leaves_the_detector_bit_identical(
    way: Tuple[Any, ...], tiny_shapes: Path, tmp_path: Path
) -> None:
    trainer = Trainer(shapes_config("maskx", tmp_path, *way, "DATASETS.TEST", ()))
    before = snapshot(trainer.model)
    trainer.train()
    moved = changed(before, trainer.model)
    assert moved, "the mask branch must learn"
    assert all(n.startswith(("roi_heads.mask_head.", "roi_heads.weight_transfer.")) for n in moved)
    # Every parameter of the mask branch takes part.
    trainable = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert set(moved) == trainable


def test_frozen_parts_stay_in_eval_and_give_no_losses(tiny_shapes: Path, tmp_path: Path) -> None:
    trainer = Trainer(shapes_config("maskx", tmp_path))
    model = copy.deepcopy(trainer.model)  # the behaviour must survive a copy
    model.train()
    batch = next(iter(trainer.data_loader))
    with EventStorage(0):
        losses = model(batch)
    assert set(losses) == {"loss_mask"}
    assert model.training and model.roi_heads.training and model.roi_heads.mask_head.training
    for part in (model.backbone, model.proposal_generator, model.roi_heads.box_head):
        assert not any(m.training for m in part.modules())
    losses["loss_mask"].backward()
    assert all(
        p.grad is None
        for n, p in model.named_parameters()
        if "mask" not in n and "weight_transfer" not in n
    )


def test_freezing_needs_a_mask_branch(tiny_shapes: Path, tmp_path: Path) -> None:
    model = Trainer.build_model(shapes_config("detector", tmp_path))
    with pytest.raises(ValueError, match="no mask branch"):
        freeze_detector(model)


def test_a_data_set_without_any_usable_mask_trains_boxes(
    tiny_shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = write_variant(tmp_path, "no_masks", lambda a: a.pop("segmentation"))
    cfg = shapes_config(
        "maskx", tmp_path, "MODEL.FREEZE_DETECTOR", False, "DATASETS.TRAIN", (dataset,)
    )
    caplog.set_level(logging.INFO, logger="seg_every_thing")
    trainer = Trainer(cfg)
    unregister(dataset)
    assert "No object gives a mask" in caplog.text
    before = snapshot(trainer.model)
    trainer.train()
    moved = changed(before, trainer.model)
    assert "roi_heads.box_predictor.cls_score.weight" in moved
    # Without a loss only weight decay moves the mask branch: it never touches biases here.
    assert not [n for n in moved if "mask_head" in n and n.endswith(".bias")]


def test_an_image_without_any_object_trains(tiny_shapes: Path, tmp_path: Path) -> None:
    cfg = shapes_config("maskx", tmp_path, "MODEL.FREEZE_DETECTOR", False)
    trainer = Trainer(cfg)
    batch = next(iter(trainer.data_loader))
    for sample in batch:
        sample["instances"] = sample["instances"][:0]
        for field in ("gt_masks", "gt_has_mask"):
            sample["instances"].remove(field)
    with EventStorage(0):
        losses = trainer.model(batch)
    sum(losses.values()).backward()
    assert losses["loss_mask"].item() == 0
    assert torch.isfinite(sum(losses.values()))
    for name, parameter in trainer.model.named_parameters():
        if "mask_head" in name or "weight_transfer" in name:
            assert parameter.grad is not None and not parameter.grad.any(), name


@each_way
def test_training_resumes_where_it_stopped(
    way: Tuple[Any, ...], tiny_shapes: Path, tmp_path: Path
) -> None:
    options = ("SOLVER.CHECKPOINT_PERIOD", 2, *way)
    trainer = Trainer(shapes_config("maskx", tmp_path, *options))
    trainer.train()
    again = Trainer(shapes_config("maskx", tmp_path, *options, "SOLVER.MAX_ITER", 5))
    again.resume_or_load(resume=True)
    assert again.start_iter == 3
    assert changed(snapshot(trainer.model), again.model) == []
    again.train()
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_metrics_for_people_and_programs(tiny_shapes: Path, tmp_path: Path) -> None:
    options = ("SOLVER.MAX_ITER", 20, "TEST.EVAL_PERIOD", 20, "MODEL.FREEZE_DETECTOR", False)
    cfg = shapes_config("maskx", tmp_path, *options)
    Trainer(cfg).train()
    lines = (tmp_path / "metrics.json").read_text().splitlines()
    written = set().union(*(json.loads(line) for line in lines))
    assert {"loss_mask", "loss_cls", "lr", "segm/AP_A", "segm/AP_B", "bbox/AP"} <= written
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_solver_treats_biases_as_the_original(tiny_shapes: Path, tmp_path: Path) -> None:
    trainer = Trainer(shapes_config("maskx", tmp_path, "MODEL.FREEZE_DETECTOR", False))
    biases = {p for n, p in trainer.model.named_parameters() if n.endswith(".bias")}
    norms = {
        p
        for m in trainer.model.modules()
        if isinstance(m, torch.nn.BatchNorm2d)
        for p in m.parameters()
    }
    checked = 0
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            if parameter in biases - norms:
                assert group["weight_decay"] == 0
                assert group["lr"] == 2 * trainer.cfg.SOLVER.BASE_LR
                checked += 1
    assert checked >= 10


def test_optimizer_and_schedule_of_the_config(tiny_shapes: Path, tmp_path: Path) -> None:
    options = ("SOLVER.OPTIMIZER", "Adam", "SOLVER.LR_SCHEDULER_NAME", "EpochExponentialLR")
    trainer = Trainer(shapes_config("maskx", tmp_path, *options))
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    assert isinstance(trainer.scheduler, torch.optim.lr_scheduler.LambdaLR)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"\x80\x02garbage"])
def test_broken_checkpoint_is_named(tiny_shapes: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.pth"
    path.write_bytes(content)
    trainer = Trainer(shapes_config("maskx", tmp_path, "MODEL.WEIGHTS", str(path)))
    with pytest.raises(ValueError, match="broken.pth"):
        trainer.resume_or_load(resume=False)


def test_reading_a_good_checkpoint_raises_nothing() -> None:
    with readable_checkpoint("fine.pth"):
        value = 1
    assert value == 1
