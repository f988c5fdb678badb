"""Features of a frozen body, kept from one epoch to the next."""

import logging
import math
import os
import shutil
import tempfile
import time
from hashlib import blake2b
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.structures import ImageList
from torch import nn

from ..files import make_output_dir

logger = logging.getLogger(__name__)

_GB = 2**30
_LEAST_FREE = _GB  # that a disk keeps for others


def image_key(image: torch.Tensor) -> str:
    """Name of an image (C, H, W): a digest of its size and pixels."""
    digest = blake2b(repr(tuple(image.shape)).encode(), digest_size=16)
    digest.update(image.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


class _Entry(NamedTuple):
    """Where the features of an image are in the file."""

    start: int  # in bytes
    shapes: Tuple[Tuple[int, ...], ...]  # of each level


class KeptFeatures:
    """Runs a frozen body once over each image, and remembers what it gave.

    Images are recognised by their pixels, so augmentation is as it was: what does not come again is
    computed, as without.  An image passes the body by itself, so its features do not depend on
    whether they were kept, nor on the other images of a batch.  They are kept as float32 in a file
    without a name, which ends with the process.
    """

    def __init__(self, gigabytes: float, folder: str = "") -> None:
        """
        Args:
            gigabytes: that the file may take; what has no room is computed each time.
            folder: of the file; made when there is something to keep.
        """
        self._room, self._folder = gigabytes * _GB, folder
        self._file: Optional[Any] = None
        self._end = 0
        self._entries: Dict[str, _Entry] = {}
        self.computed, self.seconds = 0, 0.0
        """Images that passed the body, and what that took."""

    def __len__(self) -> int:
        return len(self._entries)

    def __deepcopy__(self, _: Any) -> "KeptFeatures":
        return KeptFeatures(self._room / _GB, self._folder)  # a copy of a model may get others

    def clear(self) -> None:
        """Forget everything: the body has other weights now."""
        self._entries.clear()
        self._end = 0

    def of(
        self, body: nn.Module, images: ImageList, pixels: Sequence[torch.Tensor]
    ) -> Dict[str, torch.Tensor]:
        """Features of a batch.

        Args:
            body: a frozen backbone in evaluation mode.
            images: N normalised images, padded to a common size.
            pixels: (C, H, W) of each, before that.

        Returns:
            (N, C, H, W) of each level, with zeros where an image is smaller than others.
        """
        found = [self._one(body, images[i], image_key(x)) for i, x in enumerate(pixels)]
        return {name: _padded([x[name] for x in found]) for name in found[0]}

    def _one(self, body: nn.Module, image: torch.Tensor, key: str) -> Dict[str, torch.Tensor]:
        names = sorted(body.output_shape())
        if key in self._entries:
            return dict(zip(names, (x.to(image.device) for x in self._read(self._entries[key]))))
        start = time.perf_counter()
        with torch.no_grad():
            alone = ImageList.from_tensors([image], body.size_divisibility)
            features = body(alone.tensor)
        self._keep(key, [features[name][0] for name in names])
        self.computed += 1
        self.seconds += time.perf_counter() - start
        return {name: features[name][0] for name in names}

    def _read(self, entry: _Entry) -> List[torch.Tensor]:
        assert self._file is not None
        sizes = [math.prod(shape) for shape in entry.shapes]
        data = os.pread(self._file.fileno(), 4 * sum(sizes), entry.start)
        values = torch.from_numpy(np.frombuffer(bytearray(data), np.float32))
        return [x.view(shape) for x, shape in zip(values.split(sizes), entry.shapes)]

    def _keep(self, key: str, features: Sequence[torch.Tensor]) -> None:
        arrays = [x.float().cpu().numpy() for x in features]
        size = sum(x.nbytes for x in arrays)
        if self._end + size > self._room:
            return
        try:
            if self._file is None:
                folder = make_output_dir(self._folder or tempfile.gettempdir())
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            if shutil.disk_usage(self._file.fileno()).free < size + _LEAST_FREE:
                raise OSError("the disk is nearly full")
            data = b"".join(x.tobytes() for x in arrays)
            if os.pwrite(self._file.fileno(), data, self._end) < size:
                raise OSError("the disk is full")
        except OSError as e:
            self._room = 0
            logger.warning(
                "No more features are kept in '%s' (%s): training takes longer, its outcome is "
                "the same",
                *(self._folder, e),
            )
            return
        self._entries[key] = _Entry(self._end, tuple(x.shape for x in arrays))
        self._end += size


def _padded(features: Sequence[torch.Tensor]) -> torch.Tensor:
    """(C, H, W) of each image as (N, C, H, W)."""
    height, width = (max(x.shape[i] for x in features) for i in (1, 2))
    batch = features[0].new_zeros(len(features), len(features[0]), height, width)
    for target, x in zip(batch, features):
        target[:, : x.shape[1], : x.shape[2]] = x
    return batch
