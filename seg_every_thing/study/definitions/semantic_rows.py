"""Rows of FCN and of FC-DenseNet: semantic segmentation, without a detector and without sets."""

from typing import Any, Dict, Mapping

from .rows import Row
from .table import Table

_STRIDE = "MODEL.SEM_SEG_HEAD.FCN.STRIDE"
_NET = "MODEL.FC_DENSENET"

METRICS = tuple(f"sem_seg/{name}" for name in ("pixel_acc", "mean_acc", "mean_IU", "fw_IU"))

FCN_32S = Row("fcn32s", "FCN-32s", "fcn", ((_STRIDE, 32),))
FCN_16S = FCN_32S.changed("fcn16s", "FCN-16s", {_STRIDE: 16})
FCN_8S = FCN_32S.changed("fcn8s", "FCN-8s", {_STRIDE: 8})
FCN_CRF = FCN_32S.changed("fcn32s_crf", "FCN-32s, labels sharpened by a CRF", {"TEST.CRF": True})
FCN_FIXED = FCN_32S.changed(
    "fcn32s_fixed", "FCN-32s, only the score layer learns", {"MODEL.BACKBONE.FREEZE_AT": 5}
)

FCDN = Row("fcdn", "FC-DenseNet", "tiramisu")
NO_SKIPS = FCDN.changed("fcdn_no_skips", "without skips", {f"{_NET}.SKIPS": False})
ONE_POOLING = FCDN.changed(
    "fcdn_one_pooling", "one pooling instead of three", {f"{_NET}.DOWN": (2,), f"{_NET}.UP": (2,)}
)
LARGER = FCDN.changed(
    "fcdn_larger",
    "three layers a block, 12 new maps each",
    {
        **{f"{_NET}.DOWN": (3, 3, 3), f"{_NET}.UP": (3, 3, 3)},
        **{f"{_NET}.BOTTLENECK": 3, f"{_NET}.GROWTH_RATE": 12},
    },
)


def _table(title: str, *rows: Row, **more: Any) -> Table:
    return Table(title, rows, metrics=METRICS, claimed="sem_seg/mean_IU", **more)


TABLES: Dict[str, Table] = {
    "fcn": _table(
        "FCN: skips",
        *(FCN_FIXED, FCN_32S, FCN_CRF, FCN_16S, FCN_8S),
        claims=(
            (FCN_32S.name, FCN_FIXED.name, ""),
            (FCN_16S.name, FCN_32S.name, ""),
            (FCN_8S.name, FCN_16S.name, ""),
        ),
        ours=((FCN_CRF.name, FCN_32S.name, ""),),
        ceilings=(32, 16, 8, 4),
    ),
    "tiramisu": _table(
        "FC-DenseNet: skips, depth, width",
        *(NO_SKIPS, ONE_POOLING, FCDN, LARGER),
        claims=((LARGER.name, FCDN.name, ""),),
        ours=((FCDN.name, NO_SKIPS.name, ""), (FCDN.name, ONE_POOLING.name, "")),
    ),
}


def bases(data: str) -> Mapping[str, str]:
    """Stage -> base config of the model zoo, on "CamVid" or "Shapes"."""
    return {
        "fcn": f"semantic/fcn/Base-Small-{data}.yaml",
        "tiramisu": f"semantic/tiramisu/Base-Small-{data}.yaml",
    }


def leaves(data: str) -> Dict[str, str]:
    """Row name -> config file, for "camvid" or "shapes"."""
    return {
        row.name: f"semantic/{row.stage}/small_{data}_{row.name}.yaml"
        for table in TABLES.values()
        for row in table.rows
    }
