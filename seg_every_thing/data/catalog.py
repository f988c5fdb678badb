"""Registered data sets, loaded with no more of their annotations than can be used."""

import contextlib
import difflib
import functools
import os
from typing import Any, Callable, Collection, Dict, Iterator, List, NamedTuple, Sequence, Set
from unittest import mock

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO

from ..files import printable
from .annotations import checked_dicts
from .coco_annotations import cleaned_coco, examine_coco, without_annotations
from .conversion import convertible
from .data_report import EVALUATION, TRAINING, DataReport
from .splits import SplitError


class Use(NamedTuple):
    """What annotations are needed for, and what happens to unusable ones."""

    purpose: str  # TRAINING or EVALUATION
    split: str = "all"  # its set A may use its masks; "" = no class
    on_bad: str = "error"  # DATASETS.ON_BAD_ANNOTATION


def training_use(cfg: CfgNode) -> Use:
    """What training needs of the data sets of a config."""
    return Use(TRAINING, cfg.DATASETS.MASK_CLASSES if cfg.MODEL.MASK_ON else "", _on_bad(cfg))


def evaluation_use(cfg: CfgNode) -> Use:
    """What evaluation needs: all masks, whatever training may use."""
    return Use(EVALUATION, "all" if cfg.MODEL.MASK_ON else "", _on_bad(cfg))


def _on_bad(cfg: CfgNode) -> str:
    value = cfg.DATASETS.ON_BAD_ANNOTATION
    if value not in ("error", "set_aside"):
        raise ValueError(f"DATASETS.ON_BAD_ANNOTATION is 'error' or 'set_aside', not '{value}'")
    return value


def check_data_set(dataset_name: str) -> None:
    """Make sure that a data set is registered and that its annotation file, if any, is there.

    Raises:
        ValueError: when it is not registered.
        FileNotFoundError: when the annotation file is missing.
    """
    if dataset_name not in DatasetCatalog.list():
        near = difflib.get_close_matches(dataset_name, DatasetCatalog.list(), n=1)
        raise ValueError(
            f"the data set '{dataset_name}' is not registered with detectron2"
            + (f" (did you mean '{near[0]}'?)" if near else "")
            + "; COCO-format files: detectron2.data.datasets.register_coco_instances"
        )
    json_file = MetadataCatalog.get(dataset_name).get("json_file")
    if json_file and not PathManager.isfile(json_file):
        made_by = MetadataCatalog.get(dataset_name).get("made_by")
        raise FileNotFoundError(
            f"annotation file '{json_file}' of the data set '{dataset_name}' does not exist: "
            f"set DETECTRON2_DATASETS to the folder that holds your data sets "
            f"(now '{os.getenv('DETECTRON2_DATASETS', 'datasets')}')"
            + (f"; {made_by} writes it" if made_by else "")
        )


def check_files(records: Sequence[Dict[str, Any]], whose: str) -> None:
    """Check that the images and label maps of dataset dicts are there, without reading them.

    Args:
        records: in detectron2's format.
        whose: they are, for the message: "test set 'x'".

    Raises:
        FileNotFoundError: naming the first that is missing.
    """
    files = [x[key] for x in records for key in ("file_name", "sem_seg_file_name") if key in x]
    missing = [file for file in files if "://" not in file and not os.path.exists(file)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} files of the {whose} do not exist; the first is "
            f"'{printable(missing[0])}': check the image folder and DETECTRON2_DATASETS"
        )


@contextlib.contextmanager
def valid_annotations(dataset_names: Collection[str]) -> Iterator[None]:
    """Let a broken annotation file be one error that names the file or files in question.

    Raises:
        ValueError: for content that is not JSON, lacks a key that COCO's format demands, or is
            unusable; and for a split that does not fit.
    """
    file, split = "broken annotation file", "DATASETS.MASK_CLASSES for"
    try:
        yield
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as e:
        if str(e).startswith((file, split)):  # said by whoever was called
            raise
        files = ", ".join(map(_file_of, dataset_names))
        if isinstance(e, SplitError):
            raise ValueError(f"{split} {files}: {e}") from e
        if "UTF-8 BOM" in str(e):
            e = ValueError("it begins with a byte order mark: save it as UTF-8 without one (BOM)")
        reason = f"the key {e} is missing" if isinstance(e, KeyError) else str(e)
        raise ValueError(f"{file} {files}: {reason}") from e


def _file_of(name: str) -> str:
    """The annotation file of a data set in a message."""
    json_file = MetadataCatalog.get(name).get("json_file")
    return f"'{json_file}' of the data set '{name}'" if json_file else f"of the data set '{name}'"


def class_names_of(dataset_name: str) -> List[str]:
    """Class names of a registered data set in contiguous order.

    Raises:
        ValueError: when the data set is not registered, has a broken file, or no class names.
        FileNotFoundError: when the names are in an annotation file and that is missing.
    """
    metadata = MetadataCatalog.get(dataset_name)
    if not metadata.get("thing_classes"):
        check_data_set(dataset_name)
        with valid_annotations([dataset_name]), _index_of(without_annotations):
            DatasetCatalog.get(dataset_name)  # detectron2 reads the names from the JSON as it loads
    if not metadata.get("thing_classes"):
        raise ValueError(f"the metadata of '{dataset_name}' have no thing_classes")
    return list(metadata.thing_classes)


def is_coco_file(dataset_name: str) -> bool:
    """Whether a data set is a file in COCO's format, rather than made by a function."""
    metadata = MetadataCatalog.get(dataset_name)
    return metadata.get("evaluator_type") == "coco" and bool(metadata.get("json_file"))


def examine(dataset_name: str, use: Use) -> List[DataReport]:
    """Check the annotations of a data set before they are needed, and log what was found.

    A COCO file is read as a stream, once in the life of a process as long as it does not change.

    Raises:
        ValueError: for unusable annotations, unless they are to be set aside; the message names
            data set, file and the first ten.
        FileNotFoundError: when the annotation file is missing.
    """
    check_data_set(dataset_name)
    if is_coco_file(dataset_name):
        return [_report_of_file(dataset_name, use)]
    with valid_annotations([dataset_name]), checked_loading(use) as reports:
        DatasetCatalog.get(dataset_name)
    return reports


def _report_of_file(name: str, use: Use) -> DataReport:
    path = PathManager.get_local_path(MetadataCatalog.get(name).json_file)
    status = os.stat(path)
    return _examine_file(name, path, use, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _examine_file(name: str, path: str, use: Use, *_: int) -> DataReport:
    report = DataReport(name, use.purpose, path)
    with valid_annotations([name]):
        examine_coco(path, report, use.split, use.on_bad)
    report.log()
    return report


class _Loading:
    """A data set that is being loaded."""

    def __init__(self, name: str, use: Use) -> None:
        self.name = name
        self.report = _report_of_file(name, use) if is_coco_file(name) else None
        self.was_read = False  # its file, by pycocotools


@contextlib.contextmanager
def checked_loading(use: Use, file_of: str = "") -> Iterator[List[DataReport]]:
    """While it lasts, what loads data sets gets them without unusable annotations.

    detectron2's loader and its evaluator read files themselves, but both through pycocotools, whose
    index is one place that everything passes.  Data sets that are made by functions are checked
    when detectron2's catalog gives them out, for evaluation as its converter takes them.

    Args:
        use: what for.
        file_of: a data set whose file is read without the data set being loaded.

    Yields:
        A list that gets the reports of what is loaded.

    Raises:
        ValueError: as :func:`examine`.
    """
    reports: List[DataReport] = []
    within = [_Loading(file_of, use)] if file_of else []
    load = DatasetCatalog.get

    def clean(content: Dict[str, Any]) -> Dict[str, Any]:
        known = within[-1].report if within else None
        if known is not None:
            within[-1].was_read = True
            if not known.altered and known.objects == len(content.get("annotations") or ()):
                return content
        report = DataReport(within[-1].name if within else "", use.purpose, "read on the way")
        cleaned = cleaned_coco(content, report, use.split, use.on_bad)
        if known is None and report.altered:
            _log_once(report)
            reports.append(report)
        return cleaned

    def get(name: str) -> Any:
        within.append(_Loading(name, use))
        try:
            dicts = load(name)
        finally:
            loaded = within.pop()
        report = loaded.report
        if not loaded.was_read and isinstance(dicts, list):
            report = DataReport(name, use.purpose)
            with valid_annotations([name]):
                class_names = MetadataCatalog.get(name).get("thing_classes")
                dicts = checked_dicts(dicts, report, use.split, class_names)
                report.check(use.on_bad)
            _log_once(report)
        if report is not None:
            reports.append(report)
        if use.purpose == EVALUATION and isinstance(dicts, list) and not is_coco_file(name):
            return convertible(dicts)
        return dicts

    with _index_of(clean), mock.patch.object(DatasetCatalog, "get", get):
        yield reports


@contextlib.contextmanager
def _index_of(change: Callable[[Dict[str, Any]], Dict[str, Any]]) -> Iterator[None]:
    """Let pycocotools index changed content in place of what it has read."""
    index = COCO.createIndex

    def create_index(coco: COCO) -> None:
        coco.dataset = change(coco.dataset)
        index(coco)

    with mock.patch.object(COCO, "createIndex", create_index):
        yield


_LOGGED: Set[str] = set()


def _log_once(report: DataReport) -> None:
    """Log the report of a data set that is loaded again and again; none of labels of pixels."""
    content = str(report.as_json())
    if content not in _LOGGED and (report.objects or report.purpose == EVALUATION):
        _LOGGED.add(content)
        report.log()
