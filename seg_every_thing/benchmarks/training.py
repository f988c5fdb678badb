"""A training iteration of Mask^X R-CNN beside stock Mask R-CNN's, and loading beside stock's."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import torch

from ..leftovers import temporary_folder
from .loading import FORMATS, Loading, write_images
from .measuring import processor_name, versions
from .training_step import IMAGES, KINDS, TrainingIteration
from .turns import Row, measure_in_turns

SIZE = (800, 1216)
"""Height and width of the images of a batch: COCO's, after resizing, more or less."""


def benchmark_training(
    size: Sequence[int] = SIZE,
    *,
    rois: int = 128,
    repeats: int = 5,
    device: str = "cpu",
    num_images: int = 16,
    options: Tuple[Any, ...] = (),
) -> Dict[str, Any]:
    """Measure a training iteration of three models, and the loading of images by two mappers.

    The models are R-50-FPN with 80 classes: "stock" (detectron2's Mask R-CNN), "ours" (Mask^X,
    cls+box, without MLP) and "ours+boxes" (with box losses of all RoIs, too).  They get the same
    two images, proposals and mask RoIs, and take turns; so do the mappers, after them.

    Args:
        size: height and width of the images.
        rois: mask RoIs of the batch, an even number.
        repeats: timed turns of each.
        device: a PyTorch device.
        num_images: that a mapper loads in a turn.
        options: KEY, VALUE, ... on top of the config.

    Returns:
        ``{"rows", "versions", "device", "processor", "threads"}``.  A row has ``name`` and what
        :func:`measure_in_turns` says, its ratios to stock ("ours+boxes": to "ours"), and

        - of a model: ``peak_bytes``, ``mask_rois`` and ``parameters``;
        - of a mapper, "loading, polygon: ours" and so on: ``images`` of a turn, and
          ``images_per_second``.

    Raises:
        ValueError: for a number that is too small or odd, or a device that is not there.
    """
    if min(size) < 64:
        raise ValueError(f"images must have at least 64x64 pixels, got {size[0]}x{size[1]}")
    if rois < 2 or rois % IMAGES:
        raise ValueError(f"the number of RoIs must be even and at least 2, got {rois}")
    for what, value in (("repeats", repeats), ("images", num_images)):
        if value < 1:
            raise ValueError(f"the number of {what} must be at least 1, got {value}")
    processor = processor_name(device)
    models: List[Row] = [{"name": name} for name in KINDS]
    build = partial(TrainingIteration, size=size, rois=rois, device=device, options=options)
    measure_in_turns(models, [partial(build, kind) for kind in KINDS], repeats, [0, 0, 1])
    return {
        "rows": models + _loading_rows(num_images, repeats),
        "versions": versions(),
        "size": list(size),
        "device": device,
        "processor": processor,
        "threads": torch.get_num_threads(),
    }


def _loading_rows(num_images: int, repeats: int) -> List[Row]:
    kinds = [(kind, mask_format) for mask_format in FORMATS for kind in ("stock", "ours")]
    rows: List[Row] = [{"name": f"loading, {masks}: {kind}"} for kind, masks in kinds]
    with temporary_folder(Path(tempfile.gettempdir(), "training")) as place:
        write_images(Path(place), num_images)
        builds = [partial(Loading, kind, str(place), num_images, masks) for kind, masks in kinds]
        measure_in_turns(rows, builds, repeats, [0, 0, 2, 2])
    for row in rows:
        if "skipped" not in row:
            row["images_per_second"] = row["images"] / row["seconds"]
    return rows
