"""Small models and comparisons that several test files use."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from detectron2.config import CfgNode
from torch import nn

from seg_every_thing.config import load_config

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

# Layers so small that a training step takes a tenth of a second.
TINY: List[Any] = [
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 4),
    *("MODEL.FPN.OUT_CHANNELS", 16),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", 32),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
    *("SOLVER.IMS_PER_BATCH", 2),
    *("SOLVER.MAX_ITER", 3),
    *("SOLVER.WARMUP_ITERS", 0),
    *("SEED", 1),
]


def shapes_config(name: str, output: Path, *opts: Any) -> CfgNode:
    """A config of configs/shapes with tiny layers; Shapes must be registered."""
    return load_config(
        str(CONFIGS / "shapes" / f"{name}.yaml"), [*TINY, "OUTPUT_DIR", str(output), *opts]
    )


def package_folders() -> List[str]:
    """Where packages are found, detectron2 among them: not Python's own, nor this checkout."""
    root, prefix = f"{CONFIGS.parent}{os.sep}", f"{sys.prefix}{os.sep}"
    own = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    own |= {os.path.join(folder, "lib-dynload") for folder in own}
    return [
        folder
        for folder in dict.fromkeys(map(os.path.realpath, filter(None, sys.path)))
        if os.path.isdir(folder)
        and folder not in set(map(os.path.realpath, own))
        and (not f"{folder}{os.sep}".startswith(root) or folder.startswith(prefix))
    ]


def run_in_foreign_project(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a Python script in a fresh interpreter and an empty folder, with our package in reach."""
    # What Python does not find by itself is on PYTHONPATH, or in a folder that a .pth file names.
    there = {os.path.realpath(sysconfig.get_path(key)) for key in ("purelib", "platlib")}
    folders = [str(CONFIGS.parent), *(f for f in package_folders() if f not in there)]
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={"PYTHONPATH": os.pathsep.join(folders), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def detectron2_config_file(name: str) -> str:
    """A config of detectron2's own zoo; the test is skipped where detectron2 has none."""
    zoo = pytest.importorskip("detectron2.model_zoo", reason="needs pkg_resources")
    try:
        return zoo.get_config_file(name)
    except RuntimeError:
        pytest.skip("detectron2 is not installed with the config files of its zoo")


def snapshot(model: nn.Module) -> Dict[str, torch.Tensor]:
    """A copy of every parameter and buffer."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: Dict[str, torch.Tensor], model: nn.Module) -> List[str]:
    """Names of the tensors that are not bit for bit what they were."""
    now = model.state_dict()
    assert before.keys() == now.keys()
    return [name for name, value in before.items() if not torch.equal(value, now[name])]


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie; by ``/proc``, so on Linux alone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
