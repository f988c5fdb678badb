"""Which classes match, by name, by synset, and by a map."""

from typing import Any, Dict, List, Optional

import pytest

from seg_every_thing.data.datasets.vg_classes import as_categories, joint_classes
from seg_every_thing.data.prepare.class_matching import match_categories


def names(*values: str) -> List[Dict[str, Any]]:
    return [{"id": i, "name": name} for i, name in enumerate(values, start=1)]


def found(source: List[Any], target: List[Any], by: str = "name", **kwargs: Any) -> List[Any]:
    matches = match_categories(source, target, by, **kwargs)
    return [(m.target and m.target["name"], m.how) for m in matches]


def test_by_name() -> None:
    target = names("traffic_light.n.01", "Cup", "bag.n.04", "bag.n.06", "dog", "hot-dog.n.02")
    source = names("traffic light", "cup", "bag", "dog", "Dog", "hot_dog")
    assert found(source, target) == [
        ("traffic_light.n.01", "similar name"),
        ("Cup", "similar name"),
        (None, "ambiguous"),
        ("dog", "name"),
        (None, "no match"),  # what is a dog already is not also a Dog
        ("hot-dog.n.02", "similar name"),
    ]
    assert match_categories(source, target, "name")[2].candidates == ("bag.n.04", "bag.n.06")
    # Two sources for one similar name: nothing says which is meant.
    assert found(names("mouse.n.01", "mouse.n.04"), names("mouse")) == [(None, "ambiguous")] * 2
    assert found(names("a"), names("a", "a")) == [(None, "ambiguous")]
    assert found(names("a", "a"), names("a")) == [("a", "name")] * 2


def test_by_synset() -> None:
    source = [
        {"id": 1, "name": "a cup", "synset": "cup.n.01"},
        *names("tree.n.01", "cup", "x.n.01"),
    ]
    target = [{"id": 4, "name": "plain", "synset": "tree.n.01"}, *names("cup.n.01", "oak.n.01")]
    assert found(source, target, "synset") == [
        ("cup.n.01", "synset"),
        ("plain", "synset"),
        (None, "no match"),  # "cup" is no synset
        (None, "no match"),
    ]
    with pytest.raises(ValueError, match="name or synset, got 'smell'"):
        found(source, target, "smell")


def test_extra_map_goes_first() -> None:
    source, target = names("dog", "bag", "cat"), names("dog", "bag.n.04", "bag.n.06", "wolf")
    extra: Dict[str, Optional[str]] = {"dog": "wolf", "bag": "bag.n.06", "cat": None}
    assert found(source, target, extra=extra) == [
        ("wolf", "map"),
        ("bag.n.06", "map"),
        (None, "map"),
    ]
    with pytest.raises(ValueError, match="source has no class 'dogg' .*'dog'"):
        found(source, target, extra={"dogg": "wolf"})
    with pytest.raises(ValueError, match="target has no class 'bag.n.4' .*'bag.n.04'"):
        found(source, target, extra={"bag": "bag.n.4"})


def test_coco_and_visual_genome_both_ways() -> None:
    ranked = ["mouse.n.04", "orange.n.01", "orange.n.02", "bag.n.04", "bag.n.01", "tree.n.01"]
    genome = as_categories(joint_classes(ranked))
    coco = [{"id": c["coco_id"], "name": c["coco_name"]} for c in genome[:80]]
    forth = match_categories(coco, genome, "name")
    assert [m.target["id"] for m in forth if m.target] == list(range(1, 81))
    assert {m.how for m in forth} == {"coco name"}
    back = match_categories(genome, coco, "name")
    assert [m.target["id"] for m in back[:80] if m.target] == [c["id"] for c in coco]
    # orange.n.02, the colour, is not the fruit.
    assert all(m.target is None for m in back[80:])
