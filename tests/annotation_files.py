"""COCO files with one thing wrong, and what becomes of them."""

import copy
import json
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
from conftest import unregister
from detectron2.config import CfgNode, get_cfg
from detectron2.data.datasets import register_coco_instances

from seg_every_thing import add_seg_every_thing_config
from seg_every_thing.data.catalog import Use, examine
from seg_every_thing.data.data_report import TRAINING, DataReport

Content = Dict[str, Any]

# Two images, 96 x 80 and 60 x 80 (width x height).
BOXES = ([4, 6, 20, 24], [40, 10, 30, 40], [10, 20, 30, 30], [30.5, 40, 20.25, 30])


def polygon(box: List[float]) -> List[List[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def good_content() -> Content:
    """Four objects of three classes in two images; nothing is wrong."""
    return {
        "info": {},
        "images": [
            {"id": 1, "file_name": "1.png", "width": 96, "height": 80},
            {"id": 2, "file_name": "2.png", "width": 60, "height": 80},
        ],
        "annotations": [
            {
                "id": i,
                "image_id": 1 if i < 3 else 2,
                "category_id": (1, 3, 7, 1)[i - 1],
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": polygon(box),
            }
            for i, box in enumerate(BOXES, start=1)
        ],
        "categories": [{"id": i, "name": n} for i, n in ((1, "cup"), (3, "dog"), (7, "kite"))],
    }


def write_content(path: Path, content: Content) -> None:
    path.write_text(json.dumps(content))  # NaN and all


def config_of(*datasets: str, **kwargs: Any) -> CfgNode:
    """A config that trains boxes and masks on data sets."""
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.MODEL.MASK_ON = True
    cfg.DATASETS.TRAIN = datasets
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    for key, value in kwargs.items():
        setattr(cfg.DATASETS, key, value)
    return cfg


def rows_of(report: DataReport) -> Dict[str, int]:
    """What the report says, in words -> number of objects."""
    return {
        f"{row['row']} {row['which']}".strip(): row["objects"] for row in report.as_json()["rows"]
    }


class Files:
    """Registers COCO files of made-up content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: List[str] = []

    def register(self, content: Any) -> str:
        """The name of a data set with this content."""
        name = f"edited_{self.folder.name}_{len(self.names)}"
        path = self.folder / f"{name}.json"
        write_content(path, content)
        register_coco_instances(name, {}, str(path), str(self.folder))
        self.names.append(name)
        return name

    def edited(self, edit: Callable[[Content], Any]) -> str:
        """The name of a data set in which one thing is not as it should be."""
        content = copy.deepcopy(good_content())
        edit(content)
        return self.register(content)

    def report(self, edit: Callable[[Content], Any], **use: Any) -> DataReport:
        """The report of such a data set."""
        (report,) = examine(self.edited(edit), Use(TRAINING, **use))
        return report

    def error(self, edit: Callable[[Content], Any], **use: Any) -> str:
        """The one line that such a data set is refused with."""
        return self.error_of(self.edited(edit), **use)

    def error_of(self, name: str, **use: Any) -> str:
        """The same of a data set that is registered."""
        with pytest.raises(ValueError) as e:
            examine(name, Use(TRAINING, **use))
        message = str(e.value)
        assert f"'{self.folder / name}.json' of the data set '{name}'" in message
        assert "\n" not in message
        return message


def edited_files(tmp_path: Path) -> Iterator[Files]:
    files = Files(tmp_path)
    yield files
    for name in files.names:
        unregister(name)
