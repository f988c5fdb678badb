"""The end of a run: the data set with its masks, the report, the page for its review."""

import logging
import os
from array import array
from typing import Any, Dict, Iterator, Optional

from tabulate import tabulate

from ..files import file_digest, printable, write_json
from .expectation import Expectation, expectation_table, plot_reliability
from .finished import replaced_digest
from .formats import coco
from .index import Index
from .options import DEFAULT_CONFIG, Options
from .origin import CALIBRATED
from .output import Made, Output, category_warnings
from .provenance import Prints, model_digest
from .quality import Scores
from .report import Tally
from .results import Results, result_files
from .review import write_review
from .review_items import CropMask, ReviewItem
from .tables_on_disk import id_key
from .training import TrainedModel
from .validation import validate_file

logger = logging.getLogger(__name__)

Report = Dict[str, Any]


def write_output(
    options: Options,
    index: Index,
    model: TrainedModel,
    prints: Prints,
    failures: Dict[str, str],
    unseen: Optional[Expectation] = None,
) -> Report:
    """Write everything, the data set itself last.

    Args:
        options: of the run.
        index: of the input.
        model: that made the masks.
        prints: of the run.
        failures: reasons by the name of images that got no masks.
        unseen: of :func:`unseen.expect_unseen`.

    Returns:
        The report.

    Raises:
        OSError: when something cannot be written.
    """
    results = Results(result_files(options.work_dir))
    expectation = Expectation(index, results.compared())
    score = expectation.fit_score()
    about = {
        "version": _version(),
        "model": {
            "config": str(options.model or options.config_file or DEFAULT_CONFIG),
            "trained_on_these_data": not options.is_trained,
            "sha256": model_digest(options, model),
        },
        "source": {"file": options.annotations.name, "sha256": prints.source},
        "score": CALIBRATED if score.is_calibrated else "certainty, not calibrated",
        "options": {**options.for_masks(), **options.for_file()},
    }
    scores = Scores(score)
    if unseen is not None:
        without = frozenset(map(id_key, index.categories_without_masks()))
        scores = Scores(score, unseen.fit_score(of_other_classes=True), without)
    output = Output(options, index, results, scores, about)
    tally = Tally(index)
    written = options.work_dir / "output.json"
    made_here = array("L")  # numbers in that file

    def tell(made: Made) -> None:
        if made.has_mask:
            made_here.append(made.number - tally.dropped)
        tally.add(made)

    coco.write(written, output.members(tell))
    checked = validate_file(written, index.size_of, made_here)
    if checked["faults"]:
        raise RuntimeError(f"masks that were written are not valid: {checked['first']}")
    quality = expectation.as_json(score, tally.scores_by_class, tally.scores_by_size)
    names = index.categories
    quality["classes_without_any_mask"] = [names[i] for i in index.categories_without_masks()]
    if scores.unseen is not None and unseen is not None:
        quality["hidden_classes"] = unseen.by_class()
        quality["error_of_unseen_classes"] = unseen.error_of_classes(scores.unseen)
    report = {
        "fingerprint": prints.file,
        "sha256": file_digest(written),
        "replaces": replaced_digest(options),
        "image_root": options.image_folder,
        "made_by": about,
        "input": {**index.counts, "annotations_in_detail": index.meta["data_report"]["rows"]},
        "masks": tally.as_json(),
        "quality": quality,
        "validation": checked,
        "warnings": category_warnings(index.categories),
        "failed_images": failures,
    }
    if options.report is not None:
        meta = {
            "title": f"Masks of {options.annotations.name}",
            "source": report["sha256"],
            "facts": _facts(report),
        }
        write_review(options.report, review_items(options, index, results, output, tally), meta)
    write_json(options.report_file, report)
    if quality.get("reliability"):
        plot_reliability(options.report_file.with_suffix(".png"), quality["reliability"])
    os.replace(written, options.output)
    results.close()
    _log(options, report)
    return report


def review_items(
    options: Options, index: Index, results: Results, output: Output, tally: Tally
) -> Iterator[ReviewItem]:
    """What a page shows: the masks with the lowest scores, in the order of the file."""
    names = index.categories
    for number, own_id, _ in sorted(tally.worst(), key=lambda worst: worst[0]):
        found, image = index.object(number)
        minimal = {"id": own_id, "bbox": found.box, "category_id": found.category}
        made = output.make(minimal, number, image, results.get(number))
        x, y, w, h = found.box
        yield ReviewItem(
            annotation_id=own_id,
            image_id=image.id,
            file_name=image.file_name,
            image_path=options.image_root / image.file_name,
            class_name=names[found.category],
            box=(x, y, w, h),
            score=made.score,
            fill=made.fill,
            flags=made.flags,
            mask=CropMask.of(*made.mask),
        )


def _facts(report: Report) -> Dict[str, str]:
    """What the page says of the run."""
    quality, expected = report["quality"], report["quality"].get("expected_mean_IoU")
    return {
        "Masks made": str(report["masks"]["made"]),
        "Expected mean IoU": "not known" if expected is None else f"{expected:.1f} %",
        "Score": report["made_by"]["score"],
        "Held out": f"{quality.get('held_out_masks', 0)} masks",
    }


def _version() -> str:
    from .. import __version__  # which imports this module

    return __version__


def _log(options: Options, report: Report) -> None:
    masks, quality = report["masks"], report["quality"]
    rows = [[k.replace("_", " "), v] for k, v in masks.items() if isinstance(v, int)]
    logger.info("Masks:\n%s", tabulate(rows, tablefmt="pipe"))
    if not quality["measured"]:
        logger.warning("Quality is not measured: %s", quality["reason"])
    else:
        logger.info("Quality (mean IoU in percent):\n%s", expectation_table(quality))
        if quality["expected_mean_IoU"] is not None:
            logger.info(
                "Expected mean IoU of the masks that were made: %.1f; of the %d that were held out "
                "it is %.1f",
                *(quality["expected_mean_IoU"], quality["held_out_masks"]),
                quality["held_out_mean_IoU"],
            )
        if quality.get("error_of_unseen_classes") and quality["classes_without_any_mask"]:
            logger.info(
                "%d classes have no mask: what is expected of such a class is off by about %.0f",
                *(len(quality["classes_without_any_mask"]), quality["error_of_unseen_classes"]),
            )
    if report["failed_images"]:
        first = list(report["failed_images"].items())[:5]
        logger.warning(
            "%d images have no masks: %s",
            *(len(report["failed_images"]), "; ".join(why for _, why in first)),
        )
    logger.info(
        "'%s' is written, %d masks were made; report: '%s'",
        *(printable(options.output), masks["made"], printable(options.report_file)),
    )
