"""Image by image: what a process does to make masks."""

import logging
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Deque, Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.utils import comm

from ..config import load_config
from ..data.images import check_image_size, read_image, reason_of
from ..data.segmentations import usable_segmentation
from ..engine.predictor import build_predictor
from ..engine.ranks import launch
from ..export.predictor import load_predictor
from .encoding import CutMask, to_rle
from .features import appearance, overlaps
from .index import Index, IndexedImage, IndexedObject
from .masker import BoxMasker, MadeMask, model_classes
from .options import Options
from .results import Result, Results, new_result_file, result_files, writing_results
from .training import TrainedModel

logger = logging.getLogger(__name__)

Masker = Callable[[np.ndarray, np.ndarray, Sequence[Any]], List[MadeMask]]
MakeMasker = Callable[["Work", Index], Masker]

# What an image may cause: too thin, too large, out of memory.  Anything else is a defect.
_OF_AN_IMAGE = (
    *(ArithmeticError, AssertionError, MemoryError, OSError, RuntimeError, ValueError),
    cv2.error,
)
_AHEAD = 4  # images that are read while another one is at the model
_LOG_SECONDS = 10.0
_NAMED = 10  # failures in the log


class Work(NamedTuple):
    """What the processes of a run share."""

    options: Options
    index_file: Path
    model: TrainedModel
    attempt: int
    make_masker: MakeMasker

    def parts(self, rank: int = 0, processes: int = 1) -> Tuple[int, int]:
        """(part, parts) of the images that a process does."""
        shard, shards = self.options.shard or (1, 1)
        return (shard - 1) + shards * rank, shards * processes


def masker_of(work: Work, index: Index) -> Masker:
    """The trained model of a run.

    Raises:
        ValueError: when its weights do not fit its config, or it lacks a class of the data.
    """
    source = f"'{work.options.annotations}'"
    if work.options.model is not None:
        predictor = load_predictor(work.options.model)
        words = predictor.vocabulary
        classes = model_classes(predictor.cfg, index.categories, source, words)
        return BoxMasker(predictor, classes)
    cfg = load_config(work.model.config_file, list(work.model.opts))
    classes = model_classes(cfg, index.categories, source)
    return BoxMasker(build_predictor(cfg, work.options.allow_partial), classes)


def make_masks(work: Work) -> None:
    """Make the masks of one process's share of the images that have none yet."""
    rank, processes = comm.get_rank(), comm.get_world_size()
    index = Index(work.index_file)
    folder = work.index_file.parent
    earlier = Results(
        path
        for path in result_files(folder, "*" if work.options.shard is None else work.options.group)
        if f"-{work.attempt:04}-" not in path.name
    )
    part = work.parts(rank, processes)
    total = sum(not earlier.is_done(image.number) for image in index.images(*part))
    if total:
        masker = work.make_masker(work, index)
        path = new_result_file(folder, work.options.group, work.attempt, rank)
        todo = (image for image in index.images(*part) if not earlier.is_done(image.number))
        with writing_results(path) as writer:
            progress = _Progress(total, processes)
            for image, pixels in _read_ahead(todo, work.options.image_root):
                try:
                    results = _results(masker, image, pixels.result(), index)
                except _OF_AN_IMAGE as e:
                    progress.failed(reason_of(e))
                    writer.fail(image.number, reason_of(e))
                else:
                    writer.add(image.number, results)
                progress.step()
    earlier.close()
    index.close()
    comm.synchronize()


def make_all_masks(
    options: Options, index: Index, model: TrainedModel, make_masker: MakeMasker
) -> Dict[str, str]:
    """Make the masks that are missing, or to be compared, in as many processes as wanted.

    Returns:
        Why images got none, by file name.

    Raises:
        ValueError: when no image can be used.
    """
    attempt = 1 + max(
        (int(path.stem.split("-")[-2]) for path in result_files(options.work_dir)), default=0
    )
    work = Work(options, index.path, model, attempt, make_masker)
    launch(make_masks, options.num_gpus, args=(work,))
    # Files of other shards may be open elsewhere.
    group = "*" if options.shard is None else options.group
    results = Results(result_files(options.work_dir, group))
    failures = {index.image(n).file_name: why for n, why in results.failures().items()}
    part = work.parts()
    if failures and not any(results.is_done(image.number) for image in index.images(*part)):
        raise ValueError(
            f"no image can be used: {next(iter(failures.values()))} (and {len(failures) - 1} more)"
        )
    results.close()
    return failures


def _read_ahead(
    images: Iterable[IndexedImage], root: Path
) -> Iterator[Tuple[IndexedImage, "Future[np.ndarray]"]]:
    waiting: Deque[Any] = deque()
    with ThreadPoolExecutor(1) as pool:
        for image in images:
            waiting.append((image, pool.submit(read_checked, image, root)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def read_checked(image: IndexedImage, root: Path) -> np.ndarray:
    """An image of the data set: (H, W, 3) uint8, BGR, turned as its EXIF orientation says.

    Raises:
        FileNotFoundError: when it is missing.
        ValueError: when it cannot be read, or has another size than its annotation.
    """
    path = root / image.file_name
    pixels = read_image(path)
    check_image_size({"file_name": str(path), "height": image.height, "width": image.width}, pixels)
    return pixels


def _results(masker: Masker, image: IndexedImage, pixels: np.ndarray, index: Index) -> List[Result]:
    objects = index.objects(image.number)
    boxes = boxes_of(objects)
    covered = overlaps(boxes, np.array(index.boxes(image.number)))
    made = masker(pixels, boxes, [x.category for x in objects])
    results = []
    for x, (mask, features), overlap in zip(objects, made, covered):
        h, w = mask.pixels.shape
        window = pixels[mask.top : mask.top + h, mask.left : mask.left + w]
        features = (*features, *appearance(window, mask.pixels), float(overlap))
        iou = None if x.truth is None else _iou(mask, x.truth, image.height, image.width)
        results.append(Result(x.number, mask, features, iou))
    return results


def boxes_of(objects: Sequence[IndexedObject]) -> np.ndarray:
    """(n, 4) x, y, width, height in pixels."""
    return np.array([x.box for x in objects], float).reshape(-1, 4)


def _iou(mask: CutMask, truth: Any, height: int, width: int) -> float:
    """Of a mask with the one that was held out."""
    segmentation: Any = usable_segmentation(truth, (height, width))
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    return float(mask_util.iou([to_rle(mask, height, width)], [segmentation], [0])[0, 0])


class _Progress:
    """Logs how far a process is, how fast, and how long the rest takes."""

    def __init__(self, total: int, processes: int) -> None:
        self._total, self._processes = total, processes
        self._done = self._failed = 0
        self._start = self._logged = time.perf_counter()

    def failed(self, reason: str) -> None:
        self._failed += 1
        if self._failed <= _NAMED:
            logger.warning("No masks: %s", reason)

    def step(self) -> None:
        self._done += 1
        now = time.perf_counter()
        if now - self._logged < _LOG_SECONDS and self._done < self._total:
            return
        self._logged = now
        pace = (now - self._start) / self._done
        left = round((self._total - self._done) * pace)
        logger.info(
            "Masks of %d of %d images, %.1f images a second%s, ETA %d:%02d:%02d",
            *(self._done, self._total, 1 / max(pace, 1e-9)),
            f" in each of {self._processes} processes" if self._processes > 1 else "",
            *(left // 3600, left // 60 % 60, left % 60),
        )
