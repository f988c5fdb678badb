"""What of the training data teaches masks, and what boxes alone."""

import logging
from typing import Any, Collection, Dict, List, Optional, Sequence, Set

logger = logging.getLogger(__name__)

_NAMED = 10  # classes in a warning


def count_supervision(
    dicts: List[Dict[str, Any]], mask_classes: Optional[Collection[int]]
) -> Dict[str, int]:
    """How many objects and classes give masks, and how many only boxes.

    Args:
        dicts: dataset dicts in detectron2's format.
        mask_classes: contiguous ids of set A; None = all classes.

    Returns:
        Counts under "images", "mask_objects", "mask_classes", "box_only_objects" (of these
        "withheld_objects" have a mask that is not used) and "crowd_objects" (not used at all).
    """
    keys = ("mask_objects", "mask_classes", "box_only_objects", "withheld_objects", "crowd_objects")
    counts = {"images": len(dicts), **dict.fromkeys(keys, 0)}
    for annotation in (a for d in dicts for a in d.get("annotations", ())):
        allowed = mask_classes is None or annotation["category_id"] in mask_classes
        if annotation.get("iscrowd", 0):
            counts["crowd_objects"] += 1
        elif _gives_mask(annotation, mask_classes):
            counts["mask_objects"] += 1
        else:
            counts["box_only_objects"] += 1
            counts["withheld_objects"] += "segmentation" in annotation and not allowed
    counts["mask_classes"] = len(_classes_with_masks(dicts, mask_classes))
    return counts


def _classes_with_masks(
    dicts: List[Dict[str, Any]], mask_classes: Optional[Collection[int]]
) -> Set[int]:
    annotations = (a for d in dicts for a in d.get("annotations", ()))
    return {a["category_id"] for a in annotations if _gives_mask(a, mask_classes)}


def _gives_mask(annotation: Dict[str, Any], mask_classes: Optional[Collection[int]]) -> bool:
    allowed = mask_classes is None or annotation["category_id"] in mask_classes
    return allowed and not annotation.get("iscrowd", 0) and bool(annotation.get("segmentation"))


def log_supervision(
    dicts: List[Dict[str, Any]],
    mask_classes: Optional[Collection[int]],
    split: str,
    class_names: Sequence[str] = (),
    masks_alone: bool = True,
) -> int:
    """Log at start-up what trains masks and what trains boxes only.

    Args:
        dicts: dataset dicts in detectron2's format.
        mask_classes: contiguous ids of set A; None = all classes.
        split: its name.
        class_names: of all classes; those of set A without a mask are named.
        masks_alone: teach masks; boxes and pseudo-masks do not.

    Returns:
        The number of objects that give masks.
    """
    counts = count_supervision(dicts, mask_classes)
    logger.info(
        "Supervision (DATASETS.MASK_CLASSES '%s'): %d images; %d objects of %d classes give "
        "masks; %d objects are box-only (%d of them have a mask that is not read); %d crowd "
        "objects unused",
        *(split, counts["images"], counts["mask_objects"], counts["mask_classes"]),
        *(counts["box_only_objects"], counts["withheld_objects"], counts["crowd_objects"]),
    )
    if counts["mask_objects"] == 0:
        if masks_alone:
            logger.warning("No object gives a mask: the mask branch will learn nothing")
        return 0
    having = _classes_with_masks(dicts, mask_classes)
    set_a = range(len(class_names)) if mask_classes is None else mask_classes
    lacking = [class_names[i] for i in set_a if i not in having] if class_names else []
    if lacking:
        more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
        logger.warning(
            "DATASETS.MASK_CLASSES '%s': of the %d classes of set A, %d have no mask: %s%s",
            *(split, len(set_a), len(lacking), ", ".join(lacking[:_NAMED]), more),
        )
    return counts["mask_objects"]
