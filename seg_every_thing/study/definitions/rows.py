"""Rows of the studies: what differs between two of them can be read, and is checked."""

from dataclasses import dataclass, replace
from typing import Any, Mapping, Tuple

ON_DETECTOR = ("stage_two", "end_to_end")
GIVEN_BOXES = ("reference", "given_boxes")
SEMANTIC = ("fcn", "tiramisu")
STAGES = ("detector", *ON_DETECTOR, *GIVEN_BOXES, *SEMANTIC)


@dataclass(frozen=True)
class Row:
    """One model of a study.

    Attributes:
        name: key of the row in ``results.json``.
        title: what a reader calls it.
        stage: "detector" (boxes alone), "stage_two" (mask branch on a frozen detector),
            "end_to_end", "given_boxes" (masks for given boxes), "reference" (the same without
            learning; the name of the row is that of the method), or "fcn" or "tiramisu" (semantic
            segmentation); each suite has a base config for it.
        overrides: (KEY, VALUE) pairs on top of the base config; "{seed}" in a value stands for the
            seed of the run, "{suite}" for the name of the suite.
        baseline: name of the row that this one is compared with; "" = none.
        changes: the keys in which it differs from its baseline, and no others.
        all_masks: trains with the masks of all classes, whatever the split.
        no_masks: trains with no mask at all.
        teacher: name of the row whose model gives the objects without a mask theirs; "" = none.
    """

    name: str
    title: str
    stage: str
    overrides: Tuple[Tuple[str, Any], ...] = ()
    baseline: str = ""
    changes: Tuple[str, ...] = ()
    all_masks: bool = False
    no_masks: bool = False
    teacher: str = ""

    @property
    def on_detector(self) -> bool:
        """Whether it stands on a detector."""
        return self.stage in ON_DETECTOR

    @property
    def has_sets(self) -> bool:
        """Whether it has sets A and B."""
        return self.stage in (*ON_DETECTOR, *GIVEN_BOXES)

    @property
    def learns(self) -> bool:
        """Whether a seed and a split change anything."""
        return self.stage != "reference"

    @property
    def mask_classes(self) -> str:
        """``DATASETS.MASK_CLASSES`` where that is not the split of the run."""
        return "all" if self.all_masks else "none" if self.no_masks else ""

    @property
    def semantic(self) -> bool:
        """Whether it labels pixels, and finds no objects."""
        return self.stage in SEMANTIC

    def changed(
        self,
        name: str,
        title: str,
        changes: Mapping[str, Any],
        all_masks: bool = False,
        no_masks: bool = False,
    ) -> "Row":
        """The row that differs from this one in ``changes``, and the masks, alone."""
        masks = ("DATASETS.MASK_CLASSES",) if all_masks or no_masks else ()
        return replace(
            self,
            name=name,
            title=title,
            overrides=tuple({**dict(self.overrides), **changes}.items()),
            baseline=self.name,
            changes=(*changes, *masks),
            all_masks=all_masks or self.all_masks,
            no_masks=no_masks or self.no_masks,
        )

    def compared_with(self, baseline: "Row") -> "Row":
        """This row, which differs from a baseline in nothing that a config says."""
        return replace(self, baseline=baseline.name, changes=())


_PREDICTOR = "MODEL.ROI_MASK_HEAD.PREDICTOR"
_MLP = "MODEL.ROI_MASK_HEAD.MLP.ENABLED"
_INPUT = "MODEL.WEIGHT_TRANSFER.INPUT"
_FILE = "MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE"
_LAYERS = "MODEL.WEIGHT_TRANSFER.NUM_LAYERS"
_ACTIVATION = "MODEL.WEIGHT_TRANSFER.ACTIVATION"
_NORMALIZE = "MODEL.WEIGHT_TRANSFER.NORMALIZE"
_STOP = "MODEL.WEIGHT_TRANSFER.STOP_GRADIENT"
_BOX_LOSS = "MODEL.ROI_MASK_HEAD.BOX_LOSS.ENABLED"

DETECTOR = Row("detector", "boxes of all classes", "detector")

# Stage-wise rows (Tables 1a to 1c).
AGNOSTIC = Row(
    "class_agnostic",
    "class-agnostic",
    "stage_two",
    ((_PREDICTOR, "class_agnostic"),),
)
ORACLE = AGNOSTIC.changed(
    "oracle", "fully supervised", {_PREDICTOR: "class_specific"}, all_masks=True
)
CLSBOX = AGNOSTIC.changed("clsbox", "transfer, cls+box", {_PREDICTOR: "transfer"})
CLSBOX_ALL = CLSBOX.changed(
    "clsbox_all_masks", "transfer, cls+box, masks of all classes (ours)", {}, all_masks=True
)
CLS = CLSBOX.changed("cls", "transfer, cls", {_INPUT: "cls"})
BOX = CLSBOX.changed("box", "transfer, box", {_INPUT: "box"})
EMBEDDING = CLSBOX.changed(
    "embedding", "transfer, embedding", {_INPUT: "embedding", _FILE: "random-words:{seed}"}
)
GLOVE = CLSBOX.changed(
    "glove",
    "transfer, GloVe",
    {_INPUT: "embedding", _FILE: "datasets/glove/glove.6B.300d.txt"},
)
RANDOM = CLSBOX.changed(
    "random", "transfer, random vectors", {_INPUT: "embedding", _FILE: "random:{seed}"}
)
CLS_NORMALIZED = CLS.changed(
    "cls_normalized", "transfer, cls normalised (ours)", {_NORMALIZE: True}
)
CLSBOX_NORMALIZED = CLSBOX.changed(
    "clsbox_normalized", "transfer, cls+box normalised (ours)", {_NORMALIZE: True}
)
LAYERS_1 = CLSBOX.changed("clsbox_1_layer", "1 layer, no activation", {_LAYERS: 1})
LAYERS_2_RELU = CLSBOX.changed("clsbox_2_layer_relu", "2 layers, ReLU", {_ACTIVATION: "relu"})
LAYERS_3 = CLSBOX.changed("clsbox_3_layer", "3 layers, LeakyReLU", {_LAYERS: 3})
LAYERS_3_RELU = CLSBOX.changed(
    "clsbox_3_layer_relu", "3 layers, ReLU", {_LAYERS: 3, _ACTIVATION: "relu"}
)
AGNOSTIC_MLP = AGNOSTIC.changed("class_agnostic_mlp", "class-agnostic + MLP", {_MLP: True})
CLSBOX_MLP = CLSBOX.changed("clsbox_mlp", "transfer, cls+box + MLP", {_MLP: True})

# The demonstration, `seg-every-thing quickstart`: class-agnostic, these two, fully supervised.
MASKX = AGNOSTIC.changed(
    "maskx", "Mask^X (cls+box, 2 layers, MLP)", {_PREDICTOR: "transfer", _MLP: True}
)
MASKX_BOX_LOSSES = MASKX.changed("maskx_box_losses", "Mask^X + box losses", {_BOX_LOSS: True})

# End-to-end rows (Tables 1d and 2).
E2E_AGNOSTIC = replace(
    AGNOSTIC, name="e2e_class_agnostic", title="class-agnostic, end to end", stage="end_to_end"
)
E2E_CLSBOX = E2E_AGNOSTIC.changed(
    "e2e_clsbox", "transfer, end to end, stop-gradient", {_PREDICTOR: "transfer"}
)
E2E_NO_STOP = E2E_CLSBOX.changed(
    "e2e_clsbox_no_stop", "transfer, end to end, no stop-gradient", {_STOP: False}
)
E2E_MASKX = E2E_CLSBOX.changed("e2e_maskx", "Mask^X R-CNN (transfer + MLP)", {_MLP: True})
E2E_CLS_NORMALIZED = E2E_MASKX.changed(
    "e2e_maskx_cls_normalized", "Mask^X, cls normalised (ours)", {_INPUT: "cls", _NORMALIZE: True}
)
E2E_NORMALIZED = E2E_MASKX.changed(
    "e2e_maskx_normalized", "Mask^X, cls+box normalised (ours)", {_NORMALIZE: True}
)
E2E_ORACLE = E2E_AGNOSTIC.changed(
    "e2e_oracle",
    "fully supervised, end to end",
    {_PREDICTOR: "class_specific"},
    all_masks=True,
)

# The larger trunk, with the schedule that halves the batch (S8 in the paper's code).
_R_101 = {
    "MODEL.RESNETS.DEPTH": 101,
    "MODEL.WEIGHTS": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
    "SOLVER.IMS_PER_BATCH": 8,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.STEPS": (120000, 160000),
    "SOLVER.MAX_ITER": 180000,
}


def with_r_101(row: Row) -> Row:
    """The same row on ResNet-101."""
    return row.changed(f"{row.name}_r_101", f"{row.title}, R-101", _R_101)


def figure_3_rows(changes: Mapping[str, Any]) -> Tuple[Row, Row]:
    """Class-agnostic and transfer with ``changes`` to both."""
    agnostic = replace(
        AGNOSTIC,
        name="fig3_class_agnostic",
        overrides=(*AGNOSTIC.overrides, *changes.items()),
    )
    return agnostic, agnostic.changed("fig3_clsbox", CLSBOX.title, {_PREDICTOR: "transfer"})
