"""Training on cached features is training, only faster."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, List

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.structures import ImageList
from detectron2.utils.env import seed_all_rng
from full_disk import full_disk
from helpers import shapes_config

from seg_every_thing import Trainer
from seg_every_thing.study.running.feature_cache import (
    CachedFeaturesModel,
    FeatureCache,
    image_key,
    write_feature_cache,
)
from seg_every_thing.study.running.stages import cache_features, features_complete

STEPS = 50


def losses(tmp_path: Path, weights: Path, cache: Path = None, opts: Any = ()) -> List[float]:
    cfg = shapes_config(
        "maskx",
        tmp_path,
        "MODEL.WEIGHTS",
        str(weights),
        "SOLVER.MAX_ITER",
        STEPS,
        "DATASETS.TEST",
        (),
        *opts,
    )
    seed_all_rng(5)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    if cache is not None:
        caches = (FeatureCache(cache / part) for part in ("train", "test"))
        trainer.model = CachedFeaturesModel(trainer.model, *caches).train()
        # What is cached must not run again.
        trainer.model.model.backbone.forward = None
        if trainer.model.model.proposal_generator is not None:
            trainer.model.model.proposal_generator.forward = None
    seed_all_rng(6)
    values = []
    run_step = trainer._trainer._write_metrics
    trainer._trainer._write_metrics = lambda d, *args, **kwargs: (
        values.append(float(sum(d.values()))),
        run_step(d, *args, **kwargs),
    )
    trainer.train()
    return values


@pytest.fixture
def detector(tiny_shapes: Path, tmp_path: Path) -> Path:
    trainer = Trainer(shapes_config("detector", tmp_path / "detector", "SOLVER.MAX_ITER", 1))
    trainer.train()
    return tmp_path / "detector" / "model_final.pth"


def test_cached_features_give_the_same_losses(detector: Path, tmp_path: Path) -> None:
    cfg = shapes_config("maskx", tmp_path / "row", "MODEL.WEIGHTS", str(detector))
    cache_features(cfg, tmp_path / "cache")
    assert len(FeatureCache(tmp_path / "cache" / "train")) == 12
    plain = losses(tmp_path / "plain", detector)
    cached = losses(tmp_path / "cached", detector, tmp_path / "cache")
    assert len(plain) == STEPS and plain[-1] < plain[0]
    torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-5)


MASK = "MODEL.ROI_MASK_HEAD."
BOX_LOSSES = (
    *(MASK + "BOX_LOSS.ENABLED", True, MASK + "BOX_SCALE", 1.25, MASK + "TRAIN_ON", "gt_boxes"),
    *(MASK + "BOX_JITTER", 0.05, MASK + "LOSS", "bce+dice", MASK + "BOX_LOSS.CRF_WEIGHT", 0.5),
)
BOX_TO_MASK = (
    *("MODEL.META_ARCHITECTURE", "BoxToMask", MASK + "PREDICTOR", "class_agnostic"),
    *BOX_LOSSES,
)


@pytest.mark.parametrize("opts", [BOX_LOSSES, BOX_TO_MASK], ids=["detector", "BoxToMask"])
def test_box_losses_and_given_boxes_on_cached_features(
    detector: Path, tmp_path: Path, opts: Any
) -> None:
    opts = (*opts, "SOLVER.MAX_ITER", 6)
    weights = ("MODEL.WEIGHTS", str(detector))
    cfg = shapes_config("maskx", tmp_path / "row", *weights, *opts, "TEST.GIVEN_BOXES", True)
    cache_features(cfg, tmp_path / "cache")
    plain = losses(tmp_path / "plain", detector, opts=opts)
    cached = losses(tmp_path / "cached", detector, tmp_path / "cache", opts=opts)
    torch.testing.assert_close(cached, plain, rtol=1e-4, atol=1e-5)

    model = Trainer.build_model(cfg).eval()
    DetectionCheckpointer(model).load(str(detector))
    caches = (FeatureCache(tmp_path / "cache" / part) for part in ("train", "test"))
    results = Trainer.test(cfg, model)
    assert set(results["given"]) >= {"mIoU", "mIoU_A", "mIoU_B", "boundary_IoU"}
    assert ("segm" in results) == (opts[:2] != BOX_TO_MASK[:2])
    model.backbone.forward = None
    again = Trainer.test(cfg, CachedFeaturesModel(model, *caches).eval())
    for name, value in results["given"].items():
        assert again["given"][name] == pytest.approx(value, abs=0.1), name


def test_cached_detections_give_the_same_masks(detector: Path, tmp_path: Path) -> None:
    opts = ("MODEL.WEIGHTS", str(detector), "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    cfg = shapes_config("maskx", tmp_path / "row", *opts)
    cache_features(cfg, tmp_path / "cache")
    model = Trainer.build_model(cfg).eval()
    DetectionCheckpointer(model).load(str(detector))
    caches = (FeatureCache(tmp_path / "cache" / part) for part in ("train", "test"))
    cached = CachedFeaturesModel(model, *caches).eval()
    (batch,) = list(Trainer.build_test_loader(cfg, "shapes_val"))[2:3]
    with torch.no_grad():
        (plain,) = model(batch)
        model.backbone.forward = model.proposal_generator.forward = None
        (fast,) = cached(batch)
    assert len(plain["instances"]) > 0
    for field in ("pred_classes", "pred_masks", "scores"):
        torch.testing.assert_close(fast["instances"].get(field), plain["instances"].get(field))
    boxes = [x["instances"].pred_boxes.tensor for x in (fast, plain)]
    torch.testing.assert_close(*boxes)


def test_an_image_that_is_not_cached_is_named(detector: Path, tmp_path: Path) -> None:
    cfg = shapes_config("maskx", tmp_path / "row", "MODEL.WEIGHTS", str(detector))
    cache_features(cfg, tmp_path / "cache")
    caches = (FeatureCache(tmp_path / "cache" / part) for part in ("train", "test"))
    model = CachedFeaturesModel(Trainer.build_model(cfg), *caches)
    trainer_data = Trainer.build_train_loader(
        shapes_config("maskx", tmp_path, "INPUT.MIN_SIZE_TRAIN", (96,))
    )
    with pytest.raises(KeyError, match="does not hold the image .*png"):
        model.train()(next(iter(trainer_data)))


def test_a_full_disk_leaves_no_half_of_a_cache(detector: Path, tmp_path: Path) -> None:
    cfg = shapes_config("maskx", tmp_path / "row", "MODEL.WEIGHTS", str(detector))
    cache_features(cfg, tmp_path / "whole")
    features = sum(f.stat().st_size for f in (tmp_path / "whole" / "train").glob("*.f32"))
    cache = tmp_path / "cache"
    for room, file in ((1000, r"p\d\.f32"), (features + 10, r"proposal_boxes\.npy")):
        message = rf"cannot write '.*{file}': No space left on device"
        with full_disk(room), pytest.raises(OSError, match=message):
            cache_features(cfg, cache)
        assert not [f for f in cache.rglob("*") if f.is_file()] and not features_complete(cache)


def test_an_incomplete_cache_is_refused(tmp_path: Path) -> None:
    assert not FeatureCache.is_complete(tmp_path)
    with pytest.raises(ValueError, match="index.json"):
        FeatureCache(tmp_path)


def test_images_of_several_sizes_are_padded_to_the_largest(tmp_path: Path) -> None:
    class Body(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return {"p2": x[:, :1, ::4, ::4], "p3": x[:, :, ::8, ::8]}

    heads = SimpleNamespace(box_in_features=[], mask_in_features=["p2", "p3"])

    class Model(torch.nn.Module):
        proposal_generator = None
        roi_heads = heads
        backbone = Body()

        def preprocess_image(self, batch: Any) -> ImageList:
            return ImageList.from_tensors([x["image"] for x in batch])

    sizes = [(16, 24), (24, 16), (16, 24)]
    samples = [{"image": torch.rand(3, *size)} for size in sizes]
    write_feature_cache(Model(), samples, tmp_path / "cache")
    images = ImageList.from_tensors([x["image"] for x in samples[:2]])
    features, instances = FeatureCache(tmp_path / "cache").lookup(samples[:2], images)
    assert features["p2"].shape == (2, 1, 6, 6) and features["p3"].shape == (2, 3, 3, 3)
    first, second = (x["image"] for x in samples[:2])
    torch.testing.assert_close(features["p2"][0, :, :4, :6], first[:1, ::4, ::4])
    torch.testing.assert_close(features["p3"][1, :, :3, :2], second[:, ::8, ::8])
    assert not features["p2"][0, :, 4:].any() and not features["p3"][1, :, :, 2:].any()
    assert [len(x) for x in instances] == [0, 0]


def test_keys_depend_on_pixels_and_shape() -> None:
    image = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)
    same = image.clone()
    other = image.clone()
    other[0, 0, 0] += 1
    assert image_key(image) == image_key(same)
    assert len({image_key(image), image_key(other), image_key(image.view(3, 4, 2))}) == 3
