"""FCN in a stock detectron2 trainer: it learns, stages chain, results come back."""

import json
from pathlib import Path
from typing import Any, Iterator

import cv2
import numpy as np
import pytest
import torch
from conftest import unregister
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import build_detection_train_loader as build_loader
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import SemSegEvaluator
from fcn_helpers import fcn_config

NAME = "test_colours_sem_seg"
VOID = 255


class StockTrainer(DefaultTrainer):
    """detectron2's trainer for semantic segmentation, as any project would write it."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        return build_loader(cfg, mapper=DatasetMapper(cfg, is_train=True, augmentations=[]))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, folder: Any = None) -> Any:
        return SemSegEvaluator(dataset_name, distributed=False, output_dir=cfg.OUTPUT_DIR)


@pytest.fixture
def colours(tmp_path: Path) -> Iterator[str]:
    """Six images of one bright and one dark half each, the class of a pixel being which."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(6):
        label = np.zeros((64, 72), np.uint8)
        edge = int(rng.integers(24, 48))
        label[:, edge:] = 1
        image = np.where(label[..., None] == 1, 200, 60) + rng.integers(-20, 20, (64, 72, 3))
        label[:, edge - 1 : edge + 1] = VOID
        files = {"file_name": f"{i}.png", "sem_seg_file_name": f"{i}_label.png"}
        record = {key: str(tmp_path / name) for key, name in files.items()}
        cv2.imwrite(record["file_name"], image.astype(np.uint8))
        cv2.imwrite(record["sem_seg_file_name"], label)
        records.append({**record, "height": 64, "width": 72, "image_id": i})
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(
        stuff_classes=["dark", "bright"], ignore_label=VOID, evaluator_type="sem_seg"
    )
    yield NAME
    unregister(NAME)


def config(output: Path, stride: int, iterations: int) -> CfgNode:
    cfg = fcn_config(stride, 2)
    cfg.MODEL.PIXEL_STD = [60.0, 60.0, 60.0]
    cfg.MODEL.VGG.NUM_CONVS, cfg.MODEL.VGG.CHANNELS = (1, 1, 1, 1, 1), (8, 8, 8, 16, 16)
    cfg.MODEL.VGG.FC_DIM, cfg.MODEL.VGG.FC6_KERNEL = 16, 3
    cfg.MODEL.VGG.NORM = "BN"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (NAME,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.SOLVER.IMS_PER_BATCH = 3
    cfg.SOLVER.BASE_LR = 0.05
    cfg.SOLVER.WARMUP_ITERS = 0
    cfg.SOLVER.MAX_ITER = iterations
    cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(output)
    output.mkdir()
    return cfg


def test_learns_stage_by_stage(colours: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = StockTrainer(config(tmp_path / "32s", 32, 60))
    first.train()
    trained = StockTrainer.test(first.cfg, first.model)["sem_seg"]["pACC"]
    assert trained > 85
    lines = (tmp_path / "32s" / "metrics.json").read_text().splitlines()
    losses = [x["total_loss"] for x in map(json.loads, lines) if "total_loss" in x]
    assert losses[-1] < 0.4  # zero scores begin at ln 2 = 0.69

    cfg = config(tmp_path / "16s", 16, 10)
    cfg.SOLVER.BASE_LR /= 100
    cfg.MODEL.WEIGHTS = str(tmp_path / "32s" / "model_final.pth")
    second = StockTrainer(cfg)
    second.resume_or_load(resume=False)
    before = first.model.state_dict()
    for name, value in second.model.state_dict().items():
        if name in before:
            assert torch.equal(value, before[name]), name
    at_start = StockTrainer.test(cfg, second.model)["sem_seg"]["pACC"]
    # A skip of zero weights, and 32x as 2x and 16x, change few pixels.
    assert abs(at_start - trained) < 3
    second.train()
    assert StockTrainer.test(cfg, second.model)["sem_seg"]["pACC"] > 85
    assert second.model.sem_seg_head.score["pool4"].weight.abs().max() > 0
