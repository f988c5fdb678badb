"""What of a checkpoint fits a model: a table for the log, and one line where it is too little."""

import itertools
from dataclasses import dataclass
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from tabulate import tabulate

Shape = Tuple[int, ...]

FITS = ("any", "some", "all")
"""How much of a model a checkpoint must bring: "any" = whatever it has, "some" = at least one
tensor (a model to train on from), "all" = everything, of the same architecture (a model to use)."""

_MEND = "Give its own config, or --allow-partial-checkpoint to go on with what fits"
_NAMED = 3  # tensors that a message tells of
_ROWS = 40  # of a table

# Set by the config or the model itself, so that either side may lack them: detectron2's
# normalisation of pixels, a counter that only momentum None reads, the vectors of EMBEDDING_FILE.
_FROM_ELSEWHERE = ("pixel_mean", "pixel_std", "num_batches_tracked", "class_vectors")


class UnfitCheckpointError(ValueError):
    """A checkpoint that can be read and must not be used; the message is one line."""


class NotFiniteError(UnfitCheckpointError):
    """A checkpoint with NaN or infinity among its weights."""


@dataclass(frozen=True)
class Fit:
    """Tensors of a checkpoint beside those of a model.

    Attributes:
        source: the file, for messages.
        loaded: names of the tensors that the model got.
        missing: tensors of the model that the file does not have, with their shapes.
        unused: tensors of the file that the model does not have, with their shapes ("" where
            names were matched by heuristics, and shapes are not known under the new name).
        misshapen: tensors that both have, with their shapes in the file and in the model.
        other_vectors: class vectors that differ from those of ``EMBEDDING_FILE``.
    """

    source: str
    loaded: Tuple[str, ...]
    missing: Mapping[str, Shape]
    unused: Mapping[str, Union[Shape, str]]
    misshapen: Mapping[str, Tuple[Shape, Shape]]
    other_vectors: Tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the model is that of the file.

        Tensors of the file in a part that the model does not have (the mask head, where the config
        has no masks) do no harm.  In a part that it has they are of another architecture: a ResNet
        of 101 layers brings all tensors of one of 50.
        """
        return not (self.missing or self.misshapen or self.other_vectors or self._foreign)

    @property
    def _foreign(self) -> List[str]:
        parts = {_part(name) for name in (*self.loaded, *self.missing, *self.misshapen)}
        names = [name for name in self.unused if not name.endswith(_FROM_ELSEWHERE)]
        return [name for name in names if _part(name) in parts]

    def require(self, fit: str, mend: str = _MEND) -> None:
        """Refuse a checkpoint that brings too little.

        Args:
            fit: one of :data:`FITS`.
            mend: what to do when it is not of this model.

        Raises:
            UnfitCheckpointError: naming file, tensors and mend.
        """
        if fit == "all" and not self.complete:
            raise UnfitCheckpointError(
                f"the checkpoint '{self.source}' is of another model: {self.describe()}. {mend}"
            )
        if fit != "any" and not self.loaded:
            raise UnfitCheckpointError(
                f"nothing in the checkpoint '{self.source}' fits the model: {self.describe()}. "
                f'Give another MODEL.WEIGHTS, or "" to start from random weights'
            )

    def describe(self) -> str:
        """In what the two differ, in a line."""
        reasons = []
        classes = self._class_counts()
        if classes:
            reasons.append(f"it has {classes[0]} classes, the config {classes[1]} ({classes[2]})")
        if self.misshapen:
            reasons.append(
                "of another shape: "
                + _list([f"{n} ({f} there, {m} here)" for n, (f, m) in self.misshapen.items()])
            )
        if self.missing:
            reasons.append("not in the file: " + _list([*self.missing]))
        if self.loaded and self._foreign:
            reasons.append("not in the model: " + _list(self._foreign))
        if not self.loaded and self.unused:
            reasons.append("the file's tensors are called " + _list([*self.unused]))
        if self.other_vectors:
            reasons.append(
                "it was trained with other class vectors than those of "
                "MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE"
            )
        if not self.loaded and not self.unused and not self.misshapen:
            reasons.append("the file holds no tensors")
        return "; ".join(reasons)

    def table(self) -> str:
        """What was not loaded, a module a row; "" when everything was."""
        rows: List[Tuple[str, str, str]] = []
        for name, (in_file, in_model) in self.misshapen.items():
            rows.append((name, str(in_file), str(in_model)))
        rows += [(name, "other vectors", "the config's") for name in self.other_vectors]
        rows += [(n, "-", shapes) for n, shapes in _by_module(self.missing)]
        rows += [(n, shapes, "-") for n, shapes in _by_module(self.unused)]
        if not rows:
            return ""
        more = [("...", f"{len(rows) - _ROWS} rows more", "")] if len(rows) > _ROWS else []
        return tabulate(
            [*rows[:_ROWS], *more],
            headers=["not loaded", "in the checkpoint", "in the model"],
            tablefmt="pipe",
        )

    def _class_counts(self) -> Optional[Tuple[int, int, str]]:
        """Number of classes in the file and in the model, where they differ, and the config key."""
        for name, (in_file, in_model) in self.misshapen.items():
            if not in_file or not in_model or in_file[0] == in_model[0]:
                continue
            counts = in_file[0], in_model[0]
            if name.endswith("cls_score.weight") and len(in_file) == 2:  # with a row of background
                return counts[0] - 1, counts[1] - 1, "MODEL.ROI_HEADS.NUM_CLASSES"
            if name.startswith(("sem_seg_head.score.", "sem_seg_head.predictor.")):
                return (*counts, "MODEL.SEM_SEG_HEAD.NUM_CLASSES")
        return None


def fit_of(
    source: str,
    model: Mapping[str, torch.Tensor],
    shapes: Mapping[str, Shape],
    incompatible: Any,
    other_vectors: Sequence[str] = (),
) -> Fit:
    """Compare what was loaded with what there is.

    Args:
        source: the file, for messages.
        model: state of the model.
        shapes: of the tensors in the file.
        incompatible: of fvcore's ``Checkpointer._load_model``: ``missing_keys``,
            ``unexpected_keys`` and ``incorrect_shapes``.
        other_vectors: class vectors that were left out as they are not those of the config.
    """
    misshapen = {n: (tuple(f), tuple(m)) for n, f, m in incompatible.incorrect_shapes}
    absent = [n for n in incompatible.missing_keys if n not in misshapen]
    apart = {*misshapen, *absent}
    return Fit(
        source,
        loaded=tuple(n for n in model if n not in apart and not n.endswith(_FROM_ELSEWHERE)),
        missing={n: tuple(model[n].shape) for n in absent if not n.endswith(_FROM_ELSEWHERE)},
        unused={n: shapes.get(n, "") for n in incompatible.unexpected_keys},
        misshapen=misshapen,
        other_vectors=tuple(other_vectors),
    )


def check_finite(weights: Mapping[str, Any], source: str) -> None:
    """Refuse weights that hold NaN or infinity: training diverged before they were saved.

    Args:
        weights: tensors or arrays by name; other values are passed over.
        source: the file, for the message.

    Raises:
        NotFiniteError: naming file and tensor.
    """
    broken = [name for name, value in weights.items() if not _is_finite(value)]
    if broken:
        more = f", and {len(broken) - 1} more tensors" if len(broken) > 1 else ""
        raise NotFiniteError(
            f"the weights in '{source}' are not finite: '{broken[0]}' holds NaN or infinity{more}. "
            f"The training that wrote them had diverged: take an earlier checkpoint."
        )


def _is_finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, np.ndarray):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    return True


def _part(name: str) -> str:
    """The part of a model that a tensor belongs to, such as "roi_heads.mask_head"."""
    return ".".join(name.split(".")[:2])


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _by_module(shapes: Mapping[str, Union[Shape, str]]) -> Collection[Tuple[str, str]]:
    """Names with the tensors of a module in one, and their shapes."""
    rows: Dict[str, str] = {}
    for module, names in itertools.groupby(sorted(shapes), lambda name: name.rpartition(".")[0]):
        members = [*names]
        last = ", ".join(name.rpartition(".")[2] for name in members)
        name = f"{module}.{{{last}}}" if len(members) > 1 else members[0]
        rows[name] = ", ".join(str(shapes[n] or "yes") for n in members)
    return rows.items()
