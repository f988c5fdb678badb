"""CamVid road scenes in the layout of the SegNet release: 11 classes and void.

<root>/camvid/{train,val,test}/           images, .png or .jpg
<root>/camvid/{train,val,test}annot/      labels, grey .png of the same names
"""

from functools import partial
from pathlib import Path
from typing import Dict, List, Optional, Tuple

from ..labels import (
    IMAGE_SUFFIXES,
    Color,
    PathLike,
    check_folder,
    data_set_root,
    files_by_stem,
    first_folder,
    record,
    register_labelled,
)

_CLASSES: Tuple[Tuple[str, Color], ...] = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("sidewalk", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("cyclist", (0, 128, 192)),
)
CAMVID_CLASSES: Tuple[str, ...] = tuple(name for name, _ in _CLASSES)
"""Class names in the order of the labels."""

CAMVID_VOID = 11
"""Label of pixels that neither training nor evaluation looks at."""

CAMVID_NAMES: Tuple[str, ...] = ("camvid_train", "camvid_val", "camvid_test")

_LAYOUT = "camvid/{train,val,test} and camvid/{train,val,test}annot (see docs/SEMANTIC_DATA.md)"


def register_camvid(root: Optional[PathLike] = None) -> None:
    """Register ``camvid_train``, ``camvid_val`` and ``camvid_test``; nothing is read before use.

    Args:
        root: folder that holds ``camvid`` (or ``CamVid``); default ``$DETECTRON2_DATASETS``, else
            ``datasets``.
    """
    folder = first_folder(data_set_root(root), "camvid", "CamVid")
    for name in CAMVID_NAMES:
        split = name[len("camvid_") :]
        register_labelled(
            name,
            partial(load_camvid, folder, split, name),
            source=folder,
            classes=CAMVID_CLASSES,
            colors=[color for _, color in _CLASSES],
            ignore_label=CAMVID_VOID,
        )


def load_camvid(folder: Path, split: str, name: str = "camvid") -> List[Dict[str, str]]:
    """Pair the images of a split with their labels.

    Args:
        folder: the one that holds ``train``, ``trainannot`` and so on.
        split: "train", "val" or "test".
        name: of the data set, for messages.

    Returns:
        Dataset dicts in the order of the file names.

    Raises:
        FileNotFoundError: when a folder is missing.
        ValueError: when it is empty, or an image or a label has no partner.
    """
    image_folder = check_folder(folder / split, name, _LAYOUT)
    label_folder = check_folder(folder / f"{split}annot", name, _LAYOUT)
    images = files_by_stem(image_folder, IMAGE_SUFFIXES)
    labels = files_by_stem(label_folder, (".png",))
    if not images:
        raise ValueError(f"'{image_folder}' of the data set '{name}' has no .png or .jpg images")
    unpaired = sorted(images.keys() ^ labels.keys())
    if unpaired:
        lacking = label_folder if unpaired[0] in images else image_folder
        raise ValueError(
            f"the data set '{name}' is incomplete: '{lacking}' has no '{unpaired[0]}' "
            f"({len(unpaired)} files without a partner)"
        )
    return [record(images[stem], labels[stem]) for stem in images]
