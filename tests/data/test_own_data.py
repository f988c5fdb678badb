"""A data set of one's own, some objects without a mask, under a stock detectron2 config."""

import copy
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.utils.events import EventStorage
from helpers import detectron2_config_file

from seg_every_thing import Trainer, add_seg_every_thing_config

TWO_LINES = [
    *("MODEL.ROI_HEADS.NAME", "PartiallySupervisedROIHeads"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskXHead"),
]


def stock_config(dataset: str, output: Path, *opts: Any) -> Any:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    stock = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
    cfg.merge_from_file(detectron2_config_file(stock))
    cfg.merge_from_list(
        [
            # What any data set of one's own needs, and sizes for a small machine.
            *("DATASETS.TRAIN", (dataset,), "DATASETS.TEST", (), "MODEL.ROI_HEADS.NUM_CLASSES", 3),
            *("MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "OUTPUT_DIR", str(output)),
            *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 2, "DATALOADER.NUM_WORKERS", 0),
            *("INPUT.MIN_SIZE_TRAIN", (64,), "SOLVER.BASE_LR", 0.0001, *opts),
        ]
    )
    return cfg


@pytest.fixture
def mixed_order(make_dataset: Any, mixed_objects: Dict[str, Any]) -> str:
    """Two images; in one the first object lacks a mask, in the other the last one does."""
    masked: List[Any] = [mixed_objects["polygon"], {**mixed_objects["polygon"], "category_id": 3}]
    masked[1]["bbox"] = [34, 6, 22, 24]
    masked[1]["segmentation"] = [[34, 6, 56, 6, 56, 30, 34, 30]]
    box_only = mixed_objects["absent"]
    return make_dataset([[box_only, *masked], [*masked, box_only]])


def test_stock_config_and_two_lines_train_on_it(mixed_order: str, tmp_path: Path) -> None:
    trainer = Trainer(stock_config(mixed_order, tmp_path, *TWO_LINES))
    batch = next(iter(trainer.data_loader))
    for sample in batch:
        assert len(sample["instances"]) == 3
        assert sample["instances"].gt_has_mask.sum() == 2
    with EventStorage(0):
        losses = trainer.model(batch)
    assert losses["loss_mask"] > 0 and losses["loss_cls"] > 0
    trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_stock_detectron2_loses_the_masks_or_fails(mixed_order: str, tmp_path: Path) -> None:
    mapper = DatasetMapper(stock_config(mixed_order, tmp_path), is_train=True)
    box_first, box_last = copy.deepcopy(DatasetCatalog.get(mixed_order))
    assert not mapper(box_first)["instances"].has("gt_masks")
    with pytest.raises(KeyError, match="segmentation"):
        mapper(box_last)
