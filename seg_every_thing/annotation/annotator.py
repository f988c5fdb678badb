"""Boxes of a data set in, masks out: the stages of a run, each of which survives being killed."""

import contextlib
import functools
import itertools
import logging
import shutil
import time
from pathlib import Path
from typing import Any, Dict

from ..data.images import reason_of
from ..export.predictor import files_in
from ..files import check_targets, make_output_dir, printable
from ..leftovers import temporary_folder
from ..locks import folder_in_use
from ..modeling.kept_features import shared_features
from .budget import Budget
from .finished import finished_report
from .index import Index
from .index_building import build_index
from .making import MakeMasker, Work, boxes_of, make_all_masks, masker_of, read_checked
from .options import Options
from .output import category_warnings
from .provenance import Prints, fingerprints, model_config
from .review import check_review_folder, has_page_of
from .training import TrainedModel, planned, train_model
from .unseen import expect_unseen, hidden_categories
from .writing import write_output

logger = logging.getLogger(__name__)

_TIMED_IMAGES = 10

Report = Dict[str, Any]


def annotate_file(options: Options, make_masker: MakeMasker = masker_of) -> Report:
    """Write a data set in which every object has a mask; see :func:`seg_every_thing.annotate`.

    A run that was ended goes on where it was; one that is complete changes nothing.

    Args:
        options: what and how.
        make_masker: builds what makes masks, in each process.

    Returns:
        The report, which is also written; "failed_images" lists images that got no masks.  With
        ``options.shard`` only those and "images".

    Raises:
        ValueError: for bad input, an output of others or in use, or when no image can be used.
        OSError: when something cannot be written.
    """
    start = time.monotonic()
    check_run(options)
    prints = fingerprints(options)
    finished = finished_report(options, prints.file)
    if finished is not None:
        if options.report is not None and not has_page_of(options.report, finished["sha256"]):
            output, page = printable(options.output), printable(options.report)
            raise ValueError(
                f"'{output}' is complete, and '{page}' has no page of it: pages are made with the "
                f"masks. Remove '{output}' and run the command again; a model that was trained is "
                f"used again"
            )
        logger.info("'%s' is complete: nothing to do", printable(options.output))
        try:
            options.check_images(finished.get("image_root", options.image_folder), options.output)
        except ValueError as e:
            logger.warning("%s", e)  # hours of work are not done again as a folder has moved
        if _is_done_with(options.work_dir, prints.masks):  # by a run that was killed in the end
            shutil.rmtree(options.work_dir)
        elif options.work_dir.exists():  # with other options; a run may be going on there
            logger.warning("'%s' holds other work, and is kept", printable(options.work_dir))
        return finished
    lock = make_output_dir(options.work_dir / f"in_use_{options.group}")
    try:
        with folder_in_use(lock, options.force):
            report = _annotate(options, prints, make_masker, start)
    except BaseException:
        # What is empty; anything else is work, maybe that of another process.
        with contextlib.suppress(OSError):
            lock.rmdir()
            options.work_dir.rmdir()
        raise
    if options.shard is None:
        shutil.rmtree(options.work_dir)
    return report


def _annotate(options: Options, prints: Prints, make_masker: MakeMasker, start: float) -> Report:
    index = _index(options, prints)
    try:
        images = sum(1 for _ in index.images())
        budget = Budget(options, images, start, 1 + bool(hidden_categories(options, index)))
        with shared_features():
            model = _model(options, index, prints, budget, make_masker)
            unseen = expect_unseen(options, index, prints, make_masker)
        failures = make_all_masks(options, index, model, make_masker)
        if options.shard is not None:
            return {"images": index.counts["images"], "failed_images": failures}
        return write_output(options, index, model, prints, failures, unseen)
    finally:
        index.close()


def _is_done_with(folder: Path, fingerprint: str) -> bool:
    """Whether a folder of unfinished work is that of a run, which is complete."""
    path = folder / "index.sqlite"
    with contextlib.suppress(OSError):  # it is damaged, and of nobody knows what
        if path.is_file():
            with contextlib.closing(Index(path)) as index:
                return bool(index.meta["fingerprint"] == fingerprint)
    return False


def check_run(options: Options) -> None:
    """What can be known at the start: nothing is written over, and what is read is there.

    Raises:
        ValueError: naming what is wrong.
    """
    if not options.image_root.is_dir():
        raise ValueError(f"the image folder '{printable(options.image_root)}' does not exist")
    if not options.annotations.is_file():
        name = printable(options.annotations)
        raise ValueError(f"the annotation file '{name}' does not exist")
    weights = dict(zip(options.opts[::2], options.opts[1::2])).get("MODEL.WEIGHTS")
    check_targets(
        [options.annotations, options.config_file, weights, *files_in(options.model)],
        [options.output, options.report_file, options.work_dir / "output.json"],
        [options.work_dir],
    )
    if options.report is not None:
        check_review_folder(options.report)


def dry_run(options: Options) -> Report:
    """What a run would do, without doing it: "counts", "failed_images" and "warnings".

    Raises:
        ValueError: for bad input.
    """
    check_run(options)
    cfg = model_config(options)
    make_output_dir(options.work_dir.parent)
    on_bad = cfg.DATASETS.ON_BAD_ANNOTATION
    with temporary_folder(options.work_dir) as folder:
        build_index(folder / "index.sqlite", options, on_bad, {}).log()
        index = Index(folder / "index.sqlite")
        failures = {}
        for image in index.images():
            try:
                read_checked(image, options.image_root)
            except (OSError, ValueError) as e:
                failures[image.file_name] = reason_of(e)
        index.close()
    return {
        "counts": index.counts,
        "model": "trained" if options.is_trained else "to be trained on these data",
        "failed_images": failures,
        "warnings": category_warnings(index.categories),
    }


def _index(options: Options, prints: Prints) -> Index:
    """That of a run that goes on, or a new one."""
    folder = make_output_dir(options.work_dir)
    path = folder / "index.sqlite"
    if path.exists():
        index = Index(path)
        if index.meta["fingerprint"] != prints.masks:
            raise ValueError(
                f"'{printable(folder)}' holds unfinished work on other data, with another model or "
                f"other options: finish that, or remove the folder"
            )
        options.check_images(index.meta.get("image_root", options.image_folder), folder)
        logger.info("Going on with the unfinished run in '%s'", printable(folder))
    else:
        meta = {"fingerprint": prints.masks, "image_root": options.image_folder}
        build_index(path, options, prints.on_bad, meta).log()
        index = Index(path)
    for warning in category_warnings(index.categories):
        logger.warning("%s", warning)
    counts = index.counts
    logger.info(
        "%d images with %d annotations: %d objects get a mask; %d have one (%d are held out to "
        "compare with); %d crowds are left as they are",
        *(counts["images"], counts["annotations"], counts["wanted"], counts["with_masks"]),
        *(counts["held_out"], counts["crowds"]),
    )
    if not counts["held_out"]:
        logger.warning(
            "No mask is held out%s: the quality of the masks is not measured, and their scores are "
            "not calibrated",
            "" if counts["with_masks"] else ", as the data have none",
        )
    return index


# --- making -------------------------------------------------------------------------------------


def _model(
    options: Options,
    index: Index,
    prints: Prints,
    budget: Budget,
    make_masker: MakeMasker,
) -> TrainedModel:
    if options.model is not None:
        return TrainedModel(str(options.model), ())
    if options.is_trained:
        return TrainedModel(str(options.config_file), options.opts)

    def seconds_an_image(model: TrainedModel) -> float:
        work = Work(options, index.path, model, 0, make_masker)
        masker = make_masker(work, index)
        times = []
        apart = max(budget.images // _TIMED_IMAGES, 1)
        for image in itertools.islice(index.images(), 0, _TIMED_IMAGES * apart, apart):
            start = time.perf_counter()
            objects = index.objects(image.number)
            try:
                pixels = read_checked(image, options.image_root)
            except (OSError, ValueError):
                continue
            masker(pixels, boxes_of(objects), [x.category for x in objects])
            times.append(time.perf_counter() - start)
        # The first one is slower than all others.
        return sum(times[1:]) / len(times[1:]) if times[1:] else sum(times)

    plan_for = functools.partial(planned, options, budget, seconds_an_image)
    return train_model(options, index, prints.masks, plan_for)
