"""Is a gain where transfer should give one?  Set B classes, their neighbours in set A, their AP."""

from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

import numpy as np
import torch

from ...data.splits import ClassSplit

NUM_NEIGHBOURS = 3

_PREDICTOR = "roi_heads.box_predictor."


def class_vectors_of(checkpoint: Path) -> np.ndarray:
    """Class and box weights (K, 5F) of a detector, side by side, from its checkpoint.

    Raises:
        ValueError: when the file holds no such weights.
    """
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state = state.get("model", state)
    try:
        classes = torch.as_tensor(state[_PREDICTOR + "cls_score.weight"])[:-1]
        boxes = torch.as_tensor(state[_PREDICTOR + "bbox_pred.weight"]).view(len(classes), -1)
    except (KeyError, RuntimeError) as e:
        raise ValueError(f"'{checkpoint}' holds no class-specific box predictor: {e}") from e
    return torch.cat([classes, boxes], 1).double().numpy()


def similarities(vectors: np.ndarray, split: ClassSplit) -> np.ndarray:
    """Cosine similarity of each set B class to each of set A, (|B|, |A|).

    The vectors are centred on set A first, for all classes share a large common part.
    """
    vectors = vectors - vectors[list(split.set_a)].mean(0)
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors[list(split.set_b)] @ vectors[list(split.set_a)].T


def diagnose(
    vectors: Sequence[np.ndarray],
    baseline: Sequence[Mapping[str, float]],
    transfer: Sequence[Mapping[str, float]],
    class_names: Sequence[str],
    split: ClassSplit,
) -> Dict[str, Any]:
    """Neighbours and gains of the set B classes, as means over seeds.

    Args:
        vectors: class vectors (K, D) of each seed.
        baseline: metrics of the class-agnostic row of each seed, with "segm/AP-<class>".
        transfer: likewise of the row with T.
        class_names: in contiguous order.
        split: sets A and B.

    Returns:
        ``{"classes": [{"class", "neighbours": [[name, similarity], ...], "class_agnostic",
        "transfer", "gain"}], "rank_correlation"}``; the latter is Spearman's, between the
        similarity to the nearest class and the gain (None where it is not defined).
    """
    similar = np.mean([similarities(v, split) for v in vectors], axis=0)
    rows: List[Dict[str, Any]] = []
    for i, index in enumerate(split.set_b):
        name = class_names[index]
        pairs = [
            (low.get(f"segm/AP-{name}"), high.get(f"segm/AP-{name}"))
            for low, high in zip(baseline, transfer)
        ]
        if any(None in pair for pair in pairs):
            continue  # no ground truth
        low, high = np.mean(np.array(pairs, float), axis=0)
        nearest = np.argsort(-similar[i], kind="stable")[:NUM_NEIGHBOURS]
        rows.append(
            {
                "class": name,
                "neighbours": [
                    [class_names[split.set_a[j]], float(similar[i, j])] for j in nearest
                ],
                "class_agnostic": float(low),
                "transfer": float(high),
                "gain": float(high - low),
            }
        )
    correlation = _spearman(
        [row["neighbours"][0][1] for row in rows], [row["gain"] for row in rows]
    )
    return {"classes": rows, "rank_correlation": correlation}


def _spearman(x: Sequence[float], y: Sequence[float]) -> Any:
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0; equal values share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[group]
