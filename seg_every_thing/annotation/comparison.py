"""How good masks are that were made where true ones are known, and how to find out in advance.

Take the masks of some classes away (:func:`hide_masks`), let ``annotate`` make them, and compare
them with those that were taken away (:func:`compare_masks`): by class, beside the IoU that
``annotate`` expected, and beside methods that learn nothing.
"""

import logging
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import pycocotools.mask as mask_util
from tabulate import tabulate

from ..data.images import read_image
from ..data.segmentations import shortened, usable_segmentation
from ..data.splits import resolve_class_split
from ..files import PathLike, check_targets, printable
from .baselines import filled_box, grabcut
from .formats import coco
from .origin import CALIBRATED, SOURCE, is_ours, score_of
from .quality import spearman

logger = logging.getLogger(__name__)

COLUMNS = ("objects", "IoU", "expected_IoU", "filled_box", "grabcut")
_LOG_SECONDS = 10.0


def hide_masks(annotations: PathLike, output: PathLike, mask_classes: str) -> Dict[str, int]:
    """Write a COCO file in which only some classes have masks; crowds stay as they are.

    Args:
        annotations: COCO file.
        output: of the new one.
        mask_classes: which classes keep theirs, as ``DATASETS.MASK_CLASSES``.

    Returns:
        How many masks are "kept" and "hidden".

    Raises:
        ValueError: for what is no COCO file, or classes that it does not have.
        OSError: when the file cannot be written.
    """
    check_targets([annotations], [output])
    categories = [v for k, v in _members(annotations) if k == "categories"]
    split = resolve_class_split(mask_classes, [c["name"] for c in categories])
    keeping = {categories[i]["id"] for i in split.set_a}
    counts = {"kept": 0, "hidden": 0}

    def members() -> Iterator[coco.Member]:
        for key, value in _members(annotations):
            if key == "annotations" and value.get("segmentation") and not value.get("iscrowd"):
                keeps = value["category_id"] in keeping
                counts["kept" if keeps else "hidden"] += 1
                if not keeps:
                    w, h = value["bbox"][2:]  # the area of the mask would tell of it, too
                    value = {**value, "segmentation": [], "area": round(w * h, 2)}
            yield key, value

    coco.write(output, members())
    return counts


class _Pair(NamedTuple):
    """A mask that was made, and the true one."""

    class_name: str
    score: float
    iou: float
    box: Tuple[float, float, float, float]  # x0, y0, x1, y1 of the reference
    truth: Any  # RLE


def compare_masks(
    masks: PathLike, reference: PathLike, image_root: Optional[PathLike] = None
) -> Dict[str, Any]:
    """Compare masks that ``annotate`` made with those of the same annotation ids in another file.

    Args:
        masks: COCO file that ``annotate`` wrote.
        reference: COCO file with true masks.
        image_root: folder of the images: GrabCut is run as well, about a second an object.

    Returns:
        "all": a row, and "by_class": a row by the name of a class.  A row has how many "objects"
        were compared and in percent their mean "IoU", "expected_IoU" (the mean score; None where
        scores are not calibrated), "filled_box" and "grabcut" (None without images), the mean IoU
        of these methods.  "rank_correlation": of scores and IoUs; "without_reference": masks made
        of objects that have no mask in the reference.

    Raises:
        ValueError: for files that cannot be read, or when there is nothing to compare.
        FileNotFoundError: when an image is missing.
    """
    pairs, without, calibrated = _pairs(masks, reference)
    if not pairs:
        raise ValueError(
            f"no mask of annotate in '{printable(masks)}' is of an object that has a mask in "
            f"'{printable(reference)}': there is nothing to compare"
        )
    names, values = [], []  # IoU, score, of the whole box, of GrabCut
    logged = time.monotonic()
    for done, (file_name, found) in enumerate(pairs.items()):
        image = None if image_root is None else read_image(Path(image_root, file_name), "BGR")
        for x in found:
            box = _iou(filled_box(x.truth["size"], x.box), x.truth)
            cut = None if image is None else grabcut(image, x.box)
            names.append(x.class_name)
            values.append((x.iou, x.score, box, box if cut is None else _iou(cut, x.truth)))
        if time.monotonic() - logged > _LOG_SECONDS:
            logged = time.monotonic()
            logger.info("Compared: %d of %d images", done + 1, len(pairs))
    table = np.array(values)
    known = [True, calibrated, True, image_root is not None]
    of_class = np.array(names, dtype=object)
    return {
        "all": _row(table, known),
        "by_class": {name: _row(table[of_class == name], known) for name in sorted({*names})},
        "rank_correlation": round(spearman(table[:, 1], table[:, 0]), 3),
        "without_reference": without,
    }


def comparison_table(comparison: Dict[str, Any]) -> str:
    """What :func:`compare_masks` gave, for a log."""
    rows = {**comparison["by_class"], "all": comparison["all"]}
    columns = [c for c in COLUMNS if comparison["all"][c] is not None]
    cells = [[name, *(row[c] for c in columns)] for name, row in rows.items()]
    headers = ["", *(c.replace("_", " ") for c in columns)]
    return tabulate(cells, headers, tablefmt="pipe", floatfmt=".1f")


_NEEDED = {
    "images": {"id", "file_name", "height", "width"},
    "annotations": {"id", "image_id", "category_id", "bbox"},
    "categories": {"id", "name"},
}


def _members(path: PathLike) -> Iterator[coco.Member]:
    """Those of a COCO file that have what is needed here."""
    for key, value in coco.read_boxes(path):
        missing = _NEEDED.get(key, set()) - {*(value if isinstance(value, dict) else ())}
        if missing:
            raise ValueError(
                f"'{printable(path)}': one of its '{key}' has no {min(missing)}: {shortened(value)}"
            )
        yield key, value


def _pairs(masks: PathLike, reference: PathLike) -> Tuple[Dict[str, List[_Pair]], int, bool]:
    """Pairs by the file of their image; masks without a true one; whether scores are calibrated."""
    true_masks = {
        x["id"]: (x["segmentation"], x["bbox"])
        for key, x in _members(reference)
        if key == "annotations" and x.get("segmentation") and not x.get("iscrowd")
    }
    images: Dict[Any, Dict[str, Any]] = {}
    names: Dict[Any, str] = {}
    calibrated = False
    for key, value in _members(masks):
        if key == "images":
            images[value["id"]] = value
        elif key == "categories":
            names[value["id"]] = value["name"]
        elif key == "info":
            calibrated = value.get(SOURCE, {}).get("score") == CALIBRATED
    pairs: Dict[str, List[_Pair]] = {}
    without = 0
    for key, a in _members(masks):
        if key != "annotations" or not is_ours(a):
            continue
        if a["id"] not in true_masks:
            without += 1
            continue
        image, (segmentation, (x, y, w, h)) = images[a["image_id"]], true_masks[a["id"]]
        made, truth = (_rle(s, image) for s in (a["segmentation"], segmentation))
        iou = float(mask_util.iou([made], [truth], [0])[0, 0])
        pair = _Pair(names[a["category_id"]], score_of(a), iou, (x, y, x + w, y + h), truth)
        pairs.setdefault(image["file_name"], []).append(pair)
    return pairs, without, calibrated


def _rle(segmentation: Any, image: Dict[str, Any]) -> Any:
    size = image["height"], image["width"]
    found = usable_segmentation(segmentation, size)
    return (
        mask_util.merge(mask_util.frPyObjects(found, *size)) if isinstance(found, list) else found
    )


def _iou(mask: np.ndarray, truth: Any) -> float:
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return float(mask_util.iou([rle], [truth], [0])[0, 0])


def _row(values: np.ndarray, known: Sequence[bool]) -> Dict[str, Any]:
    means = [round(100 * float(m), 1) if k else None for m, k in zip(values.mean(axis=0), known)]
    return dict(zip(COLUMNS, (len(values), *means)))
