"""The annotations of a config's data sets, checked before anything is computed."""

from detectron2.config import CfgNode

from ..data.catalog import check_data_set, evaluation_use, examine, is_coco_file, training_use
from ..data.data_report import EVALUATION, write_data_report


def check_annotations(cfg: CfgNode, training: bool) -> None:
    """Check the annotations of all data sets, and count those of the test sets.

    ``OUTPUT_DIR/data_report.json`` gets the counts of the test sets here, and those of the training
    sets once they are loaded.

    Args:
        cfg: names the data sets.
        training: whether to check the training sets, too.

    Raises:
        ValueError: for unusable annotations, unless ``DATASETS.ON_BAD_ANNOTATION`` sets them aside;
            the message names the first ten.
        FileNotFoundError: when an annotation file is missing.
    """
    for name in cfg.DATASETS.TRAIN if training else ():
        check_data_set(name)
        if is_coco_file(name):  # others are checked when they are made
            examine(name, training_use(cfg))
    use = evaluation_use(cfg)
    reports = [report for name in cfg.DATASETS.TEST for report in examine(name, use)]
    write_data_report(cfg.OUTPUT_DIR, EVALUATION, reports)
