"""Rows on photographs with boxes given: what boxes of set B are worth beside the masks of set A."""

from dataclasses import replace
from typing import Any, Mapping, Tuple

from .rows import Row
from .table import Table

_HEAD = "MODEL.ROI_MASK_HEAD"
_BOX_LOSS = f"{_HEAD}.BOX_LOSS"
ENABLED = {f"{_BOX_LOSS}.ENABLED": True}
_RECIPE = {
    **ENABLED,
    f"{_BOX_LOSS}.AFFINITY_WEIGHT": 0.3,
    f"{_BOX_LOSS}.AFFINITY_THRESHOLD": 0.5,
    f"{_BOX_LOSS}.CRF_WEIGHT": 0.5,
    f"{_BOX_LOSS}.WARMUP": 0.3,
}
WORD_VECTORS = {
    f"{_HEAD}.PREDICTOR": "transfer",
    "MODEL.WEIGHT_TRANSFER.INPUT": "embedding",
    "MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE": "datasets/embeddings/{suite}.npy",
}
_HOURGLASS = {f"{_HEAD}.TRUNK": "hourglass", f"{_HEAD}.HOURGLASS_DEPTH": 10}
_SIDE_56 = {f"{_HEAD}.POOLER_RESOLUTION": 28}

FILLED_BOX = Row("filled_box", "filled box (nothing learned)", "reference")
GRABCUT = Row("grabcut", "GrabCut in the box (nothing learned)", "reference")

AGNOSTIC = Row("b2m_class_agnostic", "class-agnostic, masks of A", "given_boxes")
TRANSFER = AGNOSTIC.changed("b2m_transfer", "transfer, word vectors", WORD_VECTORS)
BCE = AGNOSTIC.changed("b2m_bce", "cross-entropy without dice", {f"{_HEAD}.LOSS": "bce"})
SUPERVISED = AGNOSTIC.changed("b2m_supervised", "fully supervised", {}, all_masks=True)

BEST = AGNOSTIC.changed("b2m_best", "projection + affinity + CRF loss on B (the recipe)", _RECIPE)
AFFINITY = BEST.changed(
    "b2m_affinity", "the recipe without the CRF loss", {f"{_BOX_LOSS}.CRF_WEIGHT": 0.0}
)
TIGHTNESS = BEST.changed(
    "b2m_tightness",
    "the recipe, rows and columns as bags of pixels",
    {f"{_BOX_LOSS}.PROJECTION": "tightness"},
)
PROJECTION = AGNOSTIC.changed(
    "b2m_projection", "projection on B", {**ENABLED, f"{_BOX_LOSS}.AFFINITY_WEIGHT": 0.0}
)
FILLED = AGNOSTIC.changed(
    "b2m_filled",
    "filled boxes as targets on B (control)",
    {
        **ENABLED,
        f"{_BOX_LOSS}.PROJECTION_WEIGHT": 0.0,
        f"{_BOX_LOSS}.AFFINITY_WEIGHT": 0.0,
        f"{_BOX_LOSS}.FILL_WEIGHT": 1.0,
    },
)
BOXES_ALONE = BEST.changed("b2m_boxes_alone", "boxes alone, no mask at all", {}, no_masks=True)
TRANSFER_BEST = BEST.changed(
    "b2m_transfer_best", "the recipe + transfer, word vectors", WORD_VECTORS
)
SPECIFIC = BEST.changed(
    "b2m_class_specific",
    "the recipe + a filter for each class",
    {f"{_HEAD}.PREDICTOR": "class_specific"},
)
END_TO_END = BEST.changed(
    "b2m_end_to_end",
    "the recipe, body trained too",
    {"MODEL.FREEZE_DETECTOR": False, "SOLVER.BASE_LR": 0.0005},
)
_CRF = {"TEST.CRF": True}
CRF_AGNOSTIC = AGNOSTIC.changed("b2m_class_agnostic_crf", "class-agnostic, with a CRF", _CRF)
CRF = BEST.changed("b2m_crf", "the recipe, masks sharpened by a CRF", _CRF)
CRF_SUPERVISED = SUPERVISED.changed("b2m_supervised_crf", "fully supervised, with a CRF", _CRF)
ON_ALL = BEST.changed(
    "b2m_on_all", "the recipe, box losses on A too", {f"{_BOX_LOSS}.APPLY_TO": "all"}
)
SELF_1 = replace(
    BEST, name="b2m_self_1", title="the recipe + self-training, 1 round", teacher=BEST.name
).compared_with(BEST)
SELF_CRF = SELF_1.changed(
    "b2m_self_crf",
    "self-training, 1 round, the teacher's masks sharpened by a CRF",
    {f"{_HEAD}.PSEUDO_LOSS.CRF": True},
)
SELF_2 = replace(
    BEST, name="b2m_self_2", title="the recipe + self-training, 2 rounds", teacher=SELF_1.name
).compared_with(BEST)
SELF_2_CRF = replace(
    SELF_2.changed(
        "b2m_self_2_crf",
        "self-training, 2 rounds, the teachers' masks sharpened by a CRF",
        {f"{_HEAD}.PSEUDO_LOSS.CRF": True},
    ),
    teacher=SELF_CRF.name,
)


def _on(change: Mapping[str, Any], suffix: str, title: str) -> Tuple[Row, Row, Row]:
    """Class-agnostic, the recipe and fully supervised, of another architecture."""
    low = AGNOSTIC.changed(f"b2m_class_agnostic_{suffix}", f"{title}: class-agnostic", change)
    return (
        low,
        low.changed(f"b2m_best_{suffix}", f"{title}: the recipe", _RECIPE),
        low.changed(f"b2m_supervised_{suffix}", f"{title}: fully supervised", {}, all_masks=True),
    )


HOURGLASS = _on(_HOURGLASS, "hourglass", "hourglass-10")
SIDE_56 = _on(_SIDE_56, "56", "56x56")

_GAP = (AGNOSTIC.name, SUPERVISED.name)
_TRIOS = ((CRF_AGNOSTIC, CRF, CRF_SUPERVISED), HOURGLASS, SIDE_56)
_BELOW = (FILLED_BOX, GRABCUT, AGNOSTIC, TRANSFER, FILLED, PROJECTION, AFFINITY)
_SELF = (SELF_1, SELF_CRF, SELF_2, SELF_2_CRF)
_ON_TOP = (TIGHTNESS, TRANSFER_BEST, SPECIFIC, ON_ALL, CRF, *_SELF)

GIVEN = Table(
    "masks for given boxes",
    (
        *_BELOW,
        BEST,
        *(TIGHTNESS, TRANSFER_BEST, SPECIFIC, ON_ALL, *_SELF, END_TO_END, BOXES_ALONE),
        *(BCE, SUPERVISED, CRF_AGNOSTIC, CRF, CRF_SUPERVISED),
        *HOURGLASS,
        *SIDE_56,
    ),
    ours=tuple((BEST.name, row.name, "B") for row in (*_BELOW, BOXES_ALONE))
    + tuple((row.name, BEST.name, "B") for row in _ON_TOP),
    claimed="given/mIoU",
    gaps={
        **{
            row.name: _GAP
            for row in (
                *(TRANSFER, FILLED, PROJECTION, AFFINITY, BEST, TRANSFER_BEST, SPECIFIC, ON_ALL),
                *(*_SELF, TIGHTNESS, END_TO_END, BOXES_ALONE, BCE),
            )
        },
        **{best.name: (low.name, high.name) for low, best, high in _TRIOS},
    },
    both_directions=(
        *(FILLED_BOX.name, GRABCUT.name, AGNOSTIC.name, TRANSFER.name),
        *(FILLED.name, PROJECTION.name, BEST.name),
    ),
)
LEAVES = {
    AGNOSTIC.name: "box_to_mask_class_agnostic.yaml",
    BEST.name: "box_to_mask.yaml",
    SUPERVISED.name: "box_to_mask_supervised.yaml",
}
