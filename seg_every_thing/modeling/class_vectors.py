"""Class vectors from outside the detector: one row a class, from a file or drawn from a seed."""

from pathlib import Path
from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode

from ..data.catalog import class_names_of

RANDOM_DIM = 300
RANDOM_STD = 0.38
"""Width and spread of drawn vectors: those of the 300-d GloVe vectors that the original used, so
that the control differs from an embedding in what it says, not in how long it is."""


def class_vectors_of(cfg: CfgNode) -> torch.Tensor:
    """The class vectors of a config, (K, D); see :func:`load_class_vectors`."""
    path = cfg.MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE
    has_words = bool(path) and not path.endswith(".npy") and not path.startswith("random:")
    data_sets = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    names = class_names_of(data_sets[0]) if has_words else None
    return load_class_vectors(path, cfg.MODEL.ROI_HEADS.NUM_CLASSES, names)


def load_class_vectors(
    path: str, num_classes: int, class_names: Optional[Sequence[str]] = None
) -> torch.Tensor:
    """Read class vectors.

    Args:
        path: a .npy file of shape (K, D) in class order, or a text file with a word and its D
            numbers on each line (GloVe's format); names of several words get the words' mean; or
            "random:SEED" (a vector for each class) or "random-words:SEED" (one for each word).
        num_classes: K.
        class_names: in class order; needed where words matter.

    Returns:
        (K, D) float32.

    Raises:
        ValueError: for an unreadable file, a wrong shape, or words that the file does not have.
    """
    if not path:
        raise ValueError(
            "MODEL.WEIGHT_TRANSFER.INPUT 'embedding' needs MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE"
        )
    if Path(path).suffix == ".npy":
        vectors = _load_npy(path)
    elif path.startswith("random:"):
        vectors = _draw([_seed_of(path)], num_classes)
    elif class_names is None:
        raise ValueError(f"'{path}': word vectors need the names of the classes")
    elif path.startswith("random-words:"):
        vectors = _draw_words(_seed_of(path), class_names)
    else:
        vectors = _load_text(path, class_names)
    if vectors.ndim != 2 or vectors.shape[0] != num_classes or vectors.size == 0:
        raise ValueError(
            f"class vectors in '{path}' have shape {tuple(vectors.shape)}, expected "
            f"({num_classes}, D): one row for each of MODEL.ROI_HEADS.NUM_CLASSES classes"
        )
    if vectors.dtype.kind not in "fiu":
        raise ValueError(f"class vectors in '{path}' must be real numbers, not {vectors.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, and is refused
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise ValueError(f"class vectors in '{path}' hold values that are not finite")
    return torch.from_numpy(vectors)


def _load_npy(path: str) -> np.ndarray:
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise ValueError(f"cannot read class vectors from '{path}': {e}") from e
    if not isinstance(vectors, np.ndarray):
        raise ValueError(f"cannot read class vectors from '{path}': it is an archive, not an array")
    return vectors


def _load_text(path: str, class_names: Sequence[str]) -> np.ndarray:
    words = {word for name in class_names for word in _words(name)}
    vectors: Dict[str, np.ndarray] = {}
    try:
        with open(path, encoding="utf-8") as f:
            for line in f:
                word, _, numbers = line.rstrip().partition(" ")
                if word in words:
                    vectors[word] = np.array(numbers.split(), dtype=np.float32)
    except (OSError, ValueError) as e:
        raise ValueError(f"cannot read word vectors from '{path}': {e}") from e
    missing = sorted(words - vectors.keys())
    if missing:
        raise ValueError(f"'{path}' has no vector for the words: {', '.join(missing)}")
    if len({v.size for v in vectors.values()}) > 1:
        raise ValueError(f"the word vectors in '{path}' differ in length")
    return np.stack([np.mean([vectors[w] for w in _words(n)], axis=0) for n in class_names])


def _draw(seed: List[int], count: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, RANDOM_STD, (count, RANDOM_DIM))


def _draw_words(seed: int, class_names: Sequence[str]) -> np.ndarray:
    """A word has the same vector in every data set, as its seed is its spelling."""
    return np.stack(
        [
            np.mean([_draw([seed, *word.encode()], 1)[0] for word in _words(name)], axis=0)
            for name in class_names
        ]
    )


def _seed_of(path: str) -> int:
    kind, _, seed = path.partition(":")
    if not seed.isdecimal():
        raise ValueError(
            f"MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE '{path}': expected a seed after the colon, such "
            f"as '{kind}:0'"
        )
    return int(seed)


def _words(name: str) -> List[str]:
    return name.lower().replace("_", " ").replace("-", " ").split()
