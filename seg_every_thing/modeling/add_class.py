"""A class added at test time: T turns its vector into mask weights, and nothing is trained.

The detector has no box weights for such a class and goes on with its own K classes, so boxes of the
added class have to be given: ``forward_with_given_boxes`` with the new class index.
"""

from pathlib import Path
from typing import Any, Dict, Tuple, Union

import numpy as np
import torch
from torch import nn

from .roi_heads import PartiallySupervisedROIHeads

Vector = Union[torch.Tensor, np.ndarray]


def add_class(model: nn.Module, name: str, vector: Vector) -> int:
    """Add a class to a model whose T takes embeddings (``WEIGHT_TRANSFER.INPUT`` "embedding").

    ``roi_heads.class_vectors`` gets one row more, so ``mask_weights()`` and masks for given boxes
    know the class.  The rows of the other classes keep every bit, and so do box predictor,
    ``num_classes`` and checkpoints: what is saved afterwards holds the K trained classes, and loads
    into the model as it was built as well as into one with added classes, which keep their vectors.

    Args:
        model: with :class:`PartiallySupervisedROIHeads`; changed in place.
        name: of the class; unique among the added ones.
        vector: (D,) real numbers, D as for the model's other classes and made in the same way.

    Returns:
        The index of the class: K for the first one that is added.

    Raises:
        ValueError: for a model whose mask weights come from elsewhere, a name that was added
            before, or a vector of another width or with values that are not finite.
    """
    heads = getattr(model, "roi_heads", None)
    if not isinstance(heads, PartiallySupervisedROIHeads) or not heads.mask_on:
        raise ValueError(f"cannot add the class '{name}': the model has no mask branch of Mask^X")
    reason = _why_not(heads)
    if reason:
        raise ValueError(
            f"cannot add the class '{name}': {reason}; only a model trained with "
            f"MODEL.WEIGHT_TRANSFER.INPUT 'embedding' can take new classes"
        )
    before = getattr(heads, "added_classes", ())
    if not name or name in before:
        reason = "was added before" if name else "is empty"
        raise ValueError(f"cannot add the class '{name}': its name {reason}")
    row = _checked(name, vector, heads.class_vectors)
    # All that was built and loaded stays where it is; only the look-up of filters changes.
    heads.__class__ = ROIHeadsWithAddedClasses
    heads.class_vectors = torch.cat([heads.class_vectors, row[None]])
    heads.added_classes = (*before, name)
    heads.forget_mask_weights()
    return len(heads.class_vectors) - 1


def read_class_vector(path: str) -> np.ndarray:
    """Read the vector of one class from a .npy file of shape (D,) or (1, D).

    Raises:
        ValueError: for an unreadable file or another shape; the message names the file.
    """
    if Path(path).suffix != ".npy":
        raise ValueError(f"'{path}': the vector of a class is read from a .npy file")
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise ValueError(f"cannot read the class vector '{path}': {e}") from e
    if not isinstance(vector, np.ndarray) or vector.ndim not in (1, 2) or vector.size == 0:
        kind = f"an array of shape {vector.shape}" if hasattr(vector, "shape") else "an archive"
        raise ValueError(f"the class vector '{path}' is {kind}, not an array (D,) or (1, D)")
    if vector.ndim == 2 and len(vector) != 1:
        raise ValueError(
            f"'{path}' holds {len(vector)} vectors {vector.shape}: give the row of the class alone"
        )
    return vector.reshape(-1)


class ROIHeadsWithAddedClasses(PartiallySupervisedROIHeads):
    """What :func:`add_class` makes of a model's heads: filters of K classes, then of added ones."""

    added_classes: Tuple[str, ...] = ()
    _known_and_all: Tuple[Any, Any] = (None, None)

    def forget_mask_weights(self) -> None:
        """Drop the kept filters."""
        self._cached_weights = None
        self._known_and_all = (None, None)

    @torch.no_grad()
    def mask_weights(self) -> torch.Tensor:
        """Predicted mask filters of the K classes and the n added ones, (K + n, C)."""
        known, transfer = super().mask_weights(), self.weight_transfer
        assert transfer is not None  # or there would be no weights
        if self._known_and_all[0] is not known:
            added = torch.arange(self.num_classes, len(self.class_vectors), device=known.device)
            # Each in a call of its own: the number of rows may change the last bit of a row, and
            # no class must depend on those that are added after it.
            with torch.autocast(known.device.type, enabled=False):
                filters = [transfer(self.describe_classes(one)) for one in added.split(1)]
            self._known_and_all = (known, torch.cat([known, *filters]))
        return self._known_and_all[1]

    def _save_to_state_dict(
        self, destination: Dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        key = prefix + "class_vectors"
        destination[key] = destination[key][: self.num_classes]

    def _load_from_state_dict(
        self, state_dict: Dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        key = prefix + "class_vectors"
        vectors = state_dict.get(key)
        if vectors is not None and len(vectors) == self.num_classes:
            added = self.class_vectors[self.num_classes :].to(vectors)
            state_dict = {**state_dict, key: torch.cat([vectors, added])}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _why_not(heads: PartiallySupervisedROIHeads) -> str:
    """Why the heads cannot take another class; "" if they can."""
    if heads.weight_transfer is None:
        kind = getattr(heads.mask_head, "predictor_kind", type(heads.mask_head).__name__)
        return f"its mask head ('{kind}') has no T that would predict weights from a vector"
    if heads.transfer_input != "embedding":
        return (
            f"its T takes '{heads.transfer_input}', box weights that only training on boxes of the "
            f"class would give"
        )
    return ""


def _checked(name: str, vector: Vector, like: torch.Tensor) -> torch.Tensor:
    """The vector as a row of class vectors."""
    values = vector.detach().cpu().numpy() if isinstance(vector, torch.Tensor) else vector
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise ValueError(
            f"the vector of the added class '{name}' must be (D,) real numbers, not "
            f"{values.dtype} of shape {values.shape}"
        )
    if len(values) != like.shape[1]:
        raise ValueError(
            f"the vector of the added class '{name}' has {len(values)} values, those of the "
            f"model's classes {like.shape[1]}: it must come from the same embedding"
        )
    row = torch.from_numpy(values.astype(np.float64)).to(like)
    if not torch.isfinite(row).all():
        raise ValueError(f"the vector of the added class '{name}' holds values that are not finite")
    return row
