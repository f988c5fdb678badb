"""Importing the package into a foreign script adds the heads and changes nothing else."""

from pathlib import Path

from helpers import run_in_foreign_project

SCRIPT = """
import importlib, logging, random, warnings
import numpy, torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY
from detectron2.modeling import ROI_HEADS_REGISTRY, ROI_MASK_HEAD_REGISTRY

def state():
    loggers = {n: (l.level, list(l.handlers), l.propagate)
               for n, l in logging.root.manager.loggerDict.items()
               if isinstance(l, logging.Logger) and n.split(".")[0] in ("detectron2", "fvcore")}
    return {
        "config": get_cfg().dump(),
        "datasets": sorted(DatasetCatalog.list()),
        "metadata": sorted(MetadataCatalog.list()),
        "root": (logging.root.level, list(logging.root.handlers)),
        "loggers": {n: v for n, v in loggers.items() if v != (0, [], True)},
        "warnings": list(warnings.filters),
        "numpy": numpy.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "random": random.getstate(),
        "threads": torch.get_num_threads(),
    }

def registered():
    return {n for registry in (BACKBONE_REGISTRY, META_ARCH_REGISTRY) for n, _ in registry}

before, components = state(), registered()
import seg_every_thing
after = state()
for key in before:
    assert before[key] == after[key], key
assert registered() - components == {
    "build_timm_backbone", "build_timm_fpn_backbone", "build_fc_densenet_backbone",
    "build_vgg16_fcn_backbone", "DenseSemanticSegmentor", "BoxToMask",
}
assert "PartiallySupervisedROIHeads" in ROI_HEADS_REGISTRY
assert "MaskXHead" in ROI_MASK_HEAD_REGISTRY
for name in seg_every_thing.__all__:
    assert getattr(seg_every_thing, name) is not None

import seg_every_thing as again
assert again is seg_every_thing
seg_every_thing.add_seg_every_thing_config(get_cfg())
assert "timm" not in __import__("sys").modules
print("unchanged")
"""


def test_import_changes_nothing_else(tmp_path: Path) -> None:
    done = run_in_foreign_project(SCRIPT, tmp_path)
    assert done.stdout.strip() == "unchanged", done.stderr[-2000:]
    assert not list(tmp_path.iterdir())
