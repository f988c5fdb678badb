"""SemanticTrainer: trains, evaluates, stops early, chains stages, and refuses what cannot fit."""

import json
from pathlib import Path
from typing import Any, List

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from helpers import changed, snapshot
from tiramisu_helpers import (  # noqa: F401
    HEIGHT,
    TINY_NET,
    TIRAMISU,
    WIDTH,
    camvid,
    tiramisu_config,
)

from seg_every_thing import Trainer
from seg_every_thing.engine.semantic_trainer import SemanticTrainer, check_labels_fit, trainer_class
from seg_every_thing.evaluation.semantic import FourMetricEvaluator
from seg_every_thing.modeling.semantic.batch_statistics import SwitchableBatchNorm2d

pytestmark = pytest.mark.usefixtures("camvid")


def tiny(output: Path, *opts: Any, name: str = "fc_densenet56_camvid") -> Any:
    small = [
        *("INPUT.CROP.SIZE", (24, 24)),
        *("SOLVER.IMS_PER_BATCH", 2),
        *("SOLVER.MAX_ITER", 4),
        *("TEST.EVAL_PERIOD", 2),
        *("TEST.IMS_PER_BATCH", 2),
        *("OUTPUT_DIR", str(output)),
    ]
    return tiramisu_config(name, *TINY_NET, *small, *opts)


def trained(cfg: Any) -> SemanticTrainer:
    trainer = SemanticTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer


def test_stages_chain(tmp_path: Path) -> None:
    first = trained(tiny(tmp_path / "one"))
    metrics = tmp_path / "one" / "inference" / "camvid_val" / "metrics.json"
    assert {"sem_seg/mIoU", "sem_seg/mean_IU", "sem_seg/global_acc"} <= json.loads(
        metrics.read_text()
    ).keys()
    assert (tmp_path / "one" / "model_final.pth").is_file()
    best = tmp_path / "one" / "model_best.pth"

    cfg = tiny(
        tmp_path / "two",
        *("MODEL.WEIGHTS", str(best)),
        name="fc_densenet56_camvid_finetune",
    )
    second = SemanticTrainer(cfg)
    second.resume_or_load(resume=False)
    saved = torch.load(best, map_location="cpu")["model"]
    loaded = second.model.state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in saved.items())
    assert second.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    batch = next(iter(second.build_train_loader(cfg)))
    assert batch[0]["image"].shape == (3, HEIGHT, WIDTH)  # whole images now
    before = snapshot(second.model)
    second.train()
    assert changed(before, second.model)
    assert first.model.backbone.skips


def test_early_stop_leaves_a_final_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores: List[float] = [3, 2, 1, 0, 0]
    monkeypatch.setattr(
        FourMetricEvaluator, "evaluate", lambda self: {"sem_seg": {"mIoU": scores.pop(0)}}
    )
    cfg = tiny(tmp_path, "SOLVER.MAX_ITER", 10, "TEST.EARLY_STOPPING.PATIENCE", 2)
    trainer = trained(cfg)
    assert trainer.iter == 5  # the third evaluation comes after iterations 0 to 5
    final = torch.load(tmp_path / "model_final.pth", map_location="cpu")
    best = torch.load(tmp_path / "model_best.pth", map_location="cpu")
    assert (final["iteration"], best["iteration"]) == (5, 1)
    assert final["trainer"]["hooks"]["EarlyStopping"] == {
        "best": 3,
        "evaluations_since_best": 2,
        "metric": "sem_seg/mIoU",
    }


def test_a_checkpoint_knows_the_evaluation_of_its_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores: List[float] = [3, 2, 1]
    monkeypatch.setattr(
        FourMetricEvaluator, "evaluate", lambda self: {"sem_seg": {"mIoU": scores.pop(0)}}
    )
    options = ("SOLVER.MAX_ITER", 6, "SOLVER.CHECKPOINT_PERIOD", 2, "TEST.EARLY_STOPPING.PATIENCE")
    trained(tiny(tmp_path, *options, 5))
    for name, since in (("model_0000001", 0), ("model_0000003", 1)):
        state = torch.load(tmp_path / f"{name}.pth", map_location="cpu")["trainer"]["hooks"]
        metric = {"metric": "sem_seg/mIoU"}
        assert state["EarlyStopping"] == {"best": 3, "evaluations_since_best": since, **metric}
        best = {"best_metric": 3, "best_iter": 1}
        assert state["ResumableBestCheckpointer"] == {**best, **metric}
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_patience_without_evaluation(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="TEST.EVAL_PERIOD"):
        SemanticTrainer(tiny(tmp_path, "TEST.EVAL_PERIOD", 0))


def test_test_batches_and_statistics(tmp_path: Path) -> None:
    cfg = tiny(tmp_path)
    loader = SemanticTrainer.build_test_loader(cfg, "camvid_val")
    assert [len(batch) for batch in loader] == [2, 1]
    for statistics in ("batch", "running"):
        cfg.MODEL.FC_DENSENET.BN_STATS = statistics
        model = SemanticTrainer.build_model(cfg).eval()
        norms = [m for m in model.modules() if isinstance(m, SwitchableBatchNorm2d)]
        assert norms and {m.statistics for m in norms} == {statistics}
        batch = next(iter(loader))
        with torch.no_grad():
            together, alone = model(batch)[0]["sem_seg"], model(batch[:1])[0]["sem_seg"]
        assert torch.allclose(together, alone, atol=1e-5) == (statistics == "running")


def test_which_trainer() -> None:
    cfg = tiramisu_config("fc_densenet56_camvid")
    assert trainer_class(cfg) is SemanticTrainer
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    assert trainer_class(cfg) is Trainer
    cfg.MODEL.META_ARCHITECTURE = "PanopticFPN"
    assert trainer_class(cfg) is Trainer
    cfg.MODEL.META_ARCHITECTURE = "Segmenter"
    with pytest.raises(ValueError, match="MODEL.META_ARCHITECTURE: .*Segmenter"):
        trainer_class(cfg)


def test_what_does_not_fit() -> None:
    cfg = tiramisu_config("fc_densenet56_camvid")
    check_labels_fit(cfg, "camvid_train")
    with pytest.raises(ValueError, match="camvid_trian.*did you mean 'camvid_train'"):
        check_labels_fit(cfg, "camvid_trian")
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 12
    with pytest.raises(ValueError, match="NUM_CLASSES is 12, .*'camvid_train' needs 11"):
        check_labels_fit(cfg, "camvid_train")
    cfg.merge_from_list(["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 11])
    cfg.merge_from_list(["MODEL.SEM_SEG_HEAD.IGNORE_VALUE", 255])
    with pytest.raises(ValueError, match="IGNORE_VALUE is 255, .*needs 11"):
        check_labels_fit(cfg, "camvid_train")
    DatasetCatalog.register("boxes", lambda: [])
    MetadataCatalog.get("boxes").set(evaluator_type="coco")
    with pytest.raises(ValueError, match="'boxes' has no semantic labels"):
        check_labels_fit(cfg, "boxes")
    DatasetCatalog.remove("boxes")
    MetadataCatalog.remove("boxes")


LEAVES = sorted(p.stem for p in TIRAMISU.glob("*.yaml") if not p.name.startswith("Base"))


def test_there_are_configs() -> None:
    both = {f"fc_densenet{n}_camvid{s}" for n in (56, 67, 103) for s in ("", "_finetune")}
    variants = ("", "_no_skips", "_larger", "_one_pooling")
    small = {f"small_{data}_fcdn{v}" for data in ("camvid", "shapes") for v in variants}
    assert both | small | {"camvid_half_hour_fc_densenet"} == set(LEAVES)


@pytest.mark.parametrize("name", LEAVES)
def test_every_config_trains_a_step(name: str, tmp_path: Path) -> None:
    """The whole network of the config; images of 40x52, so that the largest one stays quick."""
    cfg = tiramisu_config(
        name,
        *("MODEL.WEIGHTS", ""),
        *("SOLVER.IMS_PER_BATCH", 2),
        *("DATALOADER.NUM_WORKERS", 0),
        *("INPUT.CROP.SIZE", (32, 32)),
        *("OUTPUT_DIR", str(tmp_path)),
    )
    if cfg.INPUT.MIN_SIZE_TRAIN != (0,):
        cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    if "shapes" in name:  # the same network, on what there is
        cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("camvid_train",)
        cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE = 11, 11
    trainer = SemanticTrainer(cfg)
    before = snapshot(trainer.model)
    batch = next(iter(trainer.build_train_loader(cfg)))
    losses = trainer.model.train()(batch)
    losses["loss_sem_seg"].backward()
    assert torch.isfinite(losses["loss_sem_seg"])
    trainer.optimizer.step()
    learned = {n for n, _ in trainer.model.named_parameters()}
    assert learned <= set(changed(before, trainer.model))


def test_sizes_of_the_small_networks() -> None:
    sizes = {  # as docs/FC_DENSENET.md says
        "small_camvid_fcdn": 83_499,
        "small_camvid_fcdn_no_skips": 58_195,
        "small_camvid_fcdn_larger": 329_951,
        "camvid_half_hour_fc_densenet": 663_987,
    }
    for name, size in sizes.items():
        assert sum(p.numel() for p in build_model(tiramisu_config(name)).parameters()) == size


@pytest.mark.parametrize("variant", [56, 67, 103])
def test_fine_tuning_reads_what_the_first_stage_writes(variant: int) -> None:
    first = tiramisu_config(f"fc_densenet{variant}_camvid")
    second = tiramisu_config(f"fc_densenet{variant}_camvid_finetune")
    assert Path(second.MODEL.WEIGHTS) == Path(first.OUTPUT_DIR, "model_best.pth")
    assert second.MODEL.FC_DENSENET == first.MODEL.FC_DENSENET
    assert first.INPUT.CROP.ENABLED and not second.INPUT.CROP.ENABLED
    assert (first.SOLVER.BASE_LR, second.SOLVER.BASE_LR) == (1e-3, 1e-4)
