"""Decoding and augmentation of training images, by our mapper and by detectron2's."""

import time
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode

from ..config import load_config
from ..data.dataset_mapper import PartialSupervisionMapper
from .turns import Row

FORMATS = ("polygon", "bitmask")
"""Masks as polygons, and as RLE, which become bit masks."""

_SIZE = (480, 640)
_OBJECTS = 8

_MAPPERS = {"stock": DatasetMapper, "ours": PartialSupervisionMapper}


def write_images(folder: Path, count: int) -> None:
    """JPEG files of 480x640 pixels, of blurred noise, so that they take as long as photographs."""
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        fine = rng.integers(0, 24, (*_SIZE, 3), dtype=np.uint8)
        image = cv2.add(cv2.resize(coarse, _SIZE[::-1]), fine)
        cv2.imwrite(str(folder / f"{i}.jpg"), image)


def dataset_dicts(folder: Path, count: int, mask_format: str) -> List[Dict[str, Any]]:
    """What a data set says of the images of :func:`write_images`, eight objects each."""
    rng = np.random.default_rng(1)
    height, width = _SIZE
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    on_circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    dicts: List[Dict[str, Any]] = []
    for i in range(count):
        annotations = []
        for k in range(_OBJECTS):
            side = rng.uniform(40, 240, 2)
            corner = rng.uniform(0, 1, 2) * ([width, height] - side)
            polygon = (corner + side / 2 + side / 2 * on_circle).ravel().tolist()
            segmentation: Any = [polygon]
            if mask_format == "bitmask":
                (segmentation,) = mask_util.frPyObjects([polygon], height, width)
            annotations.append(
                {
                    "bbox": [*corner.tolist(), *side.tolist()],
                    "bbox_mode": BoxMode.XYWH_ABS,
                    "category_id": k,
                    "iscrowd": 0,
                    "segmentation": segmentation,
                }
            )
        dicts.append(
            {
                "file_name": str(folder / f"{i}.jpg"),
                "image_id": i,
                "height": height,
                "width": width,
                "annotations": annotations,
            }
        )
    return dicts


class Loading:
    """A mapper on some images."""

    def __init__(
        self, kind: str, folder: str, count: int, mask_format: str, options: Sequence[Any] = ()
    ) -> None:
        """
        Args:
            kind: "stock" (detectron2's DatasetMapper) or "ours".
            folder: with the files of :func:`write_images`.
            count: how many there are.
            mask_format: of :data:`FORMATS`.
            options: KEY, VALUE, ... on top of the config of the training step.
        """
        cfg = load_config("coco/transfer_R_50_FPN_1x.yaml", ["MODEL.WEIGHTS", "", *options])
        cfg.DATASETS.MASK_CLASSES = "all"
        cfg.INPUT.MASK_FORMAT = mask_format
        self.mapper = _MAPPERS[kind](cfg, is_train=True)
        self.dicts = dataset_dicts(Path(folder), count, mask_format)

    def run(self) -> List[Dict[str, Any]]:
        """Training samples of all images."""
        return [self.mapper(x) for x in self.dicts]

    def sizes(self) -> Row:
        """How many images a turn loads; the first turn warms up."""
        return {"images": len(self.run())}

    def seconds(self) -> Tuple[float, float]:
        """Wall and processor time of all images."""
        np.random.seed(0)  # flips and sizes are the same for all
        start, cpu_start = time.perf_counter(), time.process_time()
        self.run()
        return time.perf_counter() - start, time.process_time() - cpu_start
