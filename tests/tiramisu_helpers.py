"""Configs and small data sets for the tests of FC-DenseNet and the semantic data sets."""

import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import pytest
from conftest import unregister
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from helpers import CONFIGS
from PIL import Image

from seg_every_thing import add_seg_every_thing_config
from seg_every_thing.config_semantic import add_tiramisu_config
from seg_every_thing.data.datasets.camvid import register_camvid

TIRAMISU = CONFIGS / "semantic" / "tiramisu"
HEIGHT, WIDTH = 40, 52
SEMANTIC_NAMES = ("camvid_", "voc_2011", "sbd_", "shapes_sem", "shapes_hue_sem", "_sem_seg")

# A network of two poolings that trains a step in milliseconds.
TINY_NET: List[Any] = [
    *("MODEL.FC_DENSENET.DOWN", (1, 2)),
    *("MODEL.FC_DENSENET.BOTTLENECK", 2),
    *("MODEL.FC_DENSENET.UP", (2, 1)),
    *("MODEL.FC_DENSENET.GROWTH_RATE", 3),
    *("MODEL.FC_DENSENET.STEM_CHANNELS", 5),
    *("DATALOADER.NUM_WORKERS", 0),
    *("MODEL.DEVICE", "cpu"),
    *("SEED", 3),
]


def tiramisu_config(name: str, *opts: Any) -> CfgNode:
    """A config of configs/semantic/tiramisu on the CPU."""
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    add_tiramisu_config(cfg)
    cfg.merge_from_file(str(TIRAMISU / f"{name}.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *opts])
    return cfg


def write_pair(
    image: Path, label: Path, seed: int, size: Tuple[int, int] = (HEIGHT, WIDTH)
) -> None:
    """An image whose grey value tells the class, and its label with classes 0 to 10 and void 11."""
    rng = np.random.default_rng(seed)
    classes = np.sort(rng.integers(0, 12, size[1])).astype(np.uint8)
    labels = np.repeat(classes[None], size[0], axis=0)
    for path, pixels in ((image, np.stack([labels * 20] * 3, -1)), (label, labels)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def unregister_semantic() -> None:
    for name in DatasetCatalog.list():
        if any(part in name for part in SEMANTIC_NAMES):
            unregister(name)


@pytest.fixture
def camvid(tmp_path: Path) -> Iterator[Path]:
    """``camvid_train`` (4 images) and ``camvid_val`` (3) registered; the folder of CamVid."""
    folder = tmp_path / "camvid"
    for split, count in (("train", 4), ("val", 3)):
        for i in range(count):
            name = f"frame_{i}.png"
            write_pair(folder / split / name, folder / f"{split}annot" / name, i)
    register_camvid(tmp_path)
    yield folder
    unregister_semantic()


@pytest.fixture
def clean_catalog() -> Iterator[None]:
    """The semantic data sets are gone from detectron2's catalogs afterwards."""
    yield
    unregister_semantic()


def real_data(*parts: str) -> Path:
    """The data set root, when it has a certain file; else the test is skipped."""
    root = Path(os.getenv("DETECTRON2_DATASETS", "datasets"))
    if not root.joinpath(*parts).exists():
        pytest.skip(f"needs real data: set DETECTRON2_DATASETS to a folder with {'/'.join(parts)}")
    return root


def palette_png(path: Path, label: np.ndarray, palette: List[Tuple[int, int, int]]) -> None:
    """Write indices as a picture with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label, mode="P")
    picture.putpalette([channel for color in palette for channel in color])
    picture.save(path)


def flat(results: Dict[str, Dict[str, float]]) -> Dict[str, float]:
    return {f"{task}/{k}": v for task, metrics in results.items() for k, v in metrics.items()}
