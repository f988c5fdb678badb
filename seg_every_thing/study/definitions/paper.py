"""Figures of the papers' tables, transcribed by hand and not checked against the PDFs.

They are shown beside measured figures under :data:`LABEL`, and used for nothing else.
"""

from typing import Any, Dict, Sequence, Tuple

LABEL = "paper (transcribed)"

Pair = Tuple[float, float]  # on set B, on set A

_REFERENCE = {
    "class_agnostic": ((14.2, 34.4), (21.5, 30.7)),
    "clsbox": ((20.2, 35.2), (26.0, 31.2)),
}
MASK_AP: Dict[str, Dict[str, Tuple[Pair, Pair]]] = {
    # table -> row -> (VOC -> non-VOC, non-VOC -> VOC)
    "1a": {
        **_REFERENCE,
        "random": ((15.4, 35.2), (19.9, 31.1)),
        "glove": ((17.3, 35.2), (21.9, 31.1)),
        "cls": ((18.1, 35.1), (25.2, 31.1)),
        "box": ((19.8, 35.2), (25.7, 31.1)),
        "oracle": ((30.7, 35.0), (35.0, 30.7)),
    },
    "1b": {
        "clsbox_1_layer": ((19.2, 35.2), (25.3, 31.2)),
        "clsbox_2_layer_relu": ((19.7, 35.3), (25.1, 31.1)),
        "clsbox": ((20.2, 35.2), (26.0, 31.2)),
        "clsbox_3_layer_relu": ((19.3, 35.2), (25.2, 31.1)),
        "clsbox_3_layer": ((18.9, 35.2), (25.5, 31.1)),
    },
    "1c": {
        **_REFERENCE,
        "class_agnostic_mlp": ((17.1, 35.1), (22.8, 31.3)),
        "clsbox_mlp": ((21.3, 35.4), (26.6, 31.4)),
    },
    "1d": {
        **_REFERENCE,
        "e2e_class_agnostic": ((19.2, 36.8), (23.9, 32.5)),
        "e2e_clsbox_no_stop": ((20.2, 37.7), (24.8, 33.2)),
        "e2e_clsbox": ((22.2, 37.6), (27.6, 33.1)),
    },
}

_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
_TABLE_2 = {
    # row -> (VOC -> non-VOC, non-VOC -> VOC), on set B
    "e2e_class_agnostic": (
        (19.2, 36.4, 18.4, 11.5, 23.3, 24.4),
        (23.9, 42.9, 23.5, 11.6, 24.3, 33.7),
    ),
    "e2e_maskx": ((23.7, 43.1, 23.5, 12.4, 27.6, 32.9), (28.9, 52.2, 28.6, 12.1, 29.0, 40.6)),
    "e2e_oracle": ((33.0, 53.7, 35.0, 15.1, 37.0, 49.9), (37.5, 63.1, 38.9, 15.1, 36.0, 53.1)),
    "e2e_class_agnostic_r_101": (
        (18.5, 34.8, 18.1, 11.3, 23.4, 21.7),
        (24.7, 43.5, 24.9, 11.4, 25.7, 35.1),
    ),
    "e2e_maskx_r_101": (
        (23.8, 42.9, 23.5, 12.7, 28.1, 33.5),
        (29.5, 52.4, 29.7, 13.4, 30.2, 41.0),
    ),
    "e2e_oracle_r_101": (
        (34.4, 55.2, 36.3, 15.5, 39.0, 52.6),
        (39.1, 64.5, 41.4, 16.3, 38.1, 55.1),
    ),
}


def paper_values(table: str, row: str, direction: int) -> Dict[str, float]:
    """Metric name -> the paper's value for a row on COCO; empty where it has none.

    Args:
        table: "1a" to "1d", or "2".
        row: a row's name.
        direction: 0 = VOC -> non-VOC, 1 = non-VOC -> VOC.
    """
    if table == "2" and row in _TABLE_2:
        values = _TABLE_2[row][direction]
        return {f"segm/{metric}_B": value for metric, value in zip(_METRICS, values)}
    pairs = MASK_AP.get(table, {}).get(row)
    if pairs is None:
        return {}
    on_b, on_a = pairs[direction]
    return {"segm/AP_B": on_b, "segm/AP_A": on_a}


_MASK = ("segm/AP", "segm/AP50", "segm/AP75")
_BOX = ("bbox/AP",)
_PIXELS = tuple(f"sem_seg/{name}" for name in ("pixel_acc", "mean_acc", "mean_IU", "fw_IU"))
_CAMVID = ("sem_seg/mean_IU", "sem_seg/pixel_acc")

_OTHERS: Dict[str, Tuple[str, Sequence[str], Dict[str, Sequence[float]]]] = {
    # table -> (setting, metrics, row of the paper -> values); other data and larger models
    "mask_rcnn_2b": (
        "R-50-C4 on COCO",
        _MASK,
        {"softmax": (24.8, 44.1, 25.1), "sigmoid": (30.3, 51.2, 31.5)},
    ),
    "mask_rcnn_2c": (
        "R-50-C4 on COCO",
        _MASK,
        {
            "RoIPool": (26.9, 48.8, 26.4),
            "RoIWarp, max": (27.2, 49.2, 27.1),
            "RoIWarp, average": (27.1, 48.9, 27.1),
            "RoIAlign, max": (30.2, 51.0, 31.8),
            "RoIAlign, average": (30.3, 51.2, 31.5),
        },
    ),
    "mask_rcnn_2d": (
        "R-50-C5 on COCO",
        (*_MASK, *_BOX),
        {"RoIPool": (23.6, 46.5, 21.6, 28.2), "RoIAlign": (30.9, 51.8, 32.1, 34.0)},
    ),
    "mask_rcnn_2e": (
        "R-50-FPN on COCO",
        _MASK,
        {
            "MLP, 2 hidden layers": (31.5, 53.7, 32.8),
            "MLP, 3 hidden layers": (31.5, 54.0, 32.6),
            "FCN": (33.6, 55.2, 35.3),
        },
    ),
    "mask_rcnn_agnostic": (
        "R-50-C4 on COCO",
        ("segm/AP",),
        {"class-agnostic": (29.7,), "class-specific": (30.3,)},
    ),
    "fcn": (
        "VGG16 on VOC 2011",
        _PIXELS,
        {
            "FCN-32s-fixed": (83.0, 59.7, 45.4, 72.0),
            "FCN-32s": (89.1, 73.3, 59.4, 81.4),
            "FCN-16s": (90.0, 75.7, 62.4, 83.0),
            "FCN-8s": (90.3, 75.9, 62.7, 83.2),
        },
    ),
    "tiramisu": (
        "CamVid test",
        _CAMVID,
        {
            "Classic Upsampling": (55.2, 86.8),
            "FC-DenseNet56": (58.9, 88.9),
            "FC-DenseNet67": (65.8, 90.8),
            "FC-DenseNet103": (66.9, 91.5),
        },
    ),
}


def paper_rows(table: str) -> Dict[str, Dict[str, Any]]:
    """Title -> metrics of a table of the papers on FCN, FC-DenseNet or Mask R-CNN; may be empty."""
    setting, metrics, rows = _OTHERS.get(table, ("", (), {}))
    return {f"{name}, {setting}, {LABEL}": dict(zip(metrics, v)) for name, v in rows.items()}
