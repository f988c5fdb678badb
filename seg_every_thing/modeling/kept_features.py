"""Features of a frozen body, kept from one epoch to the next."""

import contextlib
import logging
import math
import os
import shutil
import tempfile
import time
from hashlib import blake2b
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

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
    kinds: Tuple[torch.dtype, ...]  # under autocast not float32, which the file has


class _Store:
    """Features by image, in a file without a name, which ends with the process."""

    def __init__(self, gigabytes: float, folder: str) -> None:
        self.gigabytes, self.folder = gigabytes, folder
        self._room = gigabytes * _GB
        self._file: Optional[Any] = None
        self._end = 0
        self.entries: Dict[str, _Entry] = {}

    def read(self, key: str) -> List[torch.Tensor]:
        assert self._file is not None
        start, shapes, kinds = self.entries[key]
        sizes = [math.prod(shape) for shape in shapes]
        data = bytearray(os.pread(self._file.fileno(), 4 * sum(sizes), start))
        values = torch.from_numpy(np.frombuffer(data, np.float32))
        parts = zip(values.split(sizes), shapes, kinds)
        return [x.view(shape).to(kind) for x, shape, kind in parts]

    def keep(self, key: str, features: Sequence[torch.Tensor]) -> None:
        arrays = [x.float().cpu().numpy() for x in features]
        size = sum(x.nbytes for x in arrays)
        if self._end + size > self._room:
            return
        try:
            if self._file is None:
                folder = make_output_dir(self.folder or tempfile.gettempdir())
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
                *(self.folder, e),
            )
            return
        kinds = tuple(x.dtype for x in features)
        self.entries[key] = _Entry(self._end, tuple(x.shape for x in arrays), kinds)
        self._end += size


_shared: Optional[Dict[str, _Store]] = None


@contextlib.contextmanager
def shared_features() -> Iterator[None]:
    """Models that train one after the other keep their features together, where bodies are equal.

    In this process; features are forgotten in the end.
    """
    global _shared
    before, _shared = _shared, {} if _shared is None else _shared
    try:
        yield
    finally:
        _shared = before


class KeptFeatures:
    """Runs a frozen body once over each image, and remembers what it gave.

    Images are recognised by their pixels, so augmentation is as it was: what does not come again is
    computed, as without.  An image passes the body by itself, so its features do not depend on
    whether they were kept, nor on the other images of a batch.
    """

    def __init__(self, gigabytes: float, folder: str = "", normalization: str = "") -> None:
        """
        Args:
            gigabytes: that the file may take; what has no room is computed each time.
            folder: of the file; made when there is something to keep.
            normalization: of images; where it differs, no features are shared.
        """
        self._store = _Store(gigabytes, folder)
        self._normalization = normalization
        self._is_shared = False
        self.computed, self.seconds = 0, 0.0
        """Images that passed the body, and what that took."""

    def __len__(self) -> int:
        return len(self._store.entries)

    def __deepcopy__(self, _: Any) -> "KeptFeatures":
        # A copy of a model may get other weights.
        return KeptFeatures(self._store.gigabytes, self._store.folder, self._normalization)

    def clear(self) -> None:
        """Forget everything: the body has other weights now."""
        self._store = _Store(self._store.gigabytes, self._store.folder)
        self._is_shared = False

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
        if _shared is not None and not self._is_shared:
            key = self._normalization + _digest(body)
            self._store = _shared.setdefault(key, self._store)
            self._is_shared = True
        found = [self._one(body, images[i], image_key(x)) for i, x in enumerate(pixels)]
        return {name: ImageList.from_tensors([x[name] for x in found]).tensor for name in found[0]}

    def _one(self, body: nn.Module, image: torch.Tensor, key: str) -> Dict[str, torch.Tensor]:
        names = sorted(body.output_shape())
        if key in self._store.entries:
            return dict(zip(names, (x.to(image.device) for x in self._store.read(key))))
        start = time.perf_counter()
        with torch.no_grad():
            alone = ImageList.from_tensors([image], body.size_divisibility)
            features = body(alone.tensor)
        self._store.keep(key, [features[name][0] for name in names])
        self.computed += 1
        self.seconds += time.perf_counter() - start
        return {name: features[name][0] for name in names}


def _digest(body: nn.Module) -> str:
    """Of what a body is: its layers and weights."""
    digest = blake2b(repr(body).encode(), digest_size=16)
    for name, tensor in sorted(body.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
