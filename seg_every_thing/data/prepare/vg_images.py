"""The images of Visual Genome and their splits."""

import logging
import os
from pathlib import Path
from typing import Any, Collection, Dict, List, NamedTuple, Optional, Set

from ...files import PathLike
from ..json_stream import iter_array, iter_members, read_lines

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")

_COCO_VAL_SIZE = 5000


class VGImage(NamedTuple):
    """An image of image_data.json; sizes in pixels.

    Attributes:
        coco_id: its id in COCO, where it is one of COCO's.
        file_name: folder and file, such as VG_100K_2/1.jpg.
        split: "train", "val", "test", or "" for an image that is in none.
    """

    id: int
    width: int
    height: int
    coco_id: Optional[int]
    file_name: str
    split: str = ""

    def as_coco(self) -> Dict[str, Any]:
        """As an entry of a COCO file's images."""
        keys = ("id", "width", "height", "file_name", "coco_id")
        return {key: getattr(self, key) for key in keys}


def read_images(path: PathLike) -> List[VGImage]:
    """The images of image_data.json, in its order and without splits yet.

    Raises:
        ValueError: for a broken file or record, or two images with one id.
    """
    images: Dict[int, VGImage] = {}
    for record in iter_array(path, "images"):
        image = _parse(record, path)
        if images.setdefault(image.id, image) != image:
            raise ValueError(f"'{path}' has two different images with the id {image.id}")
    if not images:
        raise ValueError(f"'{path}' holds no image")
    return list(images.values())


def _parse(record: Any, path: PathLike) -> VGImage:
    try:
        image_id, url, coco_id = record["image_id"], record["url"], _coco_id(record)
        width, height = record["width"], record["height"]
        if any(type(n) is not int for n in (image_id, width, height)) or min(width, height) < 1:
            raise ValueError("image_id, width and height must be whole numbers")
        # https://cs.stanford.edu/people/rak248/VG_100K_2/1.jpg: the last folder is that on disk.
        file_name = "/".join(url.split("/")[-2:])
    except KeyError as e:
        raise ValueError(
            f"'{path}', record {str(record)[:60]}: the key {e} is missing; image_data.json of "
            f"Visual Genome has it"
        ) from e
    except (AttributeError, TypeError, ValueError) as e:
        raise ValueError(f"'{path}', record {str(record)[:60]}: {e}") from e
    return VGImage(image_id, width, height, coco_id, file_name)


def _coco_id(record: Dict[str, Any]) -> Optional[int]:
    """The id in COCO; None, as for null, where it is missing, NaN, or not positive (-1 is usual).

    A table that was read and written again may have made whole numbers 500.0.
    """
    value = record.get("coco_id")
    if value is None or value != value:
        return None
    if type(value) not in (int, float) or value != value // 1:
        raise ValueError(f"coco_id must be a whole number or null, got {str(value)[:60]!r}")
    return int(value) if value > 0 else None


def split_images(
    images: List[VGImage],
    coco_val_ids: Collection[int],
    *,
    num_test: int = 5000,
    num_val: Optional[int] = None,
) -> List[VGImage]:
    """Assign images to splits; none of COCO's validation images is trained on.

    Args:
        images: in the order of image_data.json.
        coco_val_ids: ids of COCO's validation images: these are "val".
        num_test: the last so many of the images outside COCO are "test".
        num_val: keep only the first so many of "val"; the others are then in no split.

    Raises:
        ValueError: for a negative number.
    """
    if num_test < 0 or (num_val is not None and num_val < 0):
        raise ValueError(f"sizes must not be negative, got --num-test {num_test} and {num_val}")
    val_ids = frozenset(coco_val_ids)
    outside = [i for i, image in enumerate(images) if image.coco_id is None]
    if len(outside) <= num_test and num_test:
        logger.warning(
            "Only %d images are outside COCO, and test takes all of them (--num-test %d)",
            *(len(outside), num_test),
        )
    test = set(outside[max(0, len(outside) - num_test) :])
    result = []
    left_for_val = len(images) if num_val is None else num_val
    for i, image in enumerate(images):
        split = "test" if i in test else "train"
        if image.coco_id in val_ids:
            split = "val" if left_for_val > 0 else ""
            left_for_val -= 1
        result.append(image._replace(split=split))
    return result


def coco_val_ids_for(images: List[VGImage], path: Optional[PathLike]) -> Set[int]:
    """Ids of COCO's validation images, needed where images have a ``coco_id``.

    Args:
        images: of Visual Genome.
        path: COCO's instances_val2017.json or a text file with an id a line; default
            ``$DETECTRON2_DATASETS/coco/annotations/instances_val2017.json``.

    Raises:
        ValueError: when there is no file and images have a ``coco_id``, or it is broken.
    """
    if path is None:
        if all(image.coco_id is None for image in images):
            return set()
        root = os.getenv("DETECTRON2_DATASETS", "datasets")
        path = Path(root, "coco", "annotations", "instances_val2017.json")
        if not path.is_file():
            raise ValueError(
                f"images of COCO val2017 must not be trained on, and '{path}' that names them does "
                f"not exist: give --coco-annotations instances_val2017.json, or a .txt with one "
                f"COCO image id a line"
            )
    ids = _ids_in_text(path) if Path(path).suffix == ".txt" else _ids_in_coco(path)
    if len(ids) != _COCO_VAL_SIZE:
        logger.warning(
            "'%s' names %d images, COCO val2017 has %d: Visual Genome images of COCO val2017 that "
            "it does not name go into train",
            *(path, len(ids), _COCO_VAL_SIZE),
        )
    return ids


def _ids_in_text(path: PathLike) -> Set[int]:
    try:
        return {int(line) for line in read_lines(path)}
    except ValueError as e:
        raise ValueError(f"'{path}' must have one COCO image id a line: {e}") from e


def _ids_in_coco(path: PathLike) -> Set[int]:
    ids: Set[int] = set()
    for key, value in iter_members(path, "COCO images"):
        if key == "images":
            if not isinstance(value, dict) or type(value.get("id")) is not int:
                raise ValueError(f"'{path}': an image without a whole number as id")
            ids.add(value["id"])
        elif ids:
            return ids  # annotations, which take long, come after the images
    if not ids:
        raise ValueError(f"'{path}' lists no images: it is not a COCO annotation file")
    return ids
