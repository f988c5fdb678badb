"""The memory benchmark of whole models, with narrow layers."""

import pytest

from seg_every_thing.benchmarks.vocabulary import benchmark_vocabulary

NARROW = (
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 16),
    *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 8, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8),
    *("MODEL.RPN.POST_NMS_TOPK_TEST", 50, "MODEL.RPN.PRE_NMS_TOPK_TEST", 50),
)


def test_rows_tell_the_masks_memory_from_the_detectors() -> None:
    result = benchmark_vocabulary((80, 400), options=NARROW)
    rows = {(row["name"], row["num_classes"]): row for row in result["rows"]}
    assert set(rows) == {(n, k) for n in ("training step", "inference") for k in (80, 400)}
    for (name, k), row in rows.items():
        # float32 rows of classes, background, and four of boxes a class, each with its bias.
        assert row["detector_layers_bytes"] == ((k + 1) + 4 * k) * (16 + 1) * 4
        assert row["peak_bytes"] > 1e6
        if name == "inference":
            assert row["detections"] > 1  # so masks were predicted
            assert 0 < row["detector_peak_bytes"] <= row["peak_bytes"]
    steps = [rows["training step", k]["peak_bytes"] for k in (80, 400)]
    assert steps[1] == pytest.approx(steps[0], rel=0.02)


def test_fewer_classes_than_coco_are_refused() -> None:
    with pytest.raises(ValueError, match="80 classes or more"):
        benchmark_vocabulary((79,))
