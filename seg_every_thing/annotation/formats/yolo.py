"""YOLO's text files: one an image, one line an object, in shares of the image."""

from pathlib import Path
from typing import Dict, Iterator, List, Optional

import numpy as np
import yaml

from ...files import PathLike, printable, read_text, write_text
from .image_folder import ImageFolder
from .records import ReadImage, ReadObject, checked_object, polygon_object
from .tasks import Tally, Task, Work, file_for, joined

_NAME_FILES = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml")
_SLACK = 0.01  # by which rounding may lead beyond the image


def read(source: Path, folder: ImageFolder, names: Optional[List[str]]) -> Iterator[ReadImage]:
    """Read boxes, and outlines where a line has them.

    Args:
        source: folder of text files that lie in it as the images lie in theirs.
        folder: of the images; those without a text file have no objects.
        names: of the classes; None: from classes.txt, obj.names, data.yaml or dataset.yaml in the
            source or one of the two folders around it.

    Raises:
        ValueError: naming file and line.
    """
    names = find_names(source) if names is None else names
    if not source.is_dir():
        raise ValueError(f"'{printable(source)}' is no folder of YOLO text files")
    unused = {path.relative_to(source).as_posix() for path in source.rglob("*.txt")}
    unused -= set(_NAME_FILES)
    seen: Dict[str, str] = {}
    for image in folder.names():
        text = Path(image).with_suffix(".txt").as_posix()
        if text in seen:
            raise ValueError(
                f"'{printable(text)}' can belong to '{printable(seen[text])}' and to "
                f"'{printable(image)}': rename one of them"
            )
        seen[text] = image
        path = source / text
        lines = read_text(path).splitlines() if text in unused else []
        unused.discard(text)
        height, width = folder.size(image)
        objects = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    objects.append(_object(line, names, height, width))
                except ValueError as e:
                    raise ValueError(f"'{printable(path)}', line {number}: {e}") from e
        yield ReadImage(image, height, width, objects)
    if unused:
        raise ValueError(
            f"'{printable(source / min(unused))}' has no image of its name in "
            f"'{printable(folder.root)}' ({len(unused)} such files): add the images or remove them"
        )


def _object(line: str, names: List[str], height: int, width: int) -> ReadObject:
    words = line.split()
    try:
        index, values = int(words[0]), np.array(words[1:], float)
    except ValueError as e:
        raise ValueError(f"expected a class number and numbers, got {line.strip()[:60]!r}") from e
    if not 0 <= index < len(names):
        raise ValueError(
            f"class {index} is not 0 to {len(names) - 1}: the class names end there; add its name"
        )
    if len(values) not in (4, 5) and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f"expected x y width height, or 3 points and more, after the class; got {len(values)} "
            f"numbers"
        )
    if not (np.abs(values - 0.5) <= 0.5 + _SLACK).all():
        raise ValueError("its numbers must be shares of the image, 0 to 1, and are not")
    if len(values) > 5:
        points = values.reshape(-1, 2).clip(0, 1) * [width, height]
        return polygon_object(names[index], [points.ravel().tolist()])
    x, y, w, h = values[:4] * [width, height, width, height]
    score = float(values[4]) if len(values) == 5 else None
    return checked_object(names[index], (x - w / 2, y - h / 2, w, h), score=score)


def find_names(source: Path) -> List[str]:
    """Class names of the data set to which a folder of text files belongs.

    Raises:
        ValueError: when no file has them.
    """
    for folder in (source, source.parent, source.parent.parent):
        for name in _NAME_FILES:
            if (folder / name).is_file():
                return read_names(folder / name)
    raise ValueError(
        f"no class names for '{printable(source)}': give --classes FILE (a name a line, or a YAML "
        f"file with 'names')"
    )


def read_names(path: PathLike) -> List[str]:
    """Class names from a text file with a name a line, or from a YAML file with "names".

    Raises:
        ValueError: naming the file.
    """
    text = read_text(path)
    if Path(path).suffix not in (".yaml", ".yml"):
        names = [line.strip() for line in text.splitlines()]
        while names and not names[-1]:
            names.pop()
    else:
        try:
            names = yaml.safe_load(text)["names"]
            if isinstance(names, dict):
                names = [names[i] for i in range(len(names))]
        except (KeyError, TypeError, yaml.YAMLError) as e:
            raise ValueError(f"'{printable(path)}' has no 'names' as a list or as 0: ...") from e
    names = [str(name) for name in names]
    if not names or len(set(names)) < len(names) or not all(names):
        raise ValueError(f"the class names in '{printable(path)}' must differ, and none be empty")
    return names


def write(work: Work) -> Tally:
    """Write ``labels/`` and ``data.yaml``: a polygon an object, its parts joined by bridges.

    An object without a mask is written as the outline of its box, since ultralytics drops all
    polygons of a data set that has boxes among them.  Crowds are left out.

    Raises:
        ValueError: when two images would share a file.
        OSError: when something cannot be written.
    """
    index = {category: i for i, category in enumerate(work.categories)}
    tally = Tally()
    for image in work.images():
        size = np.array([image.width, image.height], float)
        lines = []
        for task in image.tasks:
            if not tally.count(task):
                continue
            polygon = joined(task.polygons or [_corners(task)])
            shares = (polygon.reshape(-1, 2) / size).clip(0, 1).ravel()
            numbers = " ".join(f"{v:.6f}" for v in shares)
            lines.append(f"{index[task.category]} {numbers}\n")
        path = file_for(work.target / "labels", image.file_name, ".txt")
        write_text(path, "".join(lines))
    names = {i: work.categories[category] for category, i in index.items()}
    write_text(work.target / "data.yaml", yaml.safe_dump({"names": names}, allow_unicode=True))
    return tally


def _corners(task: Task) -> List[float]:
    x, y, w, h = task.box
    return [x, y, x + w, y, x + w, y + h, x, y + h]
