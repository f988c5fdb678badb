"""COCO as CVAT imports it."""

from typing import Any, Dict

from ...data.json_stream import MemberWriter, encode
from ...files import printable, written_atomically
from .tasks import ImageTasks, Tally, Task, Work


def write(work: Work) -> Tally:
    """Write annotations.json, whose ids of all kinds are 1, 2, ... and whose names have slashes.

    Masks and crowds stay as they are; an object without a mask has an empty ``segmentation``, and
    CVAT takes its box.  What an id was is kept in ``attributes.original_id``.

    Raises:
        ValueError: for an image name that leads out of its folder.
        OSError: when something cannot be written.
    """
    tally = Tally(as_outlines=False, crowds="kept")
    new_ids = {category: i for i, category in enumerate(work.categories, 1)}
    with written_atomically(work.target / "annotations.json") as f:
        writer = MemberWriter(f)
        writer.put("licenses", [{"id": 0, "name": "", "url": ""}])
        writer.put("info", {"description": f"{work.source.name} for CVAT"})
        categories = [
            {"id": new, "name": work.categories[old], "supercategory": ""}
            for old, new in new_ids.items()
        ]
        writer.put("categories", categories)
        writer.start_list("annotations")
        lines, count = [], 0
        for number, image in enumerate(work.images(), 1):
            lines.append(encode(_image(image, number)))
            for task in image.tasks:
                tally.count(task)
                count += 1
                new = _annotation(task, count, number, new_ids[task.category])
                writer.extend([encode(new)])
        writer.start_list("images")
        writer.extend(lines)
        writer.finish()
    return tally


def _image(image: ImageTasks, number: int) -> Dict[str, Any]:
    name = image.file_name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    if name.startswith("/") or ".." in name.split("/"):
        raise ValueError(
            f"the image name '{printable(name)}' leads out of its folder, which CVAT does not "
            f"find: make it relative"
        )
    return {"id": number, "file_name": name, "height": image.height, "width": image.width}


def _annotation(task: Task, number: int, image: int, category: int) -> Dict[str, Any]:
    old = task.annotation
    attributes = old.get("attributes")
    attributes = {**attributes} if isinstance(attributes, dict) else {}
    attributes["original_id"] = old.get("id")
    x, y, w, h = task.box
    new = {**old, "id": number, "image_id": image, "category_id": category}
    new.update(iscrowd=old.get("iscrowd") or 0, attributes=attributes, bbox=[x, y, w, h])
    new["segmentation"] = old["segmentation"] if task.mask is not None else []
    new.setdefault("area", w * h)
    return new
