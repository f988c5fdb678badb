"""Mask AP of the paper's tables, transcribed by hand and not checked against the PDF.

They are shown beside measured figures under :data:`LABEL`, and used for nothing else.
"""

from typing import Dict, Tuple

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
