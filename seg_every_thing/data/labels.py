"""Semantic labels on disk, and data sets that pair images with them."""

import os
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from ..files import PathLike, printable
from .images import exif_remark, readable

Color = Tuple[int, int, int]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


def data_set_root(root: Optional[PathLike] = None) -> Path:
    """The given folder; by default ``$DETECTRON2_DATASETS``, else ``datasets``."""
    return Path(root if root is not None else os.getenv("DETECTRON2_DATASETS", "datasets"))


def read_label(path: PathLike, dtype: Any = np.uint8) -> np.ndarray:
    """Read the class index of each pixel.

    PNG files may be grey (the value counts) or have a palette (the index counts, not the colour:
    Pascal VOC).  ``.mat`` files are those of SBD, and need scipy.

    Args:
        path: the file.
        dtype: type of the result.

    Returns:
        (H, W) indices.

    Raises:
        FileNotFoundError: when the file is missing.
        ValueError: when it is no label file; the message names it.
    """
    stored = _read_mat(path) if str(path).endswith(".mat") else _read_picture(path)
    label = stored.astype(dtype)
    if (label != stored).any():
        value = stored[label != stored][0]
        raise ValueError(f"the label file '{printable(path)}' has the value {value:g}, no class")
    return label


def _read_picture(path: PathLike) -> np.ndarray:
    with readable("label file", path), Image.open(path) as picture:
        label = np.array(picture)
    if label.ndim != 2:
        raise ValueError(
            f"the label file '{printable(path)}' is a colour picture: labels are grey or palette "
            f"pictures whose values are class indices"
        )
    return label


def _read_mat(path: PathLike) -> np.ndarray:
    try:
        from scipy.io import loadmat
    except ImportError as e:
        raise ValueError(f"reading '{path}' needs scipy: pip install scipy") from e
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the label file '{path}' does not exist")
    try:
        content = loadmat(str(path), squeeze_me=True, struct_as_record=False, mat_dtype=False)
        label = np.asarray(content["GTcls"].Segmentation)
    except Exception as e:  # scipy answers broken files with errors of many kinds
        raise ValueError(
            f"cannot read '{path}' as a label file of SBD (variable GTcls.Segmentation): {e}"
        ) from e
    if label.ndim != 2:
        raise ValueError(f"'{path}': GTcls.Segmentation is not a picture, shape {label.shape}")
    return label


def check_values(label: np.ndarray, path: PathLike, num_classes: int, void: int) -> None:
    """Make sure that a label holds nothing but classes and void.

    Args:
        label: (H, W) indices.
        path: its file, for the message.
        num_classes: number of classes.
        void: label of void.

    Raises:
        ValueError: naming the file and a value that is neither.
    """
    wrong = label[(label != void) & ((label < 0) | (label >= num_classes))]
    if wrong.size:
        raise ValueError(
            f"the label file '{printable(path)}' has the value {wrong[0]}, but there are "
            f"classes 0 to {num_classes - 1} and void {void}"
        )


def check_label_size(
    label: np.ndarray, path: PathLike, image: PathLike, size: Tuple[int, int]
) -> None:
    """Make sure that a label is as large as its image.

    Args:
        label: (H, W) indices.
        path: its file, for the message.
        image: the file of the image.
        size: (height, width) of the image as read.

    Raises:
        ValueError: naming both files; the message says EXIF where that explains it.
    """
    if label.shape != size:
        remark = exif_remark(image, size, label.shape)
        raise ValueError(
            f"the label '{printable(path)}' has {label.shape} pixels, the image "
            f"'{printable(image)}' {size} (height, width){': ' if remark else ''}{remark}"
        )


def check_folder(folder: Path, dataset_name: str, layout: str) -> Path:
    """Return the folder.

    Raises:
        FileNotFoundError: when it is missing; the message says what belongs where.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"the folder '{folder}' of the data set '{dataset_name}' does not exist: set "
            f"DETECTRON2_DATASETS to the folder that holds {layout}"
        )
    return folder


def first_folder(root: Path, *names: str) -> Path:
    """The first of some folders of a root that exists; if none does, the first of them."""
    folders = [root / name for name in names]
    return next((f for f in folders if f.is_dir()), folders[0])


def record(image: Path, label: Path) -> Dict[str, str]:
    """A dataset dict in detectron2's form.  Sizes are read with the image, not before."""
    return {
        "file_name": str(image),
        "sem_seg_file_name": str(label),
        "image_id": image.stem,
    }


def files_by_stem(folder: Path, suffixes: Iterable[str]) -> Dict[str, Path]:
    """Visible files of a folder that end in one of the suffixes, by name without suffix."""
    return {
        path.stem: path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in suffixes and not path.name.startswith(".")
    }


def register_labelled(
    name: str,
    load: Callable[[], List[Dict[str, Any]]],
    *,
    source: PathLike,
    classes: Sequence[str],
    colors: Sequence[Color],
    ignore_label: int,
) -> None:
    """Register a semantic segmentation data set with detectron2; nothing is read before its use.

    Calling it again replaces what was registered here before; a data set that somebody else has
    registered under the name stays, with an error.

    Args:
        name: the name.
        load: returns the dataset dicts.
        source: the folder, for messages and metadata.
        classes: names in the order of the labels.
        colors: a colour (R, G, B) for each class.
        ignore_label: label of void pixels.

    Raises:
        ValueError: when the name belongs to a data set of another kind.
    """
    if name in DatasetCatalog.list():
        if MetadataCatalog.get(name).get("label_source") is None:
            raise ValueError(
                f"the data set name '{name}' is taken by one that seg_every_thing did not register"
            )
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        label_source=str(source),
        evaluator_type="sem_seg",
        stuff_classes=list(classes),
        stuff_colors=[tuple(color) for color in colors],
        ignore_label=ignore_label,
    )
