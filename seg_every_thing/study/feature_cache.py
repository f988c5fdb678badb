"""Features of a frozen detector, computed once and read by every row that trains on top of it.

With ``MODEL.FREEZE_DETECTOR`` the backbone and the RPN give the same output for the same image in
each epoch and each row.  Images are recognised by their pixels, so data loading, order and
augmentation stay those of training without the cache, and so do the losses.
"""

import hashlib
import logging
from pathlib import Path
from typing import Any, Dict, List, Tuple, Union

import numpy as np
import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from ..files import read_json, write_json

logger = logging.getLogger(__name__)

Sample = Dict[str, Any]


def image_key(image: torch.Tensor) -> str:
    """Name of an image (C, H, W) in the cache: a digest of its size and pixels."""
    digest = hashlib.blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()


class FeatureCache:
    """FPN features and proposals of images of one size, in memory-mapped files.

    Files of a folder: ``index.json`` (written last, so its presence means completeness), one
    ``<level>.npy`` a feature level, ``boxes.npy``, ``logits.npy``.
    """

    def __init__(self, folder: Union[str, Path]) -> None:
        """
        Args:
            folder: of a complete cache.

        Raises:
            ValueError: when there is no complete cache.
        """
        folder = Path(folder)
        index = read_json(folder / "index.json")
        self._positions: Dict[str, int] = {key: i for i, key in enumerate(index["keys"])}
        self._counts: List[int] = index["num_proposals"]
        self._levels = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in index["levels"]
        }
        self._boxes = np.load(folder / "boxes.npy", mmap_mode="r")
        self._logits = np.load(folder / "logits.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self._positions)

    @staticmethod
    def is_complete(folder: Union[str, Path]) -> bool:
        """Whether a folder holds a finished cache."""
        return (Path(folder) / "index.json").is_file()

    def lookup(
        self, batch: List[Sample], images: ImageList
    ) -> Tuple[Dict[str, torch.Tensor], List[Instances]]:
        """Features (N, C, H, W) by level, and proposals, of a batch of N samples.

        Raises:
            KeyError: when an image is not in the cache.
        """
        keys = [image_key(sample["image"]) for sample in batch]
        missing = [sample for sample, key in zip(batch, keys) if key not in self._positions]
        if missing:
            raise KeyError(
                f"the feature cache does not hold the image '{missing[0].get('file_name')}' as it "
                f"is augmented now: cached training needs the augmentation the cache was made with"
            )
        rows = [self._positions[key] for key in keys]
        device = images.tensor.device
        features = {
            name: torch.from_numpy(np.stack([level[i] for i in rows])).to(device)
            for name, level in self._levels.items()
        }
        proposals = []
        for i, size in zip(rows, images.image_sizes):
            count = self._counts[i]
            instances = Instances(size)
            instances.proposal_boxes = Boxes(
                torch.from_numpy(self._boxes[i, :count].copy()).to(device)
            )
            instances.objectness_logits = torch.from_numpy(self._logits[i, :count].copy()).to(
                device
            )
            proposals.append(instances)
        return features, proposals


@torch.no_grad()
def write_feature_cache(
    model: nn.Module, samples: List[Sample], folder: Union[str, Path], batch_size: int = 8
) -> None:
    """Run a frozen detector's backbone and RPN over images of one size and keep what they give.

    Args:
        model: a ``GeneralizedRCNN`` after :func:`seg_every_thing.freeze_detector`.
        samples: mapped samples with "image"; equal images are stored once.
        folder: to write; the previous content of the same names is replaced.
        batch_size: images a forward pass.

    Raises:
        ValueError: when the images differ in size, for then padding, which depends on the rest of a
            batch, would reach the features.
    """
    sizes = {tuple(sample["image"].shape) for sample in samples}
    if len(sizes) != 1:
        raise ValueError(f"the feature cache needs images of one size, got {sorted(sizes)[:3]}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    unique = list({image_key(sample["image"]): sample for sample in samples}.items())
    level_names = list(model.roi_heads.mask_in_features)
    levels: Dict[str, np.ndarray] = {}
    counts: List[int] = []
    post_nms = model.proposal_generator.post_nms_topk[False]
    boxes = np.zeros((len(unique), post_nms, 4), np.float32)
    logits = np.zeros((len(unique), post_nms), np.float32)
    was_training = model.training
    model.eval()
    for start in range(0, len(unique), batch_size):
        batch = [sample for _, sample in unique[start : start + batch_size]]
        images = model.preprocess_image(batch)
        features = model.backbone(images.tensor)
        proposals, _ = model.proposal_generator(images, features, None)
        for name in level_names:
            values = features[name].cpu().numpy()
            if name not in levels:
                levels[name] = np.lib.format.open_memmap(
                    folder / f"{name}.npy",
                    mode="w+",
                    dtype=np.float32,
                    shape=(len(unique), *values.shape[1:]),
                )
            levels[name][start : start + len(batch)] = values
        for i, instances in enumerate(proposals, start):
            counts.append(len(instances))
            boxes[i, : len(instances)] = instances.proposal_boxes.tensor.cpu().numpy()
            logits[i, : len(instances)] = instances.objectness_logits.cpu().numpy()
    model.train(was_training)
    levels.clear()  # which writes the memory-mapped files
    np.save(folder / "boxes.npy", boxes)
    np.save(folder / "logits.npy", logits)
    write_json(
        folder / "index.json",
        {"keys": [key for key, _ in unique], "num_proposals": counts, "levels": level_names},
    )
    logger.info("Cached the features of %d images in %s", len(unique), folder)


class CachedFeaturesModel(nn.Module):
    """A frozen-detector model that reads backbone and RPN outputs from a cache in training."""

    def __init__(self, model: nn.Module, cache: FeatureCache) -> None:
        """
        Args:
            model: a ``GeneralizedRCNN`` after :func:`seg_every_thing.freeze_detector`.
            cache: made with the same detector weights.
        """
        super().__init__()
        self.model = model
        self.cache = cache

    def forward(self, batched_inputs: List[Sample]) -> Any:
        """Losses in training, as ``GeneralizedRCNN`` gives them; otherwise its predictions."""
        if not self.training:
            return self.model(batched_inputs)
        images = self.model.preprocess_image(batched_inputs)
        targets = [sample["instances"].to(self.model.device) for sample in batched_inputs]
        features, proposals = self.cache.lookup(batched_inputs, images)
        _, losses = self.model.roi_heads(images, features, proposals, targets)
        return losses
