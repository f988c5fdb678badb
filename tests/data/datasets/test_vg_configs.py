"""configs/visual_genome: what they say, and stage two on real photographs with COCO's masks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import unregister
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from helpers import CONFIGS, changed, snapshot

from seg_every_thing import PartialCOCOEvaluator, Trainer, resolve_class_split
from seg_every_thing.benchmarks.visual_genome import write_vg_like_files
from seg_every_thing.config import load_config
from seg_every_thing.data.datasets.visual_genome import (
    VISUAL_GENOME_DATA_SETS,
    register_used_visual_genome,
    register_visual_genome,
)
from seg_every_thing.data.prepare.align import align
from seg_every_thing.data.prepare.vg_prepare import prepare_visual_genome

FOLDER = CONFIGS / "visual_genome"
NUM_CLASSES = 3001
IMAGES = 6


@pytest.mark.parametrize("depth", [50, 101])
def test_two_stages_fit_together(depth: int) -> None:
    one = load_config(str(FOLDER / f"stage_one_R_{depth}_FPN.yaml"))
    two = load_config(str(FOLDER / f"stage_two_R_{depth}_FPN.yaml"))
    for cfg in (one, two):
        assert depth == cfg.MODEL.RESNETS.DEPTH
        assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == NUM_CLASSES
        assert cfg.DATASETS.MASK_CLASSES == "all" and cfg.TEST.CLASS_SPLIT == ""
    assert one.MODEL.WEIGHTS.endswith(f"R-{depth}.pkl") and two.MODEL.WEIGHTS == ""
    assert not one.MODEL.MASK_ON and not one.MODEL.FREEZE_DETECTOR
    assert two.MODEL.MASK_ON and two.MODEL.FREEZE_DETECTOR
    assert one.DATASETS.TRAIN == ("vg3k_train",)
    assert two.DATASETS.TRAIN == ("coco_2017_train_vg3k",)
    assert not two.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    # As in the original: stage two of R-50 has 16 images a batch, all others 8.
    schedules = {8: (0.01, (120000, 160000), 180000), 16: (0.02, (60000, 80000), 90000)}
    for cfg, batch in ((one, 8), (two, 16 if depth == 50 else 8)):
        assert batch == cfg.SOLVER.IMS_PER_BATCH
        found = (cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER)
        assert found == schedules[batch]
    assert two.MODEL.WEIGHT_TRANSFER.INPUT == "cls+box" and two.MODEL.ROI_MASK_HEAD.MLP.ENABLED


def test_used_data_sets_are_registered_and_others_left_alone() -> None:
    for name in VISUAL_GENOME_DATA_SETS:
        unregister(name)
    try:
        register_used_visual_genome(load_config(str(CONFIGS / "coco" / "oracle_R_50_FPN_1x.yaml")))
        assert not VISUAL_GENOME_DATA_SETS.keys() & set(DatasetCatalog.list())
        register_used_visual_genome(load_config(str(FOLDER / "stage_one_R_50_FPN.yaml")))
        assert VISUAL_GENOME_DATA_SETS.keys() <= set(DatasetCatalog.list())
    finally:
        for name in VISUAL_GENOME_DATA_SETS:
            unregister(name)


@pytest.fixture
def coco_in_vg_labels(coco_root: Path, tmp_path: Path) -> Any:
    """Function that makes a data set root: so many classes, a few COCO images in their labels."""

    def make(num_classes: int) -> Path:
        annotations = tmp_path / "visual_genome" / "annotations"
        (tmp_path / "ids.txt").write_text("1\n")
        prepare_visual_genome(
            *write_vg_like_files(tmp_path, 20),
            annotations,
            synsets=[f"thing_{i}.n.{1 + i % 3:02d}" for i in range(num_classes - 80)],
            coco_annotations=tmp_path / "ids.txt",
            num_test=2,
        )
        (tmp_path / "coco").symlink_to((coco_root / "coco").resolve())
        for split in ("train", "val"):
            source = coco_root / "coco" / "annotations" / f"instances_{split}2017.json"
            content = json.loads(source.read_text())
            content["images"] = content["images"][:IMAGES]
            kept = {image["id"] for image in content["images"]}
            content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
            few = tmp_path / "few.json"
            few.write_text(json.dumps(content))
            output = annotations / f"instances_{split}2017_vg3k.json"
            align(few, annotations / "instances_vg3k_val.json", output, by="name")
        register_visual_genome(tmp_path)
        return tmp_path

    yield make
    for name in VISUAL_GENOME_DATA_SETS:
        unregister(name)


def small_stage_two(output: Path, *opts: Any) -> Any:
    return load_config(
        str(FOLDER / "stage_two_R_50_FPN.yaml"),
        [
            *("OUTPUT_DIR", str(output), "SEED", 1, "DATALOADER.NUM_WORKERS", 0),
            *("SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.REFERENCE_WORLD_SIZE", 0),
            *("SOLVER.BASE_LR", 1e-6),  # random features are huge
            *("INPUT.MIN_SIZE_TRAIN", (160,), "INPUT.MIN_SIZE_TEST", 160),
            *("MODEL.FPN.OUT_CHANNELS", 16, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
            *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
            *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 100, "MODEL.RPN.POST_NMS_TOPK_TEST", 20),
            *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, *opts),
        ],
    )


def test_stage_two_learns_masks_from_coco_for_all_classes(coco_in_vg_labels: Any) -> None:
    root = coco_in_vg_labels(NUM_CLASSES)
    trainer = Trainer(small_stage_two(root / "out", "DATASETS.TEST", ()))
    before = snapshot(trainer.model)
    trainer.train()
    moved = changed(before, trainer.model)
    mask_branch = ("roi_heads.mask_head.", "roi_heads.weight_transfer.")
    assert {name.startswith(mask_branch[0]) for name in moved} == {True, False}
    assert all(name.startswith(mask_branch) for name in moved), moved
    assert sum(not name.startswith(mask_branch) for name in before) > 200

    # COCO's masks carry Visual Genome's labels: its 80 classes first.
    dicts = DatasetCatalog.get("coco_2017_train_vg3k")
    labels = {a["category_id"] for d in dicts for a in d["annotations"]}
    assert labels and max(labels) < 80
    assert len(MetadataCatalog.get("coco_2017_train_vg3k").thing_classes) == NUM_CLASSES

    model = trainer.model.eval()
    with torch.no_grad():
        image = {"image": torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8)}
        detected = model([image])[0]["instances"]
        assert (detected.pred_classes >= 80).any()
        assert detected.pred_masks.shape == (len(detected), 96, 128)
        check_masks_of_any_class(model.roi_heads)


def check_masks_of_any_class(heads: Any) -> None:
    """The masks of three classes in one box are what the paper's formula says for them."""
    torch.manual_seed(0)
    sizes = {"p2": (24, 32), "p3": (12, 16), "p4": (6, 8), "p5": (3, 4)}
    features = {name: torch.randn(1, 16, *size) for name, size in sizes.items()}
    wanted = Instances((96, 128))
    wanted.pred_boxes = Boxes(torch.tensor([[10.0, 12, 90, 80]] * 3))
    wanted.pred_classes = torch.tensor([5, 500, NUM_CLASSES - 1])
    masks = heads.forward_with_given_boxes(features, [wanted])[0].pred_masks
    pooled = heads.mask_pooler(list(features.values()), [wanted.pred_boxes])
    trunk, predictor = heads.mask_head.trunk(pooled), heads.box_predictor
    for i, c in enumerate(wanted.pred_classes.tolist()):
        box_rows = predictor.bbox_pred.weight[4 * c : 4 * c + 4].flatten()
        kernel = heads.weight_transfer(torch.cat([predictor.cls_score.weight[c], box_rows])[None])
        logits = (trunk[i] * kernel.view(-1, 1, 1)).sum(0) + heads.mask_head.mlp(trunk[i : i + 1])
        torch.testing.assert_close(masks[i], logits[0].sigmoid())
    assert not torch.allclose(masks[1], masks[2], atol=1e-4)


def test_evaluation_in_visual_genomes_labels(coco_in_vg_labels: Any) -> None:
    root = coco_in_vg_labels(90)  # COCOeval takes long for 3001 classes
    cfg = small_stage_two(root / "out", "MODEL.ROI_HEADS.NUM_CLASSES", 90)
    results = Trainer.test(cfg, Trainer.build_model(cfg))
    assert 0 <= results["segm"]["AP"] <= 100 and 0 <= results["bbox"]["AP"] <= 100
    names = (root / "visual_genome" / "annotations" / "coco_classes.txt").read_text().splitlines()
    cfg.TEST.CLASS_SPLIT = str(root / "visual_genome" / "annotations" / "coco_classes.txt")
    evaluator = Trainer.build_evaluator(cfg, "coco_2017_val_vg3k")
    assert isinstance(evaluator, PartialCOCOEvaluator)
    assert names[0] == "person.n.01" and len(names) == 80
    split = resolve_class_split(
        cfg.TEST.CLASS_SPLIT, MetadataCatalog.get("coco_2017_val_vg3k").thing_classes
    )
    assert split.set_a == tuple(range(80)) and split.set_b == tuple(range(80, 90))
