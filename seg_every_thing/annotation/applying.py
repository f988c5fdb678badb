"""What becomes of an annotated file once its masks have been judged on the review page."""

import dataclasses
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator

from .. import files
from ..data.coco_tables import shown
from .annotator import Report, annotate_file
from .decisions import ACCEPT, REJECT, decision_key, read_decisions
from .finished import finished_report, replaced_digest
from .formats import coco
from .options import Options
from .origin import Annotation, as_accepted, is_accepted, is_ours, without_score

logger = logging.getLogger(__name__)

UNDECIDED = "undecided"


def apply_review(options: Options, decisions_file: Path, learn: bool) -> Report:
    """Turn rejected masks back into boxes, or make them anew with a model that learned.

    Args:
        options: ``annotations`` is the file that ``annotate`` wrote and the page was made of.
        decisions_file: that the page downloaded.
        learn: train again, with the masks that were accepted beside those of the user, and make
            new ones for all other objects.

    Returns:
        The report.

    Raises:
        ValueError: for decisions of another run, or on objects that are not in the file, or a
            trained model that is to learn.
        OSError: when something cannot be written.
    """
    if learn and options.is_trained:
        raise ValueError(
            "--learn trains a model, and MODEL.WEIGHTS gives one: leave one of them out"
        )
    source = files.file_digest(options.annotations)
    decisions = read_decisions(decisions_file, source)
    if learn:
        reviewed = options.output.with_name(options.output.stem + "_reviewed.json")
        counts = _write(options, reviewed, decisions, decisions_file, learn)
        _log(counts)
        learning = dataclasses.replace(options, annotations=reviewed)
        return {**annotate_file(learning), "review": counts}
    fingerprint = f"{source} {files.file_digest(decisions_file)}"
    finished = finished_report(options, fingerprint)
    if finished is not None:
        return finished
    written = options.output.with_name(f".{options.output.name}.new")
    counts = _write(options, written, decisions, decisions_file, learn)
    _log(counts)
    report = {
        "fingerprint": fingerprint,
        "sha256": files.file_digest(written),
        "replaces": replaced_digest(options),
        "review": counts,
        "failed_images": {},
    }
    files.write_json(options.report_file, report)
    os.replace(written, options.output)
    return report


def _write(
    options: Options, path: Path, decisions: Dict[str, str], decisions_file: Path, learn: bool
) -> Dict[str, int]:
    files.check_targets(
        [options.annotations, decisions_file], [path, options.output, options.report_file]
    )
    counts: Counter = Counter({ACCEPT: 0, REJECT: 0, UNDECIDED: 0})
    left = dict(decisions)

    def members() -> Iterator[coco.Member]:
        for key, value in coco.read_boxes(options.annotations):
            if key == "annotations" and is_ours(value):
                decision = left.pop(decision_key(value["id"]), UNDECIDED)
                counts[decision] += 1
                value = _judged(value, decision, learn)
            yield key, value
        if left:
            raise ValueError(
                f"'{decisions_file}' decides on {len(left)} objects that have no mask of annotate "
                f"in '{options.annotations}'; the first is {shown(next(iter(left)))}"
            )

    coco.write(path, members())
    return dict(counts)


def _judged(annotation: Annotation, decision: str, learn: bool) -> Annotation:
    if decision == ACCEPT:
        return as_accepted(annotation)
    if decision == UNDECIDED and not learn:
        return annotation
    if is_accepted(annotation) and decision == UNDECIDED:
        return annotation  # by an earlier review
    boxed = without_score(annotation)
    w, h = boxed["bbox"][2:]
    return {**boxed, "segmentation": [], "area": round(w * h, 2)}


def _log(counts: Dict[str, Any]) -> None:
    logger.info(
        "Review: %d masks accepted, %d rejected, %d undecided",
        *(counts[ACCEPT], counts[REJECT], counts[UNDECIDED]),
    )
