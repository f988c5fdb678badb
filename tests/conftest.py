"""Data sets for the tests: small, made on the spot, gone from the catalogs afterwards."""

import copy
import itertools
import json
import logging
import os
from pathlib import Path
from typing import Any, Callable, Collection, Dict, Iterator, List, Optional, Sequence

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BitMasks, BoxMode, Instances, PolygonMasks
from detectron2.utils.logger import setup_logger
from forking import spawned_are_forked

from seg_every_thing import PartialSupervisionMapper, processes, register_shapes

CATEGORIES = {1: "cup", 3: "dog", 7: "kite"}  # with gaps, as in COCO
WIDTH, HEIGHT = 96, 80

# Half of what it takes to build a small model is to read its config.  libyaml reads and writes the
# same in a fifth of the time; tests of what is no text use what PyYAML has for users.
_PYTHON_YAML = {"SafeLoader": yaml.SafeLoader, "SafeDumper": yaml.SafeDumper}
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
yaml.SafeDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

# Commands that train in the process of the tests would change how it allocates, for ever.
if processes._LIBC is not None:
    processes._LIBC.mallopt = lambda *_: 1


@pytest.fixture
def python_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML as users read it."""
    for name, value in _PYTHON_YAML.items():
        monkeypatch.setattr(yaml, name, value)


_serial = itertools.count()

Annotation = Dict[str, Any]
MakeDataset = Callable[..., str]


def unregister(name: str) -> None:
    """Take a data set out of both catalogs, if it is there."""
    DatasetCatalog.pop(name, None)
    MetadataCatalog.pop(name, None)


def box_polygon(box: Sequence[float]) -> List[List[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def box_mask(box: Sequence[int]) -> np.ndarray:
    x, y, w, h = box
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    return mask


def box_rle(box: Sequence[int]) -> Dict[str, Any]:
    rle = mask_util.encode(np.asfortranarray(box_mask(box)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}


def box_uncompressed_rle(box: Sequence[int]) -> Dict[str, Any]:
    flat = box_mask(box).flatten(order="F")
    ends = [0, *(np.flatnonzero(np.diff(flat)) + 1), flat.size]
    runs = [int(b - a) for a, b in zip(ends, ends[1:])]
    return {"size": [HEIGHT, WIDTH], "counts": runs if flat[0] == 0 else [0, *runs]}


def refuse(*_: Any) -> Any:
    raise AssertionError("a mask outside the mask classes was read")


class Untouchable(list):
    """A segmentation that tells when it is read.  Being copied as a whole is not being read."""

    __len__ = __iter__ = __getitem__ = __contains__ = __eq__ = __bool__ = refuse
    __repr__ = __str__ = __reversed__ = __add__ = refuse

    def __deepcopy__(self, memo: Any) -> "Untouchable":
        return self


def mapper_of(
    augmentations: Sequence[Any] = (),
    mask_format: str = "polygon",
    mask_classes: Optional[Collection[int]] = None,
    is_train: bool = True,
    **kwargs: Any,
) -> PartialSupervisionMapper:
    return PartialSupervisionMapper(
        is_train=is_train,
        augmentations=list(augmentations),
        image_format="BGR",
        use_instance_mask=kwargs.pop("use_instance_mask", True),
        instance_mask_format=mask_format,
        mask_classes=mask_classes,
        **kwargs,
    )


def bitmaps(instances: Instances) -> torch.Tensor:
    """Masks (N, H, W) bool, whatever their format."""
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    return masks.tensor


def record_of(image_file: str, annotations: Sequence[Annotation]) -> Dict[str, Any]:
    """A dataset dict; the categories of the annotations count as contiguous already."""
    objects = [{"bbox_mode": BoxMode.XYWH_ABS, **copy.deepcopy(a)} for a in annotations]
    return {"file_name": image_file, "image_id": 1, "annotations": objects}


# The files that take longest start first, so that two processes end together.
LONGEST = (
    *("test_any_annotations.py", "test_study_command.py", "test_formats.py", "test_wheel.py"),
    *("test_training.py", "test_trainer.py", "test_review_page.py", "test_runner.py"),
)


def pytest_configure(config: pytest.Config) -> None:
    """Tests see a GPU only with ``-m gpu``: others compare bits, which a GPU does not repeat, and
    fork, which a process cannot that has computed gradients beside a GPU."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Commands set up logging for their whole process; the next test gets none of it.

    ``setup_logger`` remembers what it has set up: once its handlers are gone, it must forget.
    """
    logs = [logging.getLogger(name) for name in ("", "detectron2", "fvcore", "seg_every_thing")]
    before = [(log, list(log.handlers), log.level, log.propagate) for log in logs]
    yield
    for log, handlers, level, propagate in before:
        log.handlers, log.propagate = handlers, propagate
        log.setLevel(level)
    for each in logging.root.manager.loggerDict.values():  # logging.config switches them all off
        if isinstance(each, logging.Logger):
            each.disabled = False
    setup_logger.cache_clear()


@pytest.fixture
def forked_workers() -> Iterator[None]:
    """Processes that the package starts are forked: they need not import torch again."""
    with spawned_are_forked():
        yield


@pytest.fixture
def make_dataset(tmp_path: Path) -> Iterator[MakeDataset]:
    """Function that writes a COCO-format data set and registers it under a name of its own.

    It takes one list of COCO annotations (without ids) for each image.  The images are black; the
    box of the i-th object of an image is painted in grey ``40 + 40 * i``.
    """
    names = []

    def make(images: Sequence[Sequence[Annotation]]) -> str:
        name = f"test_data_{next(_serial)}"
        root = tmp_path / name
        root.mkdir()
        content: Dict[str, List[Any]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": n} for i, n in CATEGORIES.items()],
        }
        for image_id, annotations in enumerate(images, start=1):
            pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            for i, annotation in enumerate(annotations):
                x, y, w, h = map(int, annotation["bbox"])
                pixels[y : y + h, x : x + w] = 40 + 40 * i
                ids = {"id": len(content["annotations"]) + 1, "image_id": image_id}
                content["annotations"].append({**annotation, **ids})
            file_name = f"{image_id}.png"
            cv2.imwrite(str(root / file_name), pixels)
            content["images"].append(
                {"id": image_id, "file_name": file_name, "width": WIDTH, "height": HEIGHT}
            )
        json_file = root / "instances.json"
        json_file.write_text(json.dumps(content))
        register_coco_instances(name, {}, str(json_file), str(root))
        names.append(name)
        return name

    yield make
    for name in names:
        unregister(name)


@pytest.fixture
def mixed_objects() -> Dict[str, Annotation]:
    """Every way in which an object can have a mask or none: kind -> COCO annotation.

    The boxes do not overlap, and each mask is the whole box.
    """
    boxes = {
        "polygon": (4, 6, 20, 24),
        "rle": (34, 6, 22, 24),
        "uncompressed": (64, 6, 24, 24),
        "empty": (4, 44, 20, 26),
        "absent": (34, 44, 22, 26),
        "crowd": (64, 44, 24, 26),
    }
    categories = {"polygon": 1, "rle": 3, "uncompressed": 7, "empty": 1, "absent": 3, "crowd": 7}
    objects: Dict[str, Annotation] = {
        kind: {"bbox": list(box), "category_id": categories[kind], "iscrowd": int(kind == "crowd")}
        for kind, box in boxes.items()
    }
    objects["polygon"]["segmentation"] = box_polygon(boxes["polygon"])
    objects["rle"]["segmentation"] = box_rle(boxes["rle"])
    objects["uncompressed"]["segmentation"] = box_uncompressed_rle(boxes["uncompressed"])
    objects["empty"]["segmentation"] = []
    objects["crowd"]["segmentation"] = box_uncompressed_rle(boxes["crowd"])
    return objects


@pytest.fixture
def mixed_dataset(make_dataset: MakeDataset, mixed_objects: Dict[str, Annotation]) -> str:
    """Registered name of four images: all kinds of objects; crowd only; nothing; box-only first."""
    first = [mixed_objects[kind] for kind in ("absent", "polygon")]
    return make_dataset([list(mixed_objects.values()), [mixed_objects["crowd"]], [], first])


@pytest.fixture
def image_file(mixed_dataset: str) -> str:
    """A picture in which every object of ``mixed_objects`` has the grey of ``GREY``."""
    return str(Path(MetadataCatalog.get(mixed_dataset).image_root) / "1.png")


@pytest.fixture
def mixed_record(image_file: str, mixed_objects: Dict[str, Annotation]) -> Dict[str, Any]:
    return record_of(image_file, list(mixed_objects.values()))


@pytest.fixture(scope="session")
def _shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data_sets")


@pytest.fixture
def tiny_shapes(_shapes_root: Path) -> Path:
    """``shapes_train`` (12 images) and ``shapes_val`` (6) registered; the data set root."""
    register_shapes(root=_shapes_root, num_train=12, num_val=6)
    return _shapes_root


@pytest.fixture
def coco_root() -> Path:
    """Root of the real COCO images, where there are any."""
    root = Path(os.getenv("DETECTRON2_DATASETS", "datasets"))
    if not (root / "coco" / "annotations" / "instances_val2017.json").is_file():
        pytest.skip(
            "needs real COCO images: set DETECTRON2_DATASETS to a folder that has "
            "coco/annotations/instances_val2017.json"
        )
    return root
