"""What a frozen detector computes, stored once and read by every row that stands on it.

With ``MODEL.FREEZE_DETECTOR`` the backbone, the RPN and at test time the box head give the same
output for the same image in each epoch and each row.  Images are recognised by their pixels, so
data loading, order and augmentation stay those of training without the cache, and so do the losses.
"""

import logging
import os
from hashlib import blake2b
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from ...files import make_output_dir, read_json, write_array, write_json

logger = logging.getLogger(__name__)

Sample = Dict[str, Any]

_INDEX = "index.json"
_BOX_FIELDS = ("proposal_boxes", "pred_boxes")


def image_key(image: torch.Tensor) -> str:
    """Name of an image (C, H, W) in the cache: a digest of its size and pixels."""
    digest = blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()


class FeatureCache:
    """FPN features, and instances (proposals or detections), of images of one size.

    Files of a folder, memory-mapped: ``index.json`` (written last, so its presence means
    completeness), a ``<level>.npy`` for each feature level, a ``<field>.npy`` for each field of the
    instances.
    """

    def __init__(self, folder: Union[str, Path]) -> None:
        """
        Args:
            folder: of a complete cache.

        Raises:
            ValueError: when there is no complete cache.
        """
        folder = Path(folder)
        index = read_json(folder / _INDEX)
        self._positions: Dict[str, int] = {key: i for i, key in enumerate(index["keys"])}
        self._counts: List[int] = index["counts"]
        self._levels = _open(folder, index["levels"])
        self._fields = _open(folder, index["fields"])

    def __len__(self) -> int:
        return len(self._positions)

    @staticmethod
    def is_complete(folder: Union[str, Path]) -> bool:
        """Whether a folder holds a finished cache."""
        return (Path(folder) / _INDEX).is_file()

    def lookup(
        self, batch: List[Sample], images: ImageList
    ) -> Tuple[Dict[str, torch.Tensor], List[Instances]]:
        """Features (N, C, H, W) by level, and instances, of a batch of N samples.

        Raises:
            KeyError: when an image is not in the cache.
        """
        rows = []
        for sample in batch:
            key = sample.get("image_key") or image_key(sample["image"])
            if key not in self._positions:
                raise KeyError(
                    f"the feature cache does not hold the image '{sample.get('file_name')}' as it "
                    f"is augmented now: cached training needs the augmentation the cache was made "
                    f"with"
                )
            rows.append(self._positions[key])
        device = images.tensor.device
        features = {
            name: torch.from_numpy(np.stack([level[i] for i in rows])).to(device)
            for name, level in self._levels.items()
        }
        return features, [
            self._instances(i, size, device) for i, size in zip(rows, images.image_sizes)
        ]

    def _instances(self, i: int, size: Tuple[int, int], device: torch.device) -> Instances:
        instances = Instances(size)
        for name, values in self._fields.items():
            tensor = torch.from_numpy(values[i, : self._counts[i]].copy()).to(device)
            instances.set(name, Boxes(tensor) if name in _BOX_FIELDS else tensor)
        return instances


def _open(folder: Path, names: List[str]) -> Dict[str, np.ndarray]:
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}


def proposals_of(model: nn.Module, images: ImageList, features: Any) -> List[Instances]:
    """What stage two trains on: the RPN's proposals; none for a ``BoxToMask``."""
    if model.proposal_generator is None:
        empty = images.tensor.new_zeros(0, 4)
        return [Instances(size, proposal_boxes=Boxes(empty)) for size in images.image_sizes]
    return model.proposal_generator(images, features, None)[0]


def detections_of(model: nn.Module, images: ImageList, features: Any) -> List[Instances]:
    """What masks are predicted for at test time: the box head's detections."""
    return model.roi_heads._forward_box(features, proposals_of(model, images, features))


@torch.no_grad()
def write_feature_cache(
    model: nn.Module,
    samples: List[Sample],
    folder: Union[str, Path],
    instances_of: Callable[..., List[Instances]] = proposals_of,
    batch_size: int = 8,
) -> None:
    """Run a frozen detector over images of one size and keep what it gives.

    Args:
        model: ``GeneralizedRCNN`` or ``BoxToMask`` after :func:`seg_every_thing.freeze_detector`.
        samples: mapped samples with "image"; equal images are stored once.
        folder: to write; the previous content of the same names is replaced.
        instances_of: :func:`proposals_of` or :func:`detections_of`.
        batch_size: images a forward pass.

    Raises:
        ValueError: when the images differ in size, for then padding, which depends on the rest of a
            batch, would reach the features.
        OSError: when the disk has no room; nothing is left then.
    """
    sizes = {tuple(sample["image"].shape) for sample in samples}
    if len(sizes) != 1:
        raise ValueError(f"the feature cache needs images of one size, got {sorted(sizes)[:3]}")
    folder = make_output_dir(folder)
    (folder / _INDEX).unlink(missing_ok=True)
    try:
        _write(model, samples, folder, instances_of, batch_size)
    except BaseException:
        for path in folder.glob("*.npy"):
            path.unlink()
        raise


def _write(
    model: nn.Module,
    samples: List[Sample],
    folder: Path,
    instances_of: Callable[..., List[Instances]],
    batch_size: int,
) -> None:
    unique = list({image_key(sample["image"]): sample for sample in samples}.items())
    heads = model.roi_heads
    level_names = sorted({*heads.box_in_features, *heads.mask_in_features})
    levels: Dict[str, np.ndarray] = {}
    found: List[Instances] = []
    was_training = model.training
    model.eval()
    for start in range(0, len(unique), batch_size):
        batch = [sample for _, sample in unique[start : start + batch_size]]
        images = model.preprocess_image(batch)
        features = model.backbone(images.tensor)
        found += [x.to("cpu") for x in instances_of(model, images, features)]
        for name in level_names:
            values = features[name].cpu().numpy()
            if name not in levels:
                shape = (len(unique), *values.shape[1:])
                levels[name] = _new_memmap(folder / f"{name}.npy", shape)
            levels[name][start : start + len(batch)] = values
    model.train(was_training)
    levels.clear()  # which writes the memory-mapped files
    fields = list(found[0].get_fields())
    for name in fields:
        values = [x.get(name) for x in found]
        tensors = [v.tensor if isinstance(v, Boxes) else v for v in values]
        write_array(folder / f"{name}.npy", nn.utils.rnn.pad_sequence(tensors, True).numpy())
    index = {
        "keys": [key for key, _ in unique],
        "counts": [len(x) for x in found],
        "levels": level_names,
        "fields": fields,
    }
    write_json(folder / _INDEX, index)
    logger.info("Cached the features of %d images in %s", len(unique), folder)


def _new_memmap(path: Path, shape: Tuple[int, ...]) -> np.ndarray:
    """A float32 array in a file that has its space on the disk, where the system can reserve it.

    Without, the first page that the disk has no room for would end the process without a word.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):
            with open(path, "r+b") as f:
                os.posix_fallocate(f.fileno(), 0, os.path.getsize(path))
    except OSError as e:
        raise OSError(f"cannot write '{path}': {e.strerror or e}") from e
    return array


class CachedFeaturesModel(nn.Module):
    """A frozen-detector model that reads from caches what its detector would compute again."""

    def __init__(
        self, model: GeneralizedRCNN, training: FeatureCache, inference: FeatureCache
    ) -> None:
        """
        Args:
            model: after :func:`seg_every_thing.freeze_detector`.
            training: cache with proposals, made with the same detector weights.
            inference: likewise, with detections.
        """
        super().__init__()
        self.model = model
        self.caches = {True: training, False: inference}

    def forward(self, batched_inputs: List[Sample]) -> Any:
        """Losses in training, predictions otherwise, as ``GeneralizedRCNN`` gives them."""
        if not self.training:
            return self.inference(batched_inputs)
        images, features, proposals = self._lookup(batched_inputs)
        targets = [sample["instances"].to(self.model.device) for sample in batched_inputs]
        return self.model.roi_heads(images, features, proposals, targets)[1]

    def inference(
        self,
        batched_inputs: List[Sample],
        detected_instances: Optional[List[Instances]] = None,
        do_postprocess: bool = True,
    ) -> Any:
        """As ``GeneralizedRCNN``: masks of the cached detections, or of boxes that are given."""
        images, features, instances = self._lookup(batched_inputs)
        if detected_instances is not None:
            instances = [x.to(self.model.device) for x in detected_instances]
        results = self.model.roi_heads.forward_with_given_boxes(features, instances)
        if not do_postprocess:
            return results
        return GeneralizedRCNN._postprocess(results, batched_inputs, images.image_sizes)

    def _lookup(
        self, batch: List[Sample]
    ) -> Tuple[ImageList, Dict[str, torch.Tensor], List[Instances]]:
        images = self.model.preprocess_image(batch)
        return (images, *self.caches[self.training].lookup(batch, images))
