"""What a frozen detector computes, stored once and read by every row that stands on it.

With ``MODEL.FREEZE_DETECTOR`` the backbone, the RPN and at test time the box head give the same
output for the same image in each epoch and each row.  Images are recognised by their pixels, so
data loading, order and augmentation stay those of training without the cache, and so do the losses.
"""

import contextlib
import itertools
import logging
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from ...files import make_output_dir, read_json, write_array, write_json, written_atomically
from ...modeling.kept_features import image_key

logger = logging.getLogger(__name__)

Sample = Dict[str, Any]

_INDEX = "index.json"
_BOX_FIELDS = ("proposal_boxes", "pred_boxes")


class FeatureCache:
    """Features, and instances (proposals or detections), of images of any size.

    Files of a folder, memory-mapped: ``index.json`` (written last, so its presence means
    completeness), a ``<level>.f32`` for each feature level, with the values of one image behind
    those of the other, and a ``<field>.npy`` for each field of the instances.
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
        self._levels = {
            name: _Ragged(folder / f"{name}.f32", shapes)
            for name, shapes in index["levels"].items()
        }
        self._fields = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in index["fields"]
        }

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

        Where images differ in size, the features of the smaller ones are padded with zeros.

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
        features = {name: level.batch(rows).to(device) for name, level in self._levels.items()}
        return features, [
            self._instances(i, size, device) for i, size in zip(rows, images.image_sizes)
        ]

    def _instances(self, i: int, size: Tuple[int, int], device: torch.device) -> Instances:
        instances = Instances(size)
        for name, values in self._fields.items():
            tensor = torch.from_numpy(values[i, : self._counts[i]].copy()).to(device)
            instances.set(name, Boxes(tensor) if name in _BOX_FIELDS else tensor)
        return instances


class _Ragged:
    """Arrays (C, H, W) of one level, each of its own size, in one file."""

    def __init__(self, path: Path, shapes: Sequence[Sequence[int]]) -> None:
        self._shapes = [tuple(shape) for shape in shapes]
        self._ends = np.cumsum([0, *(math.prod(shape) for shape in self._shapes)])
        self._values: np.ndarray = np.memmap(path, np.float32, mode="r")

    def batch(self, rows: Sequence[int]) -> torch.Tensor:
        """Some of them as (N, C, H, W), with zeros to the right and below."""
        shapes = np.array([self._shapes[i] for i in rows])
        padded = np.zeros((len(rows), *shapes.max(0)), np.float32)
        for target, i in zip(padded, rows):
            values = self._values[self._ends[i] : self._ends[i + 1]].reshape(self._shapes[i])
            target[:, : values.shape[1], : values.shape[2]] = values
        return torch.from_numpy(padded)


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
    """Run a frozen detector over images and keep what it gives.

    Args:
        model: ``GeneralizedRCNN`` or ``BoxToMask`` after :func:`seg_every_thing.freeze_detector`.
        samples: mapped samples with "image"; equal images are stored once.
        folder: to write; the previous content of the same names is replaced.
        instances_of: :func:`proposals_of` or :func:`detections_of`.
        batch_size: images a forward pass, if they are of one size: padding, which depends on the
            rest of a batch, must not reach the features.

    Raises:
        OSError: when the disk has no room; nothing is left then.
    """
    folder = make_output_dir(folder)
    (folder / _INDEX).unlink(missing_ok=True)
    try:
        _write(model, samples, folder, instances_of, batch_size)
    except BaseException:
        for path in (*folder.glob("*.npy"), *folder.glob("*.f32")):
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
    unique.sort(key=lambda item: tuple(item[1]["image"].shape))  # stable: of one size, as they came
    heads = model.roi_heads
    level_names = sorted({*heads.box_in_features, *heads.mask_in_features})
    shapes: Dict[str, List[Tuple[int, ...]]] = {name: [] for name in level_names}
    found: List[Instances] = []
    was_training = model.training
    model.eval()
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(written_atomically(folder / f"{name}.f32", "wb"))
            for name in level_names
        }
        for _, group in itertools.groupby(unique, key=lambda item: item[1]["image"].shape):
            of_one_size = [sample for _, sample in group]
            for start in range(0, len(of_one_size), batch_size):
                batch = of_one_size[start : start + batch_size]
                images = model.preprocess_image(batch)
                features = model.backbone(images.tensor)
                found += [x.to("cpu") for x in instances_of(model, images, features)]
                for name, file in files.items():
                    for values in features[name].cpu().numpy():
                        shapes[name].append(values.shape)
                        file.write(np.ascontiguousarray(values).tobytes())
    model.train(was_training)
    fields = list(found[0].get_fields())
    for name in fields:
        values = [x.get(name) for x in found]
        tensors = [v.tensor if isinstance(v, Boxes) else v for v in values]
        write_array(folder / f"{name}.npy", nn.utils.rnn.pad_sequence(tensors, True).numpy())
    index = {
        "keys": [key for key, _ in unique],
        "counts": [len(x) for x in found],
        "levels": shapes,
        "fields": fields,
    }
    write_json(folder / _INDEX, index)
    logger.info("Cached the features of %d images in %s", len(unique), folder)


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
