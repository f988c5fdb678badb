"""What annotations say of where their masks come from."""

from typing import Any, Dict, List, Tuple

SOURCE = "seg_every_thing"
"""``attributes.source`` of an object whose mask was made."""

CALIBRATED = "expected IoU"
"""``info.seg_every_thing.score`` of a file whose scores are calibrated."""

_BOX = "mask_replaced_bbox"
_ACCEPTED = "accepted"

Annotation = Dict[str, Any]


def with_score(annotation: Annotation, score: float) -> Annotation:
    """With score and source; a score or source of another origin stays beside them."""
    notes = {**_notes(annotation)}
    replaces = "score" not in annotation
    if _are_of_ours(notes):
        source_key, score_key, review_key = _keys(notes)
        replaces = replaces or annotation["score"] == notes.get(score_key)
        notes.pop(review_key, None)  # of the mask that was there
    else:
        apart = "source" in notes or "review" in notes or not _has_attributes(annotation)
        source_key = "mask_source" if apart else "source"
        beside = "score" in notes or not _has_attributes(annotation)
        score_key = "mask_score" if beside else "score"
    new = _with_notes(annotation, {**notes, source_key: SOURCE, score_key: score})
    return {**new, "score": score} if replaces else new


def with_tight_box(annotation: Annotation, box: List[int]) -> Annotation:
    """With the box x, y, width, height of its mask; the one that the user gave is noted."""
    if box == annotation["bbox"]:
        return annotation
    notes = _notes(annotation)
    before = notes.get(_BOX, annotation["bbox"])
    return {**_with_notes(annotation, {**notes, _BOX: before}), "bbox": box}


def is_ours(annotation: Any) -> bool:
    """Whether an annotation has a mask that this program made."""
    if not isinstance(annotation, dict) or not annotation.get("segmentation"):
        return False
    return _are_of_ours(_notes(annotation))


def without_score(annotation: Annotation) -> Annotation:
    """An annotation of :func:`is_ours` without what was noted about its mask, in its box."""
    notes = {**_notes(annotation)}
    keys = _keys(notes)
    score = notes.get(keys[1])
    box = notes.pop(_BOX, annotation["bbox"])
    for key in keys:
        notes.pop(key, None)
    new = {**_with_notes(annotation, notes), "bbox": box}
    if "score" in new and new["score"] == score:
        del new["score"]
    return new


def score_of(annotation: Annotation) -> float:
    """The score of a mask that this program made."""
    notes = _notes(annotation)
    return notes[_keys(notes)[1]]


def as_accepted(annotation: Annotation) -> Annotation:
    """An annotation of :func:`is_ours` with the note that a review accepted its mask."""
    notes = _notes(annotation)
    return _with_notes(annotation, {**notes, _keys(notes)[2]: _ACCEPTED})


def is_accepted(annotation: Annotation) -> bool:
    """Whether a review accepted the mask of an annotation of :func:`is_ours`."""
    notes = _notes(annotation)
    return notes.get(_keys(notes)[2]) == _ACCEPTED


def with_mask_of_crowd(annotation: Any) -> Any:
    """An annotation of CVAT's export, where every RLE is called a crowd, as one that is none."""
    if not isinstance(annotation, dict) or not annotation.get("iscrowd"):
        return annotation
    if not isinstance(annotation.get("segmentation"), dict):
        return annotation
    return {**annotation, "iscrowd": 0}


def _has_attributes(annotation: Annotation) -> bool:
    """Whether notes can be among the attributes, which are none yet, or null, or a mapping."""
    return isinstance(annotation.get("attributes"), (dict, type(None)))


def _notes(annotation: Annotation) -> Dict[str, Any]:
    """Where notes on a mask are: the attributes, or where these are a list the annotation itself,
    all keys of which begin with "mask_" then."""
    return (annotation.get("attributes") or {}) if _has_attributes(annotation) else annotation


def _with_notes(annotation: Annotation, notes: Dict[str, Any]) -> Annotation:
    if not _has_attributes(annotation):
        return notes
    if notes:
        return {**annotation, "attributes": notes}
    return {k: v for k, v in annotation.items() if k != "attributes"}


def _are_of_ours(notes: Dict[str, Any]) -> bool:
    return SOURCE in (notes.get("source"), notes.get("mask_source"))


def _keys(notes: Dict[str, Any]) -> Tuple[str, str, str]:
    """Which keys of notes are source, score and review of our mask: without "mask_" unless the user
    has keys of these names.  One of the first and the last sets both apart."""
    apart = notes.get("mask_source") == SOURCE
    score = "mask_score" if "mask_score" in notes else "score"
    return ("mask_source", score, "mask_review") if apart else ("source", score, "review")
