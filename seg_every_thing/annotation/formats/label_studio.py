"""Label Studio: its export of tasks in, predictions out."""

from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import quoteattr

import numpy as np

from ...data.json_stream import encode, iter_array
from ...files import printable, write_text, written_atomically
from ..encoding import CutMask, to_rle
from .image_folder import ImageFolder
from .records import ReadImage, ReadObject, checked_object, polygon_object
from .tasks import Tally, Task, Work

_FROM, _TO = "label", "image"  # names of the controls in the labeling interface
_SHAPES = ("rectangle", "polygon", "brush")  # with labels of their own: "rectanglelabels", ...
_NO_SHAPES = (
    *("choices", "datetime", "labels", "number", "pairwise", "ranker", "rating", "relation"),
    *("taxonomy", "textarea"),
)


def brush() -> Any:
    """label-studio-sdk's converter of brush masks.

    Raises:
        ValueError: when it is not installed.
    """
    try:
        from label_studio_sdk.converter import brush as module
    except ImportError as e:
        raise ValueError(
            "brush masks of Label Studio need label-studio-sdk: pip install label-studio-sdk, or "
            "use polygons"
        ) from e
    return module


def read(source: Path, folder: ImageFolder, names: Optional[List[str]]) -> Iterator[ReadImage]:
    """Read rectangles as boxes; polygons and brush masks are masks that are there already.

    Of a task its first annotation that was not cancelled is taken.  Other shapes are refused.

    Args:
        source: JSON export (not JSON-MIN).
        folder: of the images.
        names: are not needed.

    Raises:
        ValueError: naming file, task and region.
    """
    for number, task in enumerate(iter_array(source), 1):
        try:
            yield _image(task, folder)
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            reason = f"{e} is missing" if isinstance(e, KeyError) else str(e)
            own_id = task.get("id", number) if isinstance(task, dict) else number
            raise ValueError(f"'{printable(source)}', task {own_id}: {reason}") from e


def _image(task: Dict[str, Any], folder: ImageFolder) -> ReadImage:
    data = task["data"]
    name = _find(data.get("image") or next(iter(data.values()), ""), folder)
    answers = [a for a in task.get("annotations", ()) if not a.get("was_cancelled")]
    regions = answers[0]["result"] if answers else []
    labels = {  # of shapes that have none of their own
        region.get("id"): region["value"]["labels"]
        for region in regions
        if isinstance(region, dict) and region.get("type") == "labels"
    }
    found, size, places = [], None, set()
    for number, region in enumerate(regions, 1):
        try:
            kind = str(region.get("type"))
            if kind in _NO_SHAPES:
                continue
            shape = kind.split("labels")[0]
            if shape not in _SHAPES:
                raise ValueError(f"its type {kind} is no rectangle, polygon or brush: remove it")
            places.add(region.get("to_name"))
            size = region["original_height"], region["original_width"]
            names = region["value"].get(kind) or labels.get(region.get("id")) or [None]
            found.append(_object(region["value"], shape, names[0], *size))
        except (AttributeError, KeyError, TypeError, ValueError) as e:
            reason = f"{e} is missing" if isinstance(e, KeyError) else str(e)
            own_id = region.get("id") if isinstance(region, dict) else number
            raise ValueError(f"region '{own_id}': {reason}") from e
    if len(places) > 1:
        raise ValueError(
            f"its regions lie in several images ({', '.join(sorted(map(str, places)))}): make each "
            f"image a task"
        )
    height, width = size or folder.size(name)
    return ReadImage(name, int(height), int(width), found)


def _find(url: str, folder: ImageFolder) -> str:
    """The image behind a URL; uploads have eight digits and a dash before their name."""
    parts = urlsplit(url)
    name = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    try:
        return folder.find(name)
    except ValueError:
        last = name.rsplit("/", 1)[-1]
        if len(last) > 9 and last[8] == "-":
            return folder.find(last[9:])
        raise


def _object(value: Dict[str, Any], shape: str, label: Any, height: int, width: int) -> ReadObject:
    if shape == "polygon":
        points = np.array(value["points"], float) / 100 * [width, height]
        return polygon_object(label, [points.ravel().tolist()])
    if shape == "brush":
        alpha = brush().decode_rle(value["rle"]).reshape(height, width, 4)[:, :, 3]
        cut = CutMask(alpha > 0, 0, 0)
        if not cut.area:
            raise ValueError("its brush mask is empty: remove it")
        return checked_object(label, cut.extent(), to_rle(cut, height, width))
    if value.get("rotation"):
        raise ValueError(f"it is turned by {value['rotation']:g} degrees: draw it upright")
    x, y, w, h = (value[key] / 100 for key in ("x", "y", "width", "height"))
    return checked_object(label, (x * width, y * height, w * width, h * height))


def write(work: Work, with_brush: bool = False) -> Tally:
    """Write tasks with predictions (tasks.json), and the labeling interface that shows them.

    A mask is a region a part; with ``with_brush`` one brush region, holes and all.  An object
    without a mask is a rectangle.  Crowds are left out.  Image URLs are those of local files.

    Raises:
        OSError: when something cannot be written.
        ValueError: when label-studio-sdk is needed and not there.
    """
    tally, before = Tally(as_outlines=not with_brush), "\n"
    if with_brush:
        brush()
    with written_atomically(work.target / "tasks.json") as f:
        f.write("[")
        for image in work.images():
            regions: List[Dict[str, Any]] = []
            for task in image.tasks:
                if tally.count(task):
                    regions += _regions(task, image.height, image.width, with_brush)
            scores = [region["score"] for region in regions if "score" in region]
            prediction: Dict[str, Any] = {"model_version": "seg_every_thing", "result": regions}
            if scores:
                prediction["score"] = round(float(np.mean(scores)), 4)
            url = "/data/local-files/?d=" + quote(image.file_name.replace("\\", "/"))
            f.write(before + encode({"data": {_TO: url}, "predictions": [prediction]}))
            before = ",\n"
        f.write("\n]\n")
    write_text(work.target / "interface.xml", _interface(work, with_brush))
    return tally


def _regions(task: Task, height: int, width: int, with_brush: bool) -> List[Dict[str, Any]]:
    percent = np.array([100 / width, 100 / height])
    values: List[Dict[str, Any]] = []
    if task.mask is not None and with_brush:
        pixels = task.pixels().astype(np.uint8) * 255
        kind = "brushlabels"
        values.append({"format": "rle", "rle": brush().mask2rle(pixels)})
    elif task.polygons:
        kind = "polygonlabels"
        for polygon in task.polygons:
            points = (np.reshape(polygon, (-1, 2)) * percent).clip(0, 100)
            values.append({"points": points.tolist(), "closed": True})
    else:
        kind = "rectanglelabels"
        x, y, w, h = (float(v) for v in np.multiply(task.box, [*percent, *percent]))
        values.append({"x": x, "y": y, "width": w, "height": h, "rotation": 0})
    common = {"type": kind, "from_name": f"{_FROM}_{kind}", "to_name": _TO}
    common.update(original_width=width, original_height=height, image_rotation=0)  # type: ignore
    score = {} if task.score is None else {"score": task.score}
    own_id = task.annotation.get("id")
    return [
        {"id": f"{own_id}-{i}", **common, "value": {**value, kind: [task.label]}, **score}
        for i, value in enumerate(values, 1)
    ]


def _interface(work: Work, with_brush: bool) -> str:
    labels = "".join(f"    <Label value={quoteattr(n)}/>\n" for n in work.categories.values())
    tags = ["Rectangle", "Brush" if with_brush else "Polygon"]
    controls = "".join(
        f'  <{tag}Labels name="{_FROM}_{tag.lower()}labels" toName="{_TO}">\n{labels}'
        f"  </{tag}Labels>\n"
        for tag in tags
    )
    return f'<View>\n  <Image name="{_TO}" value="${_TO}"/>\n{controls}</View>\n'
