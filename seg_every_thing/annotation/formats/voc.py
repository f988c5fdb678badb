"""Pascal VOC's XML files, one an image."""

from pathlib import Path
from typing import Iterator, List, Optional
from xml.etree import ElementTree

from ...files import printable
from .image_folder import ImageFolder
from .records import ReadImage, ReadObject, checked_object


def read(source: Path, folder: ImageFolder, names: Optional[List[str]]) -> Iterator[ReadImage]:
    """Read boxes, whose pixels are counted from 1 and all belong to them.

    Args:
        source: folder of XML files, or one of them.
        folder: of the images.
        names: are not needed.

    Raises:
        ValueError: naming file and object.
    """
    paths = [source] if source.is_file() else sorted(source.rglob("*.xml"))
    if not paths:
        raise ValueError(f"'{printable(source)}' has no XML file")
    for path in paths:
        try:
            yield _image(path, folder)
        except (ElementTree.ParseError, OSError, ValueError) as e:
            raise ValueError(f"'{printable(path)}': {e}") from e


def _image(path: Path, folder: ImageFolder) -> ReadImage:
    data = path.read_bytes()
    if b"<!ENTITY" in data:
        raise ValueError("it defines XML entities, which VOC's files do not have: remove them")
    root = ElementTree.fromstring(data)
    name = folder.find((root.findtext("filename") or "").strip() or f"{path.stem}.jpg")
    height, width = (int(root.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    if min(height, width) <= 0:
        height, width = folder.size(name)
    objects = []
    for number, item in enumerate(root.findall("object"), 1):
        try:
            objects.append(_object(item))
        except ValueError as e:
            raise ValueError(f"object {number}: {e}") from e
    return ReadImage(name, height, width, objects)


def _object(item: ElementTree.Element) -> ReadObject:
    corners = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = item.findtext(f"bndbox/{side}")
        if text is None:
            raise ValueError(f"<bndbox><{side}> is missing")
        corners.append(float(text))
    x0, y0, x1, y1 = corners
    flags = {
        key: text.strip() == "1"
        for key in ("difficult", "truncated", "occluded")
        if (text := item.findtext(key)) is not None
    }
    box = (x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1)
    return checked_object(item.findtext("name"), box, attributes=flags or None)
