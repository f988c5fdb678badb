"""The classes of Visual Genome: the most frequent synsets, joined with COCO's 80 classes.

The rules are those with which "Learning to Segment Every Thing" made its 3001 classes.
"""

import re
from collections import Counter
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

COCO_TO_SYNSET: Dict[str, str] = {
    "cell phone": "cellular_telephone.n.01",
    "couch": "sofa.n.01",
    "dining table": "dinner_table.n.01",
    "donut": "doughnut.n.02",
    "fire hydrant": "water_faucet.n.01",
    "hair drier": "hand_blower.n.01",
    "handbag": "bag.n.04",
    "hot dog": "hotdog.n.01",
    "orange": "orange.n.01",
    "potted plant": "plant.n.01",
    "remote": "remote_control.n.01",
    "skis": "ski.n.01",
    "sports ball": "ball.n.01",
    "stop sign": "sign.n.02",
    "suitcase": "bag.n.06",
    "teddy bear": "teddy.n.01",
    "tv": "television.n.01",
    "wine glass": "wineglass.n.01",
}
"""COCO classes whose synset is not found by name; the other 62 are."""

_SENSE = re.compile(r"\.[a-z]\.\d+$")  # "truck.n.01" -> "truck"


class VGClass(NamedTuple):
    """A class of the joint list.

    Attributes:
        synset: WordNet synset, also the class's (unique) name.
        coco_id, coco_name: of the COCO class that it stands for; None for the others.
        how: how a COCO class found its synset: "name", "manual", or "none" where no synset has its
            name: the class then has no box.
    """

    synset: str
    coco_id: Optional[int] = None
    coco_name: Optional[str] = None
    how: Optional[str] = None


def display_name(synset: str) -> str:
    """A synset as one says it, "traffic light" for traffic_light.n.01; not unique."""
    return _SENSE.sub("", synset).replace("_", " ")


def rank_synsets(counts: Mapping[str, int], among: Optional[Iterable[str]] = None) -> List[str]:
    """Synsets from frequent to rare; the alphabet settles ties.

    Args:
        counts: occurrences by synset.
        among: the synsets to rank; default all that occur.
    """
    synsets = counts.keys() if among is None else among
    return sorted(synsets, key=lambda synset: (-counts.get(synset, 0), synset))


def ties_at(ranked: Sequence[str], counts: Mapping[str, int], size: int) -> Dict[str, List[str]]:
    """Synsets as frequent as the last of the first ``size``, where the alphabet had to decide.

    Returns:
        The tied synsets that are ``"kept"`` and ``"left_out"``; both empty without a tie.
    """
    if size >= len(ranked) or counts[ranked[size - 1]] != counts[ranked[size]]:
        return {"kept": [], "left_out": []}
    tied = [i for i, synset in enumerate(ranked) if counts[synset] == counts[ranked[size]]]
    return {
        "kept": [ranked[i] for i in tied if i < size],
        "left_out": [ranked[i] for i in tied if i >= size],
    }


def joint_classes(ranked: Sequence[str]) -> List[VGClass]:
    """COCO's 80 classes in COCO's order, then the other synsets in alphabetical order.

    A COCO class gets its manual synset, or else the first (most frequent) one that reads like its
    name.  A manual synset that is not in the list keeps its place, without boxes.

    Args:
        ranked: the synsets of the data set, from frequent to rare.
    """
    by_name: Dict[str, str] = {}
    for synset in ranked:
        by_name.setdefault(display_name(synset), synset)
    classes = [
        _coco_class(category, by_name) for category in COCO_CATEGORIES if category["isthing"]
    ]
    taken = {c.synset for c in classes}
    return classes + [VGClass(synset) for synset in sorted(set(ranked) - taken)]


def _coco_class(category: Mapping[str, Any], by_name: Mapping[str, str]) -> VGClass:
    name = category["name"]
    if name in COCO_TO_SYNSET:
        synset, how = COCO_TO_SYNSET[name], "manual"
    elif name in by_name:
        synset, how = by_name[name], "name"
    else:
        synset, how = name.replace(" ", "_") + ".n.01", "none"
    return VGClass(synset, category["id"], name, how)


def as_categories(classes: Sequence[VGClass]) -> List[Dict[str, Any]]:
    """The classes as COCO categories, with ids from 1."""
    categories = []
    for i, c in enumerate(classes, start=1):
        category = {"id": i, "name": c.synset, "synset": c.synset}
        category["display_name"] = display_name(c.synset)
        if c.coco_id is not None:
            category.update(coco_id=c.coco_id, coco_name=c.coco_name)
        categories.append(category)
    return categories


def parse_synsets(lines: Sequence[str], source: str) -> Tuple[str, ...]:
    """Check a list of synsets.

    Raises:
        ValueError: when it is empty, repeats a synset, or has a line that is none; the message
            names the source.
    """
    if not lines:
        raise ValueError(f"'{source}' lists no synset: write one a line, such as truck.n.01")
    wrong = [line for line in lines if not _SENSE.search(line)]
    if wrong:
        raise ValueError(f"'{source}': '{wrong[0]}' is no synset: write one a line as truck.n.01")
    repeated = [line for line, count in Counter(lines).items() if count > 1]
    if repeated:
        raise ValueError(f"'{source}' lists a synset twice: {', '.join(repeated[:5])}")
    return tuple(lines)
