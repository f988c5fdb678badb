"""Suites: the paper's tables on COCO (one command a row), and in minutes on smaller data."""

from dataclasses import dataclass, field, replace
from typing import Dict, List, Mapping, Optional, Tuple

from ...data.splits import coco_random_splits, shapes_random_splits
from . import found_rows, photo_rows, semantic_rows
from . import rows as r
from .mask_rcnn_rows import LEAVES as MASK_RCNN_LEAVES
from .mask_rcnn_rows import TABLES as MASK_RCNN_TABLES
from .rows import Row
from .table import Claim, Table


@dataclass(frozen=True)
class Direction:
    """A pair of sets A and B, and what a reader calls it."""

    title: str
    split: str


@dataclass(frozen=True)
class Suite:
    """All that a study needs to know of a data set.

    Attributes:
        name: of the suite.
        train_set: registered data set, for class names and masks.
        bases: stage -> config of the model zoo.
        tables: by the paper's number.
        directions: the two directions of partial supervision, each other's mirror image, if any.
        random_splits: Figure 3: size of set A -> names of splits.
        figure_3: the two rows of Figure 3, baseline first, if the suite has it.
        leaves: row name -> config of the model zoo with base and overrides, where there is one.
        detector: stage one, or None when the base of stage two names its weights, or no row stands
            on a detector.
        detector_threads: that stage one computes with, however many cores there are.
        on_gpus: rows run as commands, one after the other; else on the CPU cores of this machine.
    """

    name: str
    train_set: str
    bases: Mapping[str, str]
    tables: Mapping[str, Table]
    directions: Tuple[Direction, ...] = ()
    random_splits: Mapping[int, Tuple[str, ...]] = field(default_factory=dict)
    figure_3: Tuple[Row, ...] = ()
    leaves: Mapping[str, str] = field(default_factory=dict)
    detector: Optional[Row] = None
    detector_threads: int = 1
    on_gpus: bool = False

    def rows(self) -> Dict[str, Row]:
        """Every row of every table, and of Figure 3, by name."""
        rows = [row for table in self.tables.values() for row in table.rows]
        return {row.name: row for row in [*rows, *self.figure_3]}


def _tables(embedding: Row, table_2: Tuple[Row, ...]) -> Dict[str, Table]:
    table_1a = Table(
        "1a: input of T",
        (
            *(r.AGNOSTIC, r.RANDOM, embedding, r.CLS, r.BOX, r.CLSBOX),
            *(r.CLS_NORMALIZED, r.CLSBOX_NORMALIZED, r.CLSBOX_ALL, r.ORACLE),
        ),
        claims=(
            ("clsbox", "box", "B"),
            ("clsbox", "cls", "B"),
            ("cls", embedding.name, "B"),
            (embedding.name, "random", "B"),
            ("random", "class_agnostic", "B"),
            ("clsbox", "class_agnostic", "B"),
        ),
        unharmed=(("clsbox", "class_agnostic"),),
        ours=(
            ("cls_normalized", "cls", "B"),
            ("clsbox_normalized", "clsbox", "B"),
            ("clsbox_all_masks", "clsbox", "B"),
        ),
    )
    table_1b = Table(
        "1b: structure of T",
        (r.LAYERS_1, r.LAYERS_2_RELU, r.CLSBOX, r.LAYERS_3_RELU, r.LAYERS_3),
        claims=tuple(
            ("clsbox", row.name, "B")
            for row in (r.LAYERS_1, r.LAYERS_2_RELU, r.LAYERS_3_RELU, r.LAYERS_3)
        ),
    )
    table_1c = Table(
        "1c: MLP branch",
        (r.AGNOSTIC, r.AGNOSTIC_MLP, r.CLSBOX, r.CLSBOX_MLP),
        claims=(("class_agnostic_mlp", "class_agnostic", "B"), ("clsbox_mlp", "clsbox", "B")),
        unharmed=(("class_agnostic_mlp", "class_agnostic"), ("clsbox_mlp", "clsbox")),
    )
    table_1d = Table(
        "1d: training",
        (r.AGNOSTIC, r.CLSBOX, r.E2E_AGNOSTIC, r.E2E_NO_STOP, r.E2E_CLSBOX),
        claims=(
            ("e2e_class_agnostic", "class_agnostic", "B"),
            ("e2e_clsbox", "clsbox", "B"),
            ("e2e_clsbox", "e2e_clsbox_no_stop", "B"),
            ("e2e_clsbox", "e2e_class_agnostic", "B"),
        ),
        unharmed=(("e2e_clsbox", "e2e_clsbox_no_stop"), ("e2e_clsbox", "e2e_class_agnostic")),
    )
    claims_2: List[Claim] = []
    for row in table_2:
        if row.name in ("e2e_maskx", "e2e_maskx_r_101"):
            tail = row.name[len("e2e_maskx") :]
            claims_2 += [
                (row.name, "e2e_class_agnostic" + tail, "B"),
                ("e2e_oracle" + tail, row.name, "B"),
            ]
    ours_2 = tuple((row.name, "e2e_maskx", "B") for row in (r.E2E_NORMALIZED, r.E2E_CLS_NORMALIZED))
    return {
        "1a": table_1a,
        "1b": table_1b,
        "1c": table_1c,
        "1d": table_1d,
        "2": Table("2: end to end", table_2, claims=tuple(claims_2), ours=ours_2),
    }


def _by_size(splits: Mapping[str, Tuple[str, ...]]) -> Dict[int, Tuple[str, ...]]:
    sizes = sorted({len(names) for names in splits.values()})
    return {n: tuple(s for s, names in splits.items() if len(names) == n) for n in sizes}


_TABLE_2 = (*(r.E2E_AGNOSTIC, r.E2E_MASKX, r.E2E_CLS_NORMALIZED, r.E2E_NORMALIZED, r.E2E_ORACLE),)

SHAPES = Suite(
    name="shapes",
    train_set="shapes_train",
    bases={
        "detector": "shapes/detector.yaml",
        "stage_two": "shapes/Base-StageTwo.yaml",
        "end_to_end": "shapes/Base-EndToEnd.yaml",
        **semantic_rows.bases("Shapes"),
    },
    tables={
        **_tables(r.EMBEDDING, _TABLE_2),
        **MASK_RCNN_TABLES,
        **semantic_rows.TABLES,
    },
    directions=(Direction("A -> B", "shapes_A"), Direction("B -> A", "shapes_B")),
    random_splits=_by_size(shapes_random_splits()),
    # Half the budget: there are many, and two rows of a pair share it.
    figure_3=r.figure_3_rows({"SOLVER.MAX_ITER": 225}),
    leaves={
        "class_agnostic": "shapes/class_agnostic.yaml",
        "clsbox_mlp": "shapes/maskx.yaml",
        "oracle": "shapes/oracle.yaml",
        **MASK_RCNN_LEAVES,
        **semantic_rows.leaves("shapes"),
    },
    detector=r.DETECTOR,
)

_COCO_TABLE_2 = (
    *_TABLE_2,
    *(r.with_r_101(row) for row in (r.E2E_AGNOSTIC, r.E2E_MASKX, r.E2E_ORACLE)),
)
_COCO_END_TO_END = {
    "e2e_class_agnostic": "class_agnostic_R_50_FPN_1x",
    "e2e_maskx": "maskx_R_50_FPN_1x",
    "e2e_oracle": "oracle_R_50_FPN_1x",
    "e2e_class_agnostic_r_101": "class_agnostic_R_101_FPN_1x",
    "e2e_maskx_r_101": "maskx_R_101_FPN_1x",
    "e2e_oracle_r_101": "oracle_R_101_FPN_1x",
    "e2e_clsbox": "transfer_R_50_FPN_1x",
    "e2e_clsbox_no_stop": "transfer_no_stop_gradient_R_50_FPN_1x",
    "e2e_maskx_cls_normalized": "maskx_cls_normalized_R_50_FPN_1x",
    "e2e_maskx_normalized": "maskx_normalized_R_50_FPN_1x",
}


def _coco() -> Suite:
    tables = _tables(r.GLOVE, _COCO_TABLE_2)
    stage_two = {row.name for t in tables.values() for row in t.rows if row.stage == "stage_two"}
    return Suite(
        name="coco",
        train_set="coco_2017_train",
        bases={
            "stage_two": "coco/stage_two/Base-StageTwo.yaml",
            "end_to_end": "coco/Base-RCNN-FPN.yaml",
        },
        tables=tables,
        directions=(Direction("VOC -> non-VOC", "voc"), Direction("non-VOC -> VOC", "nonvoc")),
        random_splits=_by_size(coco_random_splits()),
        figure_3=(r.AGNOSTIC, r.CLSBOX),
        leaves={
            **{name: f"coco/{leaf}.yaml" for name, leaf in _COCO_END_TO_END.items()},
            **{name: f"coco/stage_two/{name}.yaml" for name in stage_two},
        },
        on_gpus=True,
    )


COCO = _coco()

CAMVID = Suite(
    name="camvid",
    train_set="camvid_train",
    bases=semantic_rows.bases("CamVid"),
    tables=semantic_rows.TABLES,
    leaves=semantic_rows.leaves("camvid"),
)


def _photos(name: str, train_set: str, directions: Tuple[Direction, ...]) -> Suite:
    base = f"{name}/Base-Box-To-Mask.yaml"
    return Suite(
        name=name,
        train_set=train_set,
        bases={
            **{"reference": base, "given_boxes": base},
            "detector": f"{name}/detector_efficientnet_lite0.yaml",
            "stage_two": f"{name}/Base-StageTwo.yaml",
            "end_to_end": f"{name}/Base-EndToEnd.yaml",
        },
        tables={"given": photo_rows.GIVEN, "found": found_rows.FOUND},
        directions=directions,
        leaves={row: f"{name}/{leaf}" for row, leaf in photo_rows.LEAVES.items()},
        detector=r.DETECTOR,
    )


PHOTOS = _photos("photos", "coco_2017_train", COCO.directions)
VOC = _photos(
    "voc",
    "voc_sample_train",
    (Direction("even -> odd", "voc_even"), Direction("odd -> even", "voc_odd")),
)

# To choose a recipe on: training images alone, and of their masks those of set A.
CHOICES = tuple(
    replace(
        suite,
        name=f"{suite.name}_choice",
        train_set=f"{suite.name}_choice_train",
        bases=dict.fromkeys(r.GIVEN_BOXES, f"{suite.name}/Base-Choice.yaml"),
        tables={"given": photo_rows.GIVEN},
        directions=(Direction("half of A -> other half", split),),
        leaves={},
        detector=None,
    )
    for suite, split in ((PHOTOS, "voc_half"), (VOC, "voc_even_half"))
)

SUITES = {suite.name: suite for suite in (SHAPES, CAMVID, COCO, PHOTOS, VOC, *CHOICES)}

# `make demo`: the first direction alone, with recipes of its own for both stages.
DEMO = replace(
    SHAPES,
    name="demo",
    bases={
        **SHAPES.bases,
        "detector": "shapes/demo_detector.yaml",
        "stage_two": "shapes/Base-Demo.yaml",
    },
    tables={"demo": Table("demo", (r.AGNOSTIC, r.MASKX, r.MASKX_BOX_LOSSES, r.ORACLE))},
    directions=SHAPES.directions[:1],
    figure_3=(),
    leaves={},
    detector_threads=2,
)
