"""Training a model on the very data that it is to annotate."""

import json
import logging
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Sequence, Set, Tuple

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..config import load_config
from ..data.images import check_image_size, read_image, reason_of
from ..data.json_stream import MemberWriter, encode
from ..engine.launch import own_data_options
from ..engine.self_training import self_train, train_or_reuse
from ..files import check_targets, make_output_dir, read_json, write_json, written_atomically
from ..modeling.box_to_mask import BODY_TIME
from .budget import Budget, Pace, Plan
from .formats import coco
from .index import Index
from .looseness import Looseness
from .options import DEFAULT_CONFIG, Options
from .origin import with_mask_of_crowd
from .tables_on_disk import id_key

logger = logging.getLogger(__name__)

MOST_IMAGES = 5000
"""That a model trains on: more would not fit into minutes, nor into memory."""
_TRIAL = 15  # iterations whose time is measured
_TRIAL_SHARE = 0.1  # of --minutes, after which the trial ends, too
_OBJECTS_A_BATCH = 20
PLAN = "plan.json"


class TrainedModel(NamedTuple):
    """What builds a trained model."""

    config_file: str
    opts: Tuple[Any, ...]


def training_config(options: Options) -> CfgNode:
    """The config of the model that is to be trained; what it needs is there.

    Raises:
        ValueError: for a bad config, or when a package is missing that it needs.
    """
    cfg = load_config(options.config_file or DEFAULT_CONFIG, list(options.opts))
    if not cfg.MODEL.MASK_ON:
        raise ValueError(f"'{options.config_file}' has no masks: set MODEL.MASK_ON True")
    build_model(cfg)  # quietly, unlike that of the trainer
    return cfg


def train_model(
    options: Options,
    index: Index,
    fingerprint: str,
    plan_for: Callable[[str, List[Any], int], Plan],
) -> TrainedModel:
    """Train, or go on, or take what is trained already for the same data and options.

    Args:
        options: of the run.
        index: of the input.
        fingerprint: of what decides the outcome.
        plan_for: how long to train with a config file, options on top of it, and so many images.

    Raises:
        ValueError: when the folder of the model holds another one, or there is nothing to train on.
        OSError: when it cannot be written.
    """
    folder = make_output_dir(options.model_dir)
    started = folder / "annotate.json"
    if not started.exists() and any(folder.iterdir()):
        raise ValueError(f"'{folder}' holds other files: remove it, or give another --output")
    now = {"fingerprint": fingerprint, "image_root": options.image_folder}
    before = {**now, **read_json(started)} if started.exists() else now
    if before["fingerprint"] != fingerprint:
        raise ValueError(
            f"'{folder}' holds a model for other data or options: remove it, or give another "
            f"--output, or use that model with --config-file and --opts MODEL.WEIGHTS"
        )
    options.check_images(before["image_root"], folder)
    write_json(started, now)
    train_json = folder / "train.json"
    config_file = options.config_file or DEFAULT_CONFIG
    if not train_json.exists():
        objects = write_training_file(train_json, options, index)
        write_json(folder / "objects.json", objects)
    opts = [
        *own_data_options(train_json, options.image_root),
        *_defaults(options, read_json(folder / "objects.json")),
        *options.opts,
    ]
    if not (folder / PLAN).exists():
        images = read_json(folder / "objects.json")["images"]
        write_json(folder / PLAN, plan_for(config_file, opts, images))
    iterations, minutes = (read_json(folder / PLAN).get(key) for key in ("iterations", "minutes"))
    opts += ["SOLVER.MAX_ITER", iterations]
    opts += ["SOLVER.CHECKPOINT_PERIOD", max(iterations // 8, 10)]
    logger.info("Training for %d iterations in '%s'", iterations, folder)
    if options.rounds:
        records = self_train(
            *(config_file, options.rounds, folder, opts, options.num_gpus), minutes=minutes
        )
        weights = records["rounds"][-1]["weights"]
    else:
        record = train_or_reuse(config_file, opts, folder / "model", options.num_gpus, minutes)
        weights = record["weights"]
    return TrainedModel(str(Path(weights).parent / "config.yaml"), ("MODEL.WEIGHTS", weights))


def _defaults(options: Options, objects: Dict[str, Any]) -> List[Any]:
    """What suits the data, where the user does not say otherwise."""
    an_image = max(objects["objects"] / max(objects["images"], 1), 1.0)
    batch = min(max(round(_OBJECTS_A_BATCH / min(an_image, 8)), 2), 8)
    found = ["SEED", 0, "SOLVER.IMS_PER_BATCH", max(batch, options.num_gpus)]
    cfg = load_config(options.config_file or DEFAULT_CONFIG, list(options.opts))
    margin = round(objects.get("looseness", 0.0) * max(cfg.INPUT.MIN_SIZE_TRAIN), 1)
    if margin >= 1 and not cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.MARGIN:
        logger.info(
            "Boxes are larger than their masks: three quarters of their sides by up to %.1f pixels "
            "of the images as trained on.  So near its sides a box does not say where a mask ends",
            margin,
        )
        found += ["MODEL.ROI_MASK_HEAD.BOX_LOSS.MARGIN", margin]
    return found


def planned(
    options: Options,
    budget: Budget,
    seconds_an_image: Callable[[TrainedModel], float],
    config_file: str,
    opts: List[Any],
    images: int,
) -> Plan:
    """How long to train in the time that there is, from how long a trial takes.

    Args:
        options: of the run.
        budget: of time.
        seconds_an_image: to annotate with a model.
        config_file, opts, images: as for the ``plan_for`` of :func:`train_model`.
    """
    cfg = load_config(config_file, opts)
    if budget.end is None:
        return budget.plan(Pace(0.0), 0.0, cfg.SOLVER.MAX_ITER)  # without a trial
    folder = options.work_dir / "trial"
    trial = [*opts, "SOLVER.MAX_ITER", _TRIAL, "SOLVER.CHECKPOINT_PERIOD", 10 * _TRIAL]
    minutes = _TRIAL_SHARE * (options.minutes or 0)
    weights = train_or_reuse(config_file, trial, folder, options.num_gpus, minutes)["weights"]
    rows = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
    row = next(r for r in map(json.loads, reversed(rows)) if "time" in r)
    sides = 1 if cfg.INPUT.RANDOM_FLIP == "none" else 2
    pace = Pace(
        row["time"],
        row.get(BODY_TIME, 0.0),
        cfg.SOLVER.IMS_PER_BATCH,
        images * sides * len(cfg.INPUT.MIN_SIZE_TRAIN),
    )
    model = TrainedModel(str(folder / "config.yaml"), ("MODEL.WEIGHTS", weights))
    return budget.plan(pace, seconds_an_image(model), cfg.SOLVER.MAX_ITER)


def write_training_file(path: Path, options: Options, index: Index) -> Dict[str, Any]:
    """Write what a model trains on: readable images, and no mask that is held out.

    Ids become numbers from 1.

    Returns:
        Counts of "images" and "objects", and "looseness", the share of :class:`Looseness`.

    Raises:
        ValueError: when no image can be used.
        OSError: when the file cannot be written.
    """
    check_targets([options.annotations], [path])
    numbers: Dict[str, int] = {}
    categories = {id_key(i): number for number, i in enumerate(index.categories, 1)}
    counts: Dict[str, Any] = {"images": 0, "objects": 0}
    sizes, looseness = {}, Looseness()
    with written_atomically(path) as f:
        writer = MemberWriter(f)
        names = enumerate(index.categories.values(), 1)
        writer.put("categories", [{"id": i, "name": name} for i, name in names])
        writer.start_list("images")
        for image in _usable_images(options, index):
            counts["images"] += 1
            numbers[id_key(image["id"])] = counts["images"]
            sizes[counts["images"]] = image["height"], image["width"]
            writer.extend([encode({**image, "id": counts["images"]})])
        if not counts["images"]:
            raise ValueError(f"no image of '{options.annotations}' can be used for training")
        writer.start_list("annotations")
        for annotation in _training_annotations(options, index.held_out(), index.hidden):
            image_number = numbers.get(id_key(annotation.get("image_id")))
            category = categories.get(id_key(annotation.get("category_id")))
            if image_number is not None and category is not None:
                counts["objects"] += 1
                ids = {"id": counts["objects"], "image_id": image_number, "category_id": category}
                writer.extend([encode({**annotation, **ids})])
                looseness.add(annotation, sizes[image_number])
        writer.finish()
    return {**counts, "looseness": looseness.share()}


def _usable_images(options: Options, index: Index) -> Iterator[Dict[str, Any]]:
    left_out = 0
    for image in index.training_images(MOST_IMAGES):
        path = options.image_root / image.file_name
        record = {"id": image.id, "file_name": image.file_name}
        record.update(height=image.height, width=image.width)
        try:
            check_image_size({**record, "file_name": str(path)}, read_image(path))
        except (OSError, ValueError) as e:
            left_out += 1
            if left_out <= 3:
                logger.warning("Not trained on: %s", reason_of(e))
            continue
        yield record
    if left_out > 3:
        logger.warning("Not trained on: %d images in all", left_out)


def _training_annotations(
    options: Options, held_out: Set[int], hidden: Sequence[Any]
) -> Iterator[Dict[str, Any]]:
    annotations = (v for k, v in coco.read_boxes(options.annotations) if k == "annotations")
    for number, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            continue
        if options.crowd_rle_is_mask:
            annotation = with_mask_of_crowd(annotation)
        kept = {k: v for k, v in annotation.items() if k in _KEYS}
        if number in held_out or kept.get("category_id") in hidden:
            kept.pop("segmentation", None)
        yield kept


_KEYS = ("image_id", "category_id", "bbox", "segmentation", "iscrowd", "area")
