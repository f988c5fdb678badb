"""A trainer that maps each image of a study once, or once a side."""

import copy
from typing import Any, Dict

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from ...data.dataset_mapper import PartialSupervisionMapper
from ...engine.trainer import Trainer
from ...modeling.kept_features import image_key


class _RememberingMapper:
    """A mapper without chance maps each image once; after that it is remembered."""

    def __init__(self, mapper: PartialSupervisionMapper) -> None:
        self._mapper = mapper
        self._samples: Dict[Any, Dict[str, Any]] = {}

    def __call__(self, record: Dict[str, Any]) -> Dict[str, Any]:
        key = (record["file_name"], record["image_id"])
        if key not in self._samples:
            sample = self._mapper(record)
            self._samples[key] = {**sample, "image_key": image_key(sample["image"])}
        return dict(self._samples[key])


class EitherSide:
    """A mapper in which nothing but a horizontal flip is left to chance, with both remembered."""

    def __init__(self, mapper: PartialSupervisionMapper) -> None:
        """
        Args:
            mapper: without chance, and without the flip.
        """
        flipped = copy.copy(mapper)
        flipped.augmentations = T.AugmentationList(
            [*mapper.augmentations.augs, T.RandomFlip(prob=1.0)]
        )
        self.sides = (_RememberingMapper(mapper), _RememberingMapper(flipped))

    def __call__(self, record: Dict[str, Any]) -> Dict[str, Any]:
        return self.sides[np.random.randint(2)](record)


class StageTrainer(Trainer):
    """Trainer whose mapper remembers, where augmentation leaves but a flip to chance."""

    @classmethod
    def build_mapper(cls, cfg: CfgNode) -> Any:
        """The mapper of the training loader."""
        fixed_size = len(set(cfg.INPUT.MIN_SIZE_TRAIN)) == 1
        if cfg.INPUT.CROP.ENABLED or not fixed_size or cfg.INPUT.RANDOM_FLIP == "vertical":
            return super().build_mapper(cfg)
        still = cfg.clone()
        still.defrost()
        still.INPUT.RANDOM_FLIP = "none"
        kind = _RememberingMapper if cfg.INPUT.RANDOM_FLIP == "none" else EitherSide
        return kind(super().build_mapper(still))
