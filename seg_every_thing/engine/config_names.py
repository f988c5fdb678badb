"""Words of a config that detectron2 does not know, said with the key that they stand under."""

import re
from typing import Any, Callable, List, Mapping

from detectron2.config import CfgNode
from PIL import Image

SAMPLERS = (
    *("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"),
    *("WeightedTrainingSampler", "WeightedCategoryTrainingSampler"),
)


def check_sampler(cfg: CfgNode) -> None:
    """Check ``DATALOADER.SAMPLER_TRAIN``.

    Raises:
        ValueError: naming the key.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name not in SAMPLERS:
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN '{name}' is not one of {', '.join(SAMPLERS)}")


def check_image_format(cfg: CfgNode) -> None:
    """Check ``INPUT.FORMAT``, which would else be a fault of the first image.

    Raises:
        ValueError: naming the key.
    """
    known = ("BGR", "YUV-BT.601", *Image.MODES)
    if cfg.INPUT.FORMAT not in known:
        raise ValueError(
            f"INPUT.FORMAT '{cfg.INPUT.FORMAT}' is not one of BGR, RGB, L, or another of "
            f"{', '.join(sorted(known))}"
        )


def explaining_names(build: Callable[[CfgNode], Any], cfg: CfgNode) -> Any:
    """``build(cfg)``; what is in none of detectron2's registries is said with its key.

    Raises:
        ValueError: naming the key.
    """
    try:
        return build(cfg)
    except KeyError as e:
        message = str(e.args[0]) if e.args else ""
        found = re.search(r"No object named '(.*?)' found in", message)
        keys = _keys_of(found[1], cfg) if found else []
        if not keys:
            raise
        raise ValueError(f"{' or '.join(keys)}: {message}") from e


def _keys_of(word: str, group: Mapping[str, Any], prefix: str = "") -> List[str]:
    keys: List[str] = []
    for key, value in group.items():
        if isinstance(value, CfgNode):
            keys += _keys_of(word, value, f"{prefix}{key}.")
        elif value == word:
            keys.append(prefix + key)
    return keys
