"""From Visual Genome's objects.json to COCO-format files, in two passes and little memory.

The first pass counts synsets, the second writes.  What stays in memory is a record an image and
eight bytes an object.
"""

import logging
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from ...files import PathLike, check_targets, make_output_dir, write_json, write_text
from ..datasets.vg_classes import VGClass, as_categories, joint_classes, rank_synsets, ties_at
from .vg_images import SPLITS, coco_val_ids_for, read_images, split_images
from .vg_objects import ObjectWriter, count_objects

logger = logging.getLogger(__name__)

_COCO_CLASSES, _SUMMARY = "coco_classes.txt", "summary.json"


def prepare_visual_genome(
    image_data: PathLike,
    objects: PathLike,
    output: PathLike,
    *,
    num_classes: int = 3000,
    synsets: Optional[Sequence[str]] = None,
    coco_annotations: Optional[PathLike] = None,
    num_test: int = 5000,
    num_val: Optional[int] = None,
) -> Dict[str, Any]:
    """Write ``instances_vg3k_{train,val,test}.json``, ``summary.json`` and ``coco_classes.txt``.

    Objects with exactly one synset, one of the chosen, become annotations, with boxes clipped to
    their image.  All files are complete or not there.

    Args:
        image_data: image_data.json of Visual Genome, or its .zip.
        objects: objects.json of version 1.4, or its .zip.
        output: the folder to write to.
        num_classes: choose the so many most frequent synsets, see :func:`rank_synsets`.
        synsets: choose these instead.
        coco_annotations: says which images are COCO's validation images, see
            :func:`coco_val_ids_for`.
        num_test, num_val: sizes of splits, see :func:`split_images`.

    Returns:
        What ``summary.json`` holds.

    Raises:
        ValueError: for broken input, or one that would be written over; the message names file and
            object.
        OSError: when the output cannot be written.
    """
    if num_classes < 1:
        raise ValueError(f"--num-classes must be at least 1, got {num_classes}")
    start = time.perf_counter()
    check_targets([image_data, objects, coco_annotations], output_files(output))
    output = make_output_dir(output)
    images = read_images(image_data)
    val_ids = coco_val_ids_for(images, coco_annotations)
    images = split_images(images, val_ids, num_test=num_test, num_val=num_val)
    logger.info("%d images; counting the synsets of '%s'", len(images), objects)
    counts = count_objects(objects)
    ranked = rank_synsets(counts.synsets, synsets)
    if not ranked:
        raise ValueError(f"no object in '{objects}' has a synset: version 1.4 of the file has them")
    if len(ranked) < num_classes and synsets is None:
        logger.warning(
            "Only %d synsets occur, fewer than --num-classes %d", len(ranked), num_classes
        )
    chosen = ranked if synsets is not None else ranked[:num_classes]
    classes = joint_classes(chosen)
    logger.info("%d classes, 80 of them COCO's; writing to '%s'", len(classes), output)
    writing = ObjectWriter(images, classes, frozenset(chosen), counts)
    writing.run(objects, _annotation_files(output))
    summary = {
        "num_classes": len(classes),
        "chosen_synsets": len(chosen),
        "ties": ties_at(ranked, counts.synsets, len(chosen)),
        **writing.summary(),
        "classes": _class_table(classes, counts.synsets, writing.per_class),
    }
    write_text(output / _COCO_CLASSES, "".join(f"{c.synset}\n" for c in classes[:80]))
    write_json(output / _SUMMARY, summary)
    _log_summary(summary, time.perf_counter() - start)
    return summary


def output_files(output: PathLike) -> List[Path]:
    """All files that :func:`prepare_visual_genome` writes to a folder."""
    output = Path(output)
    return [*_annotation_files(output).values(), output / _COCO_CLASSES, output / _SUMMARY]


def _annotation_files(output: Path) -> Dict[str, Path]:
    return {split: output / f"instances_vg3k_{split}.json" for split in SPLITS}


def _class_table(
    classes: Sequence[VGClass], counts: Dict[str, int], per_class: Dict[str, List[int]]
) -> List[Dict[str, Any]]:
    table = as_categories(classes)
    for row, c in zip(table, classes):
        if c.how is not None:
            row["synset_found_by"] = c.how
        row["occurrences"] = counts.get(c.synset, 0)
        row.update({split: per_class[split][row["id"]] for split in SPLITS})
    return table


def _log_summary(summary: Dict[str, Any], seconds: float) -> None:
    boxes, images, annotations = summary["boxes"], summary["images"], summary["annotations"]
    logger.info(
        "Written in %.0f s: %s. Boxes: %d clipped, %d dropped (without area %d, outside %d)",
        seconds,
        "; ".join(f"{s} {images[s]} images, {annotations[s]} boxes" for s in SPLITS),
        boxes["clipped"],
        sum(boxes["dropped"].values()),
        *boxes["dropped"].values(),
    )
    unused = summary["objects"]["unused"]
    logger.info("Objects not used: %s", ", ".join(f"{k} {v}" for k, v in unused.items()))
    empty = [c["coco_name"] for c in summary["classes"][:80] if not sum(c[s] for s in SPLITS)]
    if empty:
        more = f" and {len(empty) - 10} more" if len(empty) > 10 else ""
        logger.warning("COCO classes without a box: %s%s", ", ".join(empty[:10]), more)
    logger.info("Set MODEL.ROI_HEADS.NUM_CLASSES %d", summary["num_classes"])
