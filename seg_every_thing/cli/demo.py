"""`seg-every-thing demo`: a model's predictions on images, folders of images, and videos."""

import argparse
import logging
import time
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import cv2
import numpy as np
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.engine import DefaultPredictor
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from PIL import Image

from ..data.partial import class_names_of
from ..data.splits import resolve_class_split
from ..engine import readable_checkpoint
from ..files import make_output_dir, write_json
from ..visualization import GalleryItem, draw_instances, save_picture, write_gallery
from .common import add_config_arguments, load_config

logger = logging.getLogger(__name__)

HELP = "Draw predictions on images, folders of images or videos; write COCO results and a gallery."

_IMAGES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
_LOG_EVERY = 5.0  # seconds


class Classes(NamedTuple):
    """What a config's data set says of the classes."""

    names: List[str]
    category_ids: List[int]  # the data set's own ids
    set_a: Optional[FrozenSet[int]]  # class indices; None = no sets


class _Picture(NamedTuple):
    name: str  # as in the results: the path as given, with "#<frame>" for frames
    stem: str  # of the file to write
    image: np.ndarray  # (H, W, 3) uint8, BGR


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        *("--input", "-i"),
        nargs="+",
        required=True,
        metavar="PATH",
        help="images, folders of images, videos",
    )
    parser.add_argument(
        *("--output", "-o"),
        required=True,
        metavar="DIR",
        help="gets a picture for each image, index.html, predictions.json (COCO results) and "
        "images.json (COCO images and categories that the results refer to)",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="T",
        help="drop instances of a lower score (default %(default)s)",
    )
    parser.add_argument(
        "--frame-step",
        type=int,
        default=10,
        metavar="N",
        help="use each N-th frame of a video (default %(default)s)",
    )
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run the command.  All input is checked before the model sees any of it.

    Raises:
        ValueError: for bad input; the message names it.
        OSError: when the output cannot be written.
    """
    if not 0 <= args.threshold <= 1:
        raise ValueError(f"--threshold must be between 0 and 1, not {args.threshold}")
    if args.frame_step < 1:
        raise ValueError(f"--frame-step must be at least 1, not {args.frame_step}")
    output = Path(args.output)
    files = find_inputs(args.input)
    for file in files:
        if file.resolve().parent == output.resolve():
            raise ValueError(f"--output '{output}' holds the input '{file}': give another folder")
    cfg = load_config(args.config_file, args.opts)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = args.threshold  # else the config's could be higher
    classes = classes_of(cfg)
    total = count_pictures(files, args.frame_step)
    predictor = build_predictor(cfg)
    make_output_dir(output)

    images: List[Dict[str, Any]] = []
    results: List[Dict[str, Any]] = []
    items: List[GalleryItem] = []
    used: Set[str] = set()
    progress = _Progress(total)
    for picture in read_pictures(files, args.frame_step):
        instances = predictor(picture.image)["instances"].to("cpu")
        instances = instances[instances.scores >= args.threshold]
        drawn = draw_instances(
            picture.image, instances, classes.names, classes.set_a, args.threshold
        )
        target = _unused(picture.stem, used) + ".jpg"
        save_picture(output / target, drawn)
        height, width = picture.image.shape[:2]
        image_id = len(images) + 1
        images.append({"id": image_id, "file_name": picture.name, "width": width, "height": height})
        images[-1]["picture"] = target
        for result in instances_to_coco_json(instances, image_id):
            result["category_id"] = classes.category_ids[result["category_id"]]
            results.append({**result, "file_name": picture.name})
        counts = _count(instances.pred_classes.tolist(), classes.set_a)
        items.append(GalleryItem(target, f"{picture.name}: {counts}"))
        progress.step()

    categories = [{"id": i, "name": n} for i, n in zip(classes.category_ids, classes.names)]
    content = {"images": images, "annotations": [], "categories": categories}
    write_json(output / "images.json", content)
    write_json(output / "predictions.json", results)
    class_of = {category: index for index, category in enumerate(classes.category_ids)}
    found = _count([class_of[r["category_id"]] for r in results], classes.set_a)
    _write_page(output / "index.html", args, cfg, items, found, classes.set_a is not None)
    logger.info("%s in %d pictures: %s", found, len(images), output / "index.html")


def find_inputs(paths: Sequence[str]) -> List[Path]:
    """The images and videos that paths stand for: files as they are, folders by the images in them.

    Returns:
        Files in the given order, the images of a folder by name; each file once.

    Raises:
        ValueError: for a missing path, a folder without images, or a file of another kind.
    """
    files: List[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = [
                p
                for p in sorted(path.iterdir())
                if p.suffix.lower() in _IMAGES and not p.name.startswith(".") and p.is_file()
            ]
            if not found:
                raise ValueError(f"the folder '{path}' holds no images ({', '.join(_IMAGES)})")
            files += found
        elif not path.exists():
            raise ValueError(f"the input '{path}' does not exist")
        elif path.suffix.lower() not in _IMAGES + _VIDEOS:
            raise ValueError(
                f"the input '{path}' is neither an image ({', '.join(_IMAGES)}) "
                f"nor a video ({', '.join(_VIDEOS)})"
            )
        else:
            files.append(path)
    first: Dict[Path, Path] = {}
    for file in files:
        first.setdefault(file.resolve(), file)
    return list(first.values())


def count_pictures(files: Sequence[Path], frame_step: int) -> int:
    """Make sure that every file can be decoded, and count the pictures in them.

    One file that is corrupt would otherwise end a long run in its middle.

    Returns:
        The number of images and of frames to be used; for videos what their header says.

    Raises:
        ValueError: naming the files that cannot be decoded.
    """
    total, bad = 0, []
    for file in files:
        try:
            if file.suffix.lower() in _VIDEOS:
                total += _check_video(file, frame_step)
            else:
                _read_image(file)
                total += 1
        except ValueError as e:
            bad.append(str(e))
    if bad:
        more = f" (and {len(bad) - 3} more files)" if len(bad) > 3 else ""
        raise ValueError("; ".join(bad[:3]) + more)
    return total


def read_pictures(files: Sequence[Path], frame_step: int) -> Iterator[_Picture]:
    """Decode images, and every ``frame_step``-th frame of videos, one after the other."""
    for file in files:
        if file.suffix.lower() not in _VIDEOS:
            yield _Picture(str(file), file.stem, _read_image(file))
            continue
        for index, frame in _frames(file, frame_step):
            yield _Picture(f"{file}#{index}", f"{file.stem}_{index:06d}", frame)


def classes_of(cfg: CfgNode) -> Classes:
    """Names and ids of the classes of a config's data set, and which of them are in set A.

    The annotation file may be absent as long as the metadata know the classes.  Where they do not,
    or where the model has another number of classes, classes are named by their index.

    Raises:
        ValueError: when the split does not fit the classes.
    """
    split = cfg.TEST.CLASS_SPLIT or cfg.DATASETS.MASK_CLASSES
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    ids = list(range(num_classes))
    data_sets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    try:
        names = _known_names(data_sets[0]) if data_sets else []
    except (OSError, ValueError) as e:
        logger.warning("Class names are not known: %s", e)
        names = []
    if len(names) != num_classes:
        logger.warning(
            "Classes are named by their index: the model has %d classes, the data set %d%s",
            *(num_classes, len(names)),
            "" if split == "all" else f"; nor are the sets of the split '{split}' told apart",
        )
        return Classes([str(i) for i in ids], ids, None)
    to_index = MetadataCatalog.get(data_sets[0]).get("thing_dataset_id_to_contiguous_id") or {}
    if sorted(to_index.values()) == ids:
        ids = sorted(to_index, key=to_index.__getitem__)
    if split == "all":
        return Classes(names, ids, None)
    return Classes(names, ids, frozenset(resolve_class_split(split, names).set_a))


def build_predictor(cfg: CfgNode) -> DefaultPredictor:
    """detectron2's predictor with the weights of ``MODEL.WEIGHTS``; "" = random weights.

    Raises:
        ValueError: when the config does not fit or the checkpoint cannot be read.
    """
    without_weights = cfg.clone()
    without_weights.MODEL.WEIGHTS = ""
    # In two steps, so that a mistake in the config is not taken for a broken checkpoint.
    predictor = DefaultPredictor(without_weights)
    if not cfg.MODEL.WEIGHTS:
        logger.warning("MODEL.WEIGHTS is empty: the weights are random, the predictions noise")
        return predictor
    with readable_checkpoint(cfg.MODEL.WEIGHTS):
        DetectionCheckpointer(predictor.model).load(cfg.MODEL.WEIGHTS)
    return predictor


def _known_names(data_set: str) -> List[str]:
    return list(MetadataCatalog.get(data_set).get("thing_classes") or class_names_of(data_set))


def _read_image(path: Path) -> np.ndarray:
    try:
        return np.ascontiguousarray(read_image(str(path), format="BGR"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise ValueError(f"cannot decode the image '{path}': {e}") from e


def _check_video(path: Path, frame_step: int) -> int:
    if next(_frames(path, 1), None) is None:
        raise ValueError(f"cannot decode the video '{path}': it has no readable frame")
    capture = cv2.VideoCapture(str(path))
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return 1 + max(frames - 1, 0) // frame_step


def _frames(path: Path, step: int) -> Iterator[Tuple[int, np.ndarray]]:
    capture = cv2.VideoCapture(str(path))
    try:
        index = 0
        while capture.grab():
            if index % step == 0:
                decoded, frame = capture.retrieve()
                if decoded:
                    yield index, frame
            index += 1
    finally:
        capture.release()


def _unused(stem: str, used: Set[str]) -> str:
    """A name that no picture has yet, also where upper and lower case are the same."""
    name, number = stem, 1
    while name.lower() in used:
        number += 1
        name = f"{stem}_{number}"
    used.add(name.lower())
    return name


def _count(classes: Sequence[int], set_a: Optional[FrozenSet[int]]) -> str:
    text = f"{len(classes)} instance{'' if len(classes) == 1 else 's'}"
    if set_a is None or not classes:
        return text
    in_a = sum(c in set_a for c in classes)
    return f"{text} ({in_a} of set A, {len(classes) - in_a} of set B)"


def _write_page(
    path: Path,
    args: argparse.Namespace,
    cfg: CfgNode,
    items: Sequence[GalleryItem],
    found: str,
    with_sets: bool,
) -> None:
    split = cfg.TEST.CLASS_SPLIT or cfg.DATASETS.MASK_CLASSES
    intro = (
        f"{found} with a score of at least {args.threshold:g} in {len(items)} pictures.\n\n"
        f"Config: {args.config_file}. Weights: {cfg.MODEL.WEIGHTS or 'random'}. "
        f"Class split: {split}."
    )
    write_gallery(path, "Predictions", intro, items, with_sets=with_sets)


class _Progress:
    """Logs every few seconds how far the run is and how long it will take."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._start = self._last_log = time.perf_counter()

    def step(self) -> None:
        self._done += 1
        now = time.perf_counter()
        if now - self._last_log < _LOG_EVERY and self._done not in (1, self._total):
            return
        self._last_log = now
        pace = (now - self._start) / self._done
        self._total = max(self._total, self._done)  # a video's header may be wrong
        left = (self._total - self._done) * pace
        logger.info(
            *("picture %d of %d, %.2f s each, ETA %s", self._done, self._total, pace),
            f"{left // 3600:.0f}:{left // 60 % 60:02.0f}:{left % 60:02.0f}",
        )
