"""Rows on photographs whose boxes a detector finds: transfer, box losses, what masks train on."""

from dataclasses import replace

from . import rows as r
from .photo_rows import ENABLED, WORD_VECTORS
from .table import Table

WORDS = r.AGNOSTIC.changed("words", "transfer, word vectors", WORD_VECTORS)
BOX_LOSSES = r.AGNOSTIC.changed("box_losses", "class-agnostic + box losses on B", ENABLED)
PROPOSALS = BOX_LOSSES.changed(
    "box_losses_proposals",
    "the same, masks train on proposals",
    {"MODEL.ROI_MASK_HEAD.TRAIN_ON": "proposals"},
)
CLSBOX_BOX_LOSSES = r.CLSBOX.changed(
    "clsbox_box_losses", "transfer, cls+box + box losses on B", ENABLED
)
SUPERVISED = r.AGNOSTIC.changed(
    "supervised", "class-agnostic, masks of all classes", {}, all_masks=True
)
END_TO_END = replace(
    CLSBOX_BOX_LOSSES,
    name="e2e_clsbox_box_losses",
    title="the same, boxes and masks trained together",
    stage="end_to_end",
    baseline="",
    changes=(),
)

_GAP = (r.AGNOSTIC.name, SUPERVISED.name)
_BETWEEN = (WORDS, r.CLS, r.CLSBOX, BOX_LOSSES, PROPOSALS, CLSBOX_BOX_LOSSES)

FOUND = Table(
    "masks for boxes that are found",
    (r.AGNOSTIC, *_BETWEEN, END_TO_END, SUPERVISED),
    ours=(
        (r.CLSBOX.name, r.AGNOSTIC.name, "B"),
        (BOX_LOSSES.name, r.AGNOSTIC.name, "B"),
        (BOX_LOSSES.name, PROPOSALS.name, "B"),
        (CLSBOX_BOX_LOSSES.name, r.CLSBOX.name, "B"),
        (CLSBOX_BOX_LOSSES.name, BOX_LOSSES.name, "B"),
    ),
    claimed="given/mIoU",
    gaps={row.name: _GAP for row in _BETWEEN},
    both_directions=(r.AGNOSTIC.name, r.CLSBOX.name, BOX_LOSSES.name),
)
