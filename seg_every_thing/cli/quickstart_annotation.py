"""The end of quickstart: boxes of Shapes in, masks out, with a page to review them."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any, Dict

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from ..annotation.annotator import annotate_file
from ..annotation.comparison import compare_masks, hide_masks
from ..annotation.options import Options
from ..files import file_digest, make_output_dir, read_text, write_json, write_text

logger = logging.getLogger(__name__)

_HOLDOUT = 0.9  # the model has seen no mask of these images, so that all of them may measure it


def annotate_boxes(cfg: CfgNode, data_set: str, folder: Path) -> Dict[str, Any]:
    """Take the masks of set B from a data set, let a model make them, and compare.

    Args:
        cfg: of the model, with its weights, and with the split that says what set B is.
        data_set: that the model was not trained on.
        folder: gets ``boxes.json``, ``masks.json`` with its report and ``comparison.json``, and
            the page ``review/index.html``.  What is there is used again.

    Returns:
        What :func:`~seg_every_thing.annotation.comparison.compare_masks` does; ``{}`` when no
        object of set B had a mask.

    Raises:
        OSError: when the folder cannot be written.
    """
    make_output_dir(folder)
    metadata = MetadataCatalog.get(data_set)
    boxes, masks = folder / "boxes.json", folder / "masks.json"
    if not hide_masks(metadata.json_file, boxes, cfg.TEST.CLASS_SPLIT)["hidden"]:
        return {}
    model = f"# of weights {file_digest(cfg.MODEL.WEIGHTS)}\n{cfg.dump()}"
    model_file = folder / "model.yaml"
    if model_file.exists() and read_text(model_file) != model:
        # What a killed run made with another model is of no use.
        shutil.rmtree(folder / "masks.json.part", ignore_errors=True)
    write_text(model_file, model)
    options = Options(
        annotations=boxes,
        image_root=Path(metadata.image_root),
        output=masks,
        config_file=str(model_file),
        opts=("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS),
        holdout=_HOLDOUT,
        report=folder / "review",
    )
    annotate_file(options)
    comparison = compare_masks(masks, metadata.json_file)
    write_json(folder / "comparison.json", comparison)
    row = comparison["all"]
    expected = "not known" if row["expected_IoU"] is None else f"{row['expected_IoU']:.1f}"
    logger.info(
        "Boxes in, masks out: the masks of set B were taken from the validation images, and Mask^X "
        "+ box losses made %d anew: mean IoU %.1f with those taken away, expected %s; of whole "
        "boxes %.1f",
        *(row["objects"], row["IoU"], expected, row["filled_box"]),
    )
    logger.info("Masks: %s", os.path.abspath(masks))
    logger.info("Page to review them: %s", os.path.abspath(folder / "review" / "index.html"))
    return comparison
