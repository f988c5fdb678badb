"""A hand-made Visual Genome in miniature, and what must come of it."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

URL = "https://cs.stanford.edu/people/rak248/"
WIDTH, HEIGHT = 100, 80


def image_record(image_id: int, folder: str = "VG_100K", **more: Any) -> Dict[str, Any]:
    record = {"width": WIDTH, "url": f"{URL}{folder}/{image_id}.jpg", "height": HEIGHT}
    return {**record, "image_id": image_id, "coco_id": None, "flickr_id": None, **more}


def object_record(
    object_id: int, synsets: List[str], box: Tuple[Any, ...] = (10, 20, 30, 40)
) -> Any:
    x, y, w, h = box
    record = {"synsets": synsets, "h": h, "object_id": object_id, "merged_object_ids": []}
    return {**record, "names": ["a name"], "w": w, "y": y, "x": x}


IMAGES = [
    image_record(1),
    image_record(2, coco_id=500),  # one of COCO val2017
    # Of COCO, but not of val2017; a file need not be called as its image.
    image_record(3, coco_id=501, url=f"{URL}VG_100K_2/2370463.jpg"),
    {k: v for k, v in image_record(4).items() if k != "coco_id"},
    image_record(5, "VG_100K_2"),  # the last outside COCO
    image_record(6, coco_id=502),  # without objects
]
COCO_VAL_IDS = [500, 12345]

OBJECTS = [
    {
        "image_id": 1,
        "image_url": URL,
        "objects": [
            object_record(11, ["tree.n.01"], (10, 20, 30, 40)),
            object_record(12, ["person.n.01"], (-5, 20, 30, 90)),  # left and below the image
            object_record(13, []),
            object_record(14, ["tree.n.01", "person.n.01"]),
            object_record(15, ["tree.n.01"], (90, 70, 10, 10)),  # ends with the image
            object_record(16, ["tree.n.01"], (100, 0, 10, 10)),  # begins where it ends
            object_record(17, ["tree.n.01"], (5, 5, 0, 10)),
        ],
    },
    {
        "image_id": 99,  # not in image_data.json
        "objects": [object_record(18, ["apple.n.01"]), object_record(19, ["mouse.n.04"])],
    },
    {
        "image_id": 3,  # not in the order of image_data.json
        "objects": [
            object_record(31, ["mouse.n.04"], (0.5, 1, 2.5, 4)),
            object_record(32, ["mouse.n.01"]),
            object_record(33, ["zoo.n.01"]),
        ],
    },
    {
        "image_id": 2,
        "objects": [
            object_record(21, ["person.n.01"]),
            object_record(11, ["apple.n.01"], (80, 60, 40, 10)),  # an id for the second time
        ],
    },
    {
        "image_id": 5,
        "objects": [
            object_record(51, ["bag.n.06"], (1, 2, 3, 4)),  # COCO's suitcase
            object_record(52, ["person.n.01"], (1, 2, 3, 4)),
        ],
    },
    {"image_id": 4, "objects": []},
]
# tree 5, person 4, apple and mouse.n.04 2, then bag.n.06, mouse.n.01, zoo.n.01 with 1 each.
NUM_CLASSES = 6  # the last two places are for two of these three


def annotation(
    number: int, image_id: int, category_id: int, box: List[float], area: float
) -> Dict[str, Any]:
    ids = {"id": number, "image_id": image_id, "category_id": category_id}
    return {**ids, "bbox": box, "area": area, "segmentation": [], "iscrowd": 0}


# Category ids.  COCO's mouse is mouse.n.04, which is more frequent than mouse.n.01.
PERSON, SUITCASE, APPLE, MOUSE_4, MOUSE_1, TREE = 1, 29, 48, 65, 81, 82

EXPECTED_ANNOTATIONS = {
    "train": [
        annotation(11, 1, TREE, [10, 20, 30, 40], 1200),
        annotation(12, 1, PERSON, [0, 20, 25, 60], 1500),
        annotation(15, 1, TREE, [90, 70, 10, 10], 100),
        annotation(31, 3, MOUSE_4, [0.5, 1, 2.5, 4], 10.0),
        annotation(32, 3, MOUSE_1, [10, 20, 30, 40], 1200),
    ],
    "val": [
        annotation(21, 2, PERSON, [10, 20, 30, 40], 1200),
        annotation(53, 2, APPLE, [80, 60, 20, 10], 200),
    ],
    "test": [
        annotation(51, 5, SUITCASE, [1, 2, 3, 4], 12),
        annotation(52, 5, PERSON, [1, 2, 3, 4], 12),
    ],
}


def image(image_id: int, folder: str, coco_id: Optional[int]) -> Dict[str, Any]:
    name = f"{folder}/{image_id}.jpg"
    sizes = {"width": WIDTH, "height": HEIGHT}
    return {"id": image_id, **sizes, "file_name": name, "coco_id": coco_id}


EXPECTED_IMAGES = {
    "train": [
        image(1, "VG_100K", None),
        {**image(3, "VG_100K_2", 501), "file_name": "VG_100K_2/2370463.jpg"},
        image(4, "VG_100K", None),
        image(6, "VG_100K", 502),
    ],
    "val": [image(2, "VG_100K", 500)],
    "test": [image(5, "VG_100K_2", None)],
}


def write_miniature(folder: Path) -> Tuple[Path, Path, Path]:
    """Paths of image_data.json, objects.json, and the list of COCO's validation images."""
    paths = folder / "image_data.json", folder / "objects.json", folder / "val_ids.txt"
    paths[0].write_text(json.dumps(IMAGES))
    paths[1].write_text(json.dumps(OBJECTS))
    paths[2].write_text("".join(f"{i}\n" for i in COCO_VAL_IDS))
    return paths
