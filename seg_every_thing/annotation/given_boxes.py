"""Boxes from a file, found for the pictures and the classes that they are of."""

from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..data.segmentations import shortened
from ..data.vocabulary import Vocabulary
from ..files import PathLike, read_json
from ..visualization.pictures import size_of


class GivenBox(NamedTuple):
    """A box of a file."""

    file_name: str  # of its image, or "<video>#<frame>"
    box: Tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels
    category: str
    score: float


def read_given_boxes(path: PathLike) -> List[GivenBox]:
    """Read boxes in COCO's format.

    Args:
        path: a JSON file: annotations ({"images", "annotations", "categories"}), or a list of
            results that have "file_name", "category_name" and "bbox".  "bbox" is x, y, width,
            height; "score" may be absent and is 1 then.  Crowds are left out, masks are not read.

    Raises:
        ValueError: for anything else; the message names file and entry.
    """
    content = read_json(path)
    if isinstance(content, list):
        entries = content
    else:
        entries = _joined(content, path)
    boxes = []
    for i, entry in enumerate(entries):
        if isinstance(entry, dict) and entry.get("iscrowd"):
            continue
        bbox = entry.get("bbox") if isinstance(entry, dict) else None
        if not isinstance(bbox, list) or len(bbox) != 4:
            raise ValueError(
                f"boxes '{path}', entry {i}: it needs a bbox of 4 numbers x, y, width, height, got "
                f"{shortened(entry)}"
            )
        try:
            x, y, w, h = map(float, bbox)
            score = float(entry.get("score", 1.0))
            names = entry["file_name"], entry["category_name"]
        except (KeyError, TypeError, ValueError) as e:
            reason = f"the key {e} is missing" if isinstance(e, KeyError) else str(e)
            raise ValueError(f"boxes '{path}', entry {i}: {reason}") from e
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"boxes '{path}', entry {i}: file_name and category_name must be text")
        if not np.isfinite([x, y, w, h, score]).all() or min(w, h) <= 0 or not 0 <= score <= 1:
            raise ValueError(
                f"boxes '{path}', entry {i}: expected a bbox x, y, width, height with an area and "
                f"a score from 0 to 1, got {entry['bbox']} and {score:g}"
            )
        boxes.append(GivenBox(names[0], (x, y, x + w, y + h), names[1], score))
    if not boxes:
        raise ValueError(f"boxes '{path}' hold no box")
    return boxes


def assign_boxes(
    boxes: Sequence[GivenBox], files: Sequence[Path], vocabulary: Vocabulary, source: str
) -> Dict[str, List[Tuple[GivenBox, int]]]:
    """Find the picture and the class of each box.

    A box belongs to the file whose path is, or ends with, its ``file_name``.

    Args:
        boxes: of :func:`read_given_boxes`; those of other images are left out.
        files: images and videos.
        vocabulary: of the model.
        source: file of the boxes, for messages.

    Returns:
        Boxes and class indices by the name of the picture (:class:`pictures.Picture`).

    Raises:
        ValueError: when no box belongs to a file, a name fits several files, a class is not known,
            or a box lies outside its image.
    """
    by_end = _by_end(files)
    owners = {
        name: _owner(name, by_end, source) for name in dict.fromkeys(b.file_name for b in boxes)
    }
    sizes: Dict[Path, Tuple[int, int]] = {}
    assigned: Dict[str, List[Tuple[GivenBox, int]]] = defaultdict(list)
    for box in boxes:
        owner = owners[box.file_name]
        if owner is None:
            continue
        file, picture = owner
        if file not in sizes:
            sizes[file] = size_of(file)
        height, width = sizes[file]
        x0, y0, x1, y1 = box.box
        if min(x1, width) <= max(x0, 0) or min(y1, height) <= max(y0, 0):
            raise ValueError(
                f"boxes '{source}': the box {[round(v, 1) for v in box.box]} (x0, y0, x1, y1) lies "
                f"outside its image '{picture}' of {width} x {height} pixels"
            )
        assigned[picture].append((box, _class_of(box, vocabulary, source)))
    if not assigned:
        raise ValueError(
            f"boxes '{source}': none belongs to an input; the first is of '{boxes[0].file_name}', "
            f"the first input is '{files[0]}'"
        )
    return dict(assigned)


def _joined(content: Any, path: PathLike) -> List[Any]:
    """COCO annotations with the names of their images and categories."""
    try:
        files = {image["id"]: image["file_name"] for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        return [
            {**a, "file_name": files[a["image_id"]], "category_name": names[a["category_id"]]}
            for a in content["annotations"]
        ]
    except (KeyError, TypeError) as e:
        reason = f"{e} is missing" if isinstance(e, KeyError) else str(e)
        raise ValueError(
            f"boxes '{path}' are neither COCO annotations (images, annotations, categories) nor a "
            f"list of results: {reason}"
        ) from e


def _by_end(files: Sequence[Path]) -> Dict[str, List[Path]]:
    """Files by every end of their path: "c.jpg", "b/c.jpg" and "a/b/c.jpg"."""
    by_end: Dict[str, List[Path]] = defaultdict(list)
    for file in files:
        parts = file.as_posix().split("/")
        for i in range(len(parts)):
            by_end["/".join(parts[i:])].append(file)
    return by_end


def _owner(
    file_name: str, by_end: Mapping[str, List[Path]], source: str
) -> Optional[Tuple[Path, str]]:
    """The file that a name means, and the name of its picture; None where it means no input."""
    whole = Path(file_name).as_posix()
    video, mark, frame = whole.rpartition("#")
    for end, rest in ((whole, ""), (video, mark + frame)):
        fit = by_end.get(end, [])
        fit = [file for file in fit if file.as_posix() == end] or fit
        if len(fit) > 1:
            raise ValueError(
                f"boxes '{source}': '{file_name}' can be '{fit[0]}' or '{fit[1]}': write more of "
                f"the path"
            )
        if fit:
            return fit[0], f"{fit[0]}{rest}"
    return None


def _class_of(box: GivenBox, vocabulary: Vocabulary, source: str) -> int:
    indices = sorted(vocabulary.find_all([box.category], f"boxes '{source}'"))
    if len(indices) > 1:
        names = ", ".join(vocabulary.names[i] for i in indices[:5])
        raise ValueError(f"boxes '{source}': '{box.category}' can be any of {names}: write which")
    return indices[0]
