"""What annotations say of where their masks come from."""

from typing import Any, Dict

SOURCE = "seg_every_thing"
"""``attributes.source`` of an object whose mask was made."""

CALIBRATED = "expected IoU"
"""``info.seg_every_thing.score`` of a file whose scores are calibrated."""

Annotation = Dict[str, Any]


def with_score(annotation: Annotation, score: float) -> Annotation:
    """With score and source; a score or source of another origin stays beside them."""
    attributes = annotation.get("attributes", {})
    if not isinstance(attributes, dict):
        return annotation if "score" in annotation else {**annotation, "score": score}
    ours = attributes.get("source") == SOURCE
    attributes = {**attributes}
    for key, value in (("source", SOURCE), ("score", score)):
        attributes[key if ours or key not in attributes else f"mask_{key}"] = value
    new = {**annotation, "attributes": attributes}
    if ours or "score" not in annotation:
        new["score"] = score
    return new


def is_ours(annotation: Any) -> bool:
    """Whether an annotation has a mask that this program made."""
    if not isinstance(annotation, dict) or not annotation.get("segmentation"):
        return False
    attributes = annotation.get("attributes")
    return isinstance(attributes, dict) and SOURCE in (
        attributes.get("source"),
        attributes.get("mask_source"),
    )


def without_score(annotation: Annotation) -> Annotation:
    """An annotation of :func:`is_ours` without what was noted about its mask."""
    attributes = {**annotation["attributes"]}
    ours = attributes.get("source") == SOURCE
    score = score_of(annotation)
    for key in ("source", "score"):
        attributes.pop(key if ours else f"mask_{key}", None)
    attributes.pop("review", None)
    new = {k: v for k, v in annotation.items() if k != "attributes"}
    if new.get("score") == score:
        del new["score"]
    return {**new, "attributes": attributes} if attributes else new


def score_of(annotation: Annotation) -> float:
    """The score of a mask that this program made."""
    attributes = annotation["attributes"]
    return attributes["mask_score" if "mask_score" in attributes else "score"]


def with_mask_of_crowd(annotation: Any) -> Any:
    """An annotation of CVAT's export, where every RLE is called a crowd, as one that is none."""
    if not isinstance(annotation, dict) or not annotation.get("iscrowd"):
        return annotation
    if not isinstance(annotation.get("segmentation"), dict):
        return annotation
    return {**annotation, "iscrowd": 0}
