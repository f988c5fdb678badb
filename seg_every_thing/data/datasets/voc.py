"""Pascal VOC and SBD semantic segmentation: background and 20 classes, void is 255.

<root>/VOC2012/{JPEGImages,SegmentationClass}/, ImageSets/Segmentation/{train,val}.txt
<root>/sbd/{img,cls}/, {train,val}.txt       SBD: labels are .mat files
"""

import logging
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

from ..labels import (
    Color,
    PathLike,
    check_folder,
    data_set_root,
    first_folder,
    record,
    register_labelled,
)

logger = logging.getLogger(__name__)

VOC_SEM_SEG_CLASSES: Tuple[str, ...] = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus"),
    *("car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike"),
    *("person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Class names in the order of the labels."""

VOC_VOID = 255
"""Label of borders and of objects that are too difficult."""

SEG11VALID_IMAGES = 736
"""Size of the FCN paper's validation set: images of VOC 2011 val that SBD train does not have."""

# detectron2 has registered voc_2007_* and voc_2012_* already, as detection data sets: hence the
# suffix of those years.
_VOC: Dict[str, Tuple[str, str]] = {
    # name -> year, image list
    **{f"voc_2007_{s}_sem_seg": ("2007", s) for s in ("train", "val", "trainval", "test")},
    **{f"voc_2011_{s}": ("2011", s) for s in ("train", "val", "trainval")},
    **{f"voc_2012_{s}_sem_seg": ("2012", s) for s in ("train", "val", "trainval")},
}
_SBD: Dict[str, str] = {"sbd_train": "train", "sbd_val": "val"}
_SEG11VALID = "voc_2011_seg11valid"
VOC_SEM_SEG_NAMES: Tuple[str, ...] = (*_VOC, _SEG11VALID, *_SBD)


def voc_palette(count: int = 256) -> List[Color]:
    """The colours (R, G, B) of VOC's label pictures.

    The bits of the index, lowest first, go in turn to red, green and blue, from their highest bit
    downwards.
    """
    colors = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            channels[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
        colors.append((channels[0], channels[1], channels[2]))
    return colors


def register_voc_sem_seg(root: Optional[PathLike] = None) -> None:
    """Register Pascal VOC and SBD for semantic segmentation; nothing is read before use.

    Names: ``voc_2011_{train,val,trainval,seg11valid}``, ``voc_2012_{train,val,trainval}_sem_seg``,
    ``voc_2007_{train,val,trainval,test}_sem_seg``, ``sbd_{train,val}``.

    Args:
        root: folder that holds ``VOC2012`` (or ``VOCdevkit/VOC2012``) and so on, and ``sbd`` (or
            ``benchmark_RELEASE/dataset``); default ``$DETECTRON2_DATASETS``, else ``datasets``.
    """
    root = data_set_root(root)
    sbd = first_folder(root, "sbd", "benchmark_RELEASE/dataset", "sbd/dataset")
    for name, (year, split) in _VOC.items():
        folder = voc_folder(root, year)
        _register(name, partial(load_voc, folder, split, name), folder)
    folder = voc_folder(root, "2011")
    _register(_SEG11VALID, partial(load_seg11valid, folder, sbd, _SEG11VALID), folder)
    for name, split in _SBD.items():
        _register(name, partial(load_sbd, sbd, split, name), sbd)


def voc_folder(root: Path, year: str) -> Path:
    """Where VOC of a year lies below the root, straight or in ``VOCdevkit``."""
    return first_folder(root, f"VOC{year}", f"VOCdevkit/VOC{year}")


def _register(name: str, load: Callable[[], List[Dict[str, str]]], folder: Path) -> None:
    register_labelled(
        name,
        load,
        source=folder,
        classes=VOC_SEM_SEG_CLASSES,
        colors=voc_palette(len(VOC_SEM_SEG_CLASSES)),
        ignore_label=VOC_VOID,
    )


def load_voc(folder: Path, split: str, name: str = "voc") -> List[Dict[str, str]]:
    """Images and labels of one list of ``ImageSets/Segmentation``.

    Args:
        folder: the one that holds ``JPEGImages``.
        split: name of the list, such as "train".
        name: of the data set, for messages.

    Raises:
        FileNotFoundError: when a folder, the list or a file on the list is missing.
        ValueError: when the list is empty.
    """
    layout = f"{folder.name}/{{ImageSets/Segmentation,JPEGImages,SegmentationClass}}"
    ids = read_list(folder / "ImageSets" / "Segmentation" / f"{split}.txt", name, layout)
    return _pairs(ids, folder, "JPEGImages", "SegmentationClass", ".png", name, layout)


def load_sbd(folder: Path, split: str, name: str = "sbd") -> List[Dict[str, str]]:
    """Images and labels of SBD's ``train.txt`` or ``val.txt``; arguments and errors as above."""
    layout = "sbd/{train.txt,img,cls}"
    ids = read_list(folder / f"{split}.txt", name, layout)
    return _pairs(ids, folder, "img", "cls", ".mat", name, layout)


def load_seg11valid(folder: Path, sbd: Path, name: str = _SEG11VALID) -> List[Dict[str, str]]:
    """The FCN paper's validation set: VOC 2011 val without the images of SBD train.

    ``ImageSets/Segmentation/seg11valid.txt`` counts where it exists; else both lists are needed.

    Args:
        folder: VOC2011.
        sbd: SBD, of which only ``train.txt`` is read.
        name: of the data set, for messages.

    Raises:
        FileNotFoundError: when a folder, a list or a file is missing.
        ValueError: when nothing is left.
    """
    if (folder / "ImageSets" / "Segmentation" / "seg11valid.txt").is_file():
        return load_voc(folder, "seg11valid", name)
    trained_on = set(read_list(sbd / "train.txt", name, "sbd/train.txt"))
    records = [r for r in load_voc(folder, "val", name) if r["image_id"] not in trained_on]
    if not records:
        raise ValueError(f"'{name}' is empty: '{sbd}/train.txt' lists all of '{folder}' val")
    if len(records) != SEG11VALID_IMAGES:
        logger.warning(
            "%s has %s images, the FCN paper's has %s: the lists of '%s' or '%s' differ from its",
            *(name, len(records), SEG11VALID_IMAGES, folder, sbd),
        )
    return records


def read_list(path: Path, name: str, layout: str) -> List[str]:
    """The image ids of a list of VOC.

    Args:
        path: of the list.
        name: of the data set, for messages.
        layout: what belongs where, for messages.

    Raises:
        FileNotFoundError: when the list or its folder is missing.
        ValueError: when the list is empty.
    """
    check_folder(path.parent, name, layout)
    try:
        ids = path.read_text(encoding="utf-8").split()
    except OSError as e:
        raise FileNotFoundError(
            f"cannot read the image list '{path}' of the data set '{name}': {e.strerror or e}"
        ) from e
    if not ids:
        raise ValueError(f"the image list '{path}' of the data set '{name}' is empty")
    return ids


def _pairs(
    ids: List[str], folder: Path, images: str, labels: str, suffix: str, name: str, layout: str
) -> List[Dict[str, str]]:
    image_folder = check_folder(folder / images, name, layout)
    label_folder = check_folder(folder / labels, name, layout)
    # One listing of each folder instead of thousands of questions whether a file is there.
    present = {p.name for f in (image_folder, label_folder) for p in f.iterdir()}
    records = []
    for image_id in ids:
        image, label = image_folder / f"{image_id}.jpg", label_folder / f"{image_id}{suffix}"
        for path in (image, label):
            if path.name not in present:
                raise FileNotFoundError(
                    f"the data set '{name}' is incomplete: '{path}', which its list names, "
                    f"does not exist"
                )
        records.append(record(image, label))
    return records
