"""The benchmark of whole models, with narrow layers and small images."""

import numpy as np
import pytest

from seg_every_thing.benchmarks import inference
from seg_every_thing.benchmarks.agreement import ap_against
from seg_every_thing.benchmarks.inference import benchmark_inference
from seg_every_thing.benchmarks.untrained import (
    largest_differences,
    noise_photographs,
    some_boxes,
)

NARROW = (
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 50, "MODEL.RPN.PRE_NMS_TOPK_TEST", 50),
    *("MODEL.ROI_HEADS.NUM_CLASSES", 3, "TEST.DETECTIONS_PER_IMAGE", 8),
    *("DATASETS.MASK_CLASSES", "all", "TEST.CLASS_SPLIT", "", "MODEL.DEVICE", "cpu"),
)


def test_ways_stand_beside_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "KINDS", ("stock", "fast"))
    monkeypatch.setattr(inference, "FORMATS", ("none",))
    result = benchmark_inference(
        ("R_50_FPN",), repeats=2, options=NARROW, sizes={"R_50_FPN": (96, 128)}
    )
    rows = {(row["mode"], row["name"]): row for row in result["rows"]}
    for mode in ("detect", "boxes"):
        assert rows[mode, "none"]["skipped"]
        for name in ("stock", "fast"):
            row = rows[mode, name]
            assert row["detections"] == (8 if mode == "detect" else 10)
            assert row["seconds"] > 0 and row["seconds_p95"] >= row["seconds"]
            assert row["ratio"] > 0 and row["peak_bytes"] > 1e8
            assert row["matched"] > 0.9 and row["mask_ap"] > 90
            assert max(row["score_difference"], row["mask_difference"]) < 1e-3
    assert rows["detect", "stock"]["ratio"] == 1


def _object(x: float, score: float, category: int = 0) -> dict:
    return {
        "boxes": np.array([[x, 0, x + 10, 10]], np.float32),
        "classes": np.array([category]),
        "scores": np.array([score], np.float32),
        "masks": np.full((1, 28, 28), 0.75, np.float32),
        "size": (20, 40),
    }


def test_agreement() -> None:
    a, b = _object(5, 0.9), _object(5, 0.8)
    b["masks"] = b["masks"] + np.float32(0.1)
    same = largest_differences([a], [b])
    assert same["matched"] == 1
    assert same["score_difference"] == pytest.approx(0.1)
    assert same["mask_difference"] == pytest.approx(0.1)
    assert ap_against([a], [b]) == pytest.approx(100)
    for other in (_object(20, 0.9), _object(5, 0.9, category=1)):
        assert largest_differences([other], [a])["matched"] == 0
        assert ap_against([other], [a]) == pytest.approx(0)
    nothing = {k: v[:0] if k != "size" else v for k, v in a.items()}
    assert largest_differences([nothing], [a])["matched"] == 0
    assert ap_against([a], [nothing]) == -1


def test_images_and_boxes_of_a_seed() -> None:
    (image,) = noise_photographs(1, 33, 47)
    assert image.shape == (33, 47, 3) and image.std() > 10
    assert np.array_equal(image, noise_photographs(1, 33, 47)[0])
    boxes = some_boxes(10, 33, 47)
    assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
    assert (boxes[:, 2:] <= [47, 33]).all()


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="unknown model 'R_18'"):
        benchmark_inference(("R_18",))
    with pytest.raises(ValueError, match="at least 1"):
        benchmark_inference(repeats=0)
