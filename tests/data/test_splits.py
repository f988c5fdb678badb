"""Class splits: the paper's, the user's own, and what is said about bad ones."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from seg_every_thing.data.datasets.shapes import HUES, SHAPES, SHAPES_CLASSES
from seg_every_thing.data.datasets.voc_instances import VOC_INSTANCE_CLASSES
from seg_every_thing.data.splits import (
    COCO_CLASSES,
    coco_random_splits,
    named_splits,
    resolve_class_split,
    shapes_random_splits,
)

CLASSES = ("cup", "dog", "traffic light", "kite")
CATEGORY_IDS = {c["name"]: c["id"] for c in COCO_CATEGORIES if c["isthing"]}


def test_all_has_an_empty_set_b() -> None:
    assert resolve_class_split("all", CLASSES) == ((0, 1, 2, 3), ())


def test_voc_and_nonvoc_share_out_coco() -> None:
    voc = resolve_class_split("voc", COCO_CLASSES)
    names = [COCO_CLASSES[i] for i in voc.set_a]
    vehicles = ["airplane", "bicycle", "boat", "bus", "car", "motorcycle", "train"]
    animals = ["bird", "cat", "cow", "dog", "horse", "person", "sheep"]
    indoors = ["bottle", "chair", "couch", "dining table", "potted plant", "tv"]
    assert sorted(names) == sorted(vehicles + animals + indoors)
    assert len(voc.set_b) == 60
    assert resolve_class_split("nonvoc", COCO_CLASSES) == (voc.set_b, voc.set_a)


def test_random_splits_are_those_of_the_paper() -> None:
    splits = coco_random_splits()
    by_id = {name: sorted(CATEGORY_IDS[c] for c in drawn) for name, drawn in splits.items()}
    digest = hashlib.sha256(json.dumps(by_id, sort_keys=True).encode()).hexdigest()
    assert digest.startswith("e7906417")
    first = [COCO_CLASSES.index(c) for c in splits["E1_A20B60"]]
    last = [COCO_CLASSES.index(c) for c in splits["E5_A60B20"]]
    assert first[:6] == [61, 57, 77, 6, 45, 8]
    assert last[:6] == [55, 68, 75, 15, 42, 52]


def test_random_splits_have_the_sizes_in_their_names() -> None:
    assert len(coco_random_splits()) == 25
    for name in coco_random_splits():
        a, b = resolve_class_split(name, COCO_CLASSES)
        assert name[2:] == f"_A{len(a)}B{len(b)}"
        assert sorted(a + b) == list(range(80))


def test_random_splits_neither_use_nor_move_the_global_generator() -> None:
    expected = dict(coco_random_splits())
    np.random.seed(11)
    untouched = np.random.rand(4)
    coco_random_splits.cache_clear()
    np.random.seed(11)
    np.random.rand()
    assert coco_random_splits() == expected
    assert np.random.rand() == untouched[1]


def test_shapes_a_is_half_and_shows_every_shape_and_hue() -> None:
    a, b = resolve_class_split("shapes_A", SHAPES_CLASSES)
    assert len(SHAPES_CLASSES) == 48 and len(a) == len(b) == 24
    words = {word for i in a for word in SHAPES_CLASSES[i].split()}
    assert words == {*SHAPES, *(hue for hue, _ in HUES)}


def test_shapes_b_is_the_mirror_image_of_shapes_a() -> None:
    a, b = resolve_class_split("shapes_A", SHAPES_CLASSES)
    assert resolve_class_split("shapes_B", SHAPES_CLASSES) == (b, a)


def test_random_splits_of_shapes_have_five_trials_of_five_sizes() -> None:
    splits = shapes_random_splits()
    sizes = Counter(len(names) for names in splits.values())
    assert sizes == {12: 5, 18: 5, 24: 5, 30: 5, 36: 5}
    assert len({frozenset(names) for names in splits.values()}) == 25
    for name, names in splits.items():
        a, b = resolve_class_split(name, SHAPES_CLASSES)
        assert len(a) == len(names) and name.endswith(f"_A{len(a)}B{len(b)}")
        assert {SHAPES_CLASSES[i] for i in a} == set(names)


def test_indices_follow_the_data_set_not_the_split() -> None:
    classes = list(reversed(COCO_CLASSES))
    a, b = resolve_class_split("voc", classes)
    assert {classes[i] for i in a} == set(named_splits()["voc"])
    assert a == tuple(sorted(a)) and b == tuple(sorted(b))


def test_class_lists_from_files(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("kite\r\n\n  traffic light \ncup")
    as_json = tmp_path / "a.json"
    as_json.write_text('["kite", "traffic light", "cup"]')
    marked = tmp_path / "b.txt"
    marked.write_bytes(b"\xef\xbb\xbf" + text.read_bytes())  # as editors of Windows do
    for path in (text, as_json, marked):
        assert resolve_class_split(str(path), CLASSES) == ((0, 2, 3), (1,))


@pytest.mark.parametrize(
    "file_name, content, message",
    [
        ("a.txt", "cup\ndgo\n", "'dgo'.*did you mean 'dog'"),
        ("a.json", '["dgo"]', "'dgo'.*did you mean 'dog'"),
        ("a.txt", "", "names no class"),
        ("a.json", "[]", "names no class"),
        ("a.txt", "dog\ncup\ndog\n", "twice: dog"),
        ("a.json", '["dog", "cup", "dog"]', "twice: dog"),
        ("a.json", '["dog",', "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", '{"dog": 1}', "must be a JSON list"),
        ("a.json", "[1, 2]", "must be a JSON list"),
    ],
)
def test_bad_class_lists(tmp_path: Path, file_name: str, content: str, message: str) -> None:
    path = tmp_path / file_name
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as e:
        resolve_class_split(str(path), CLASSES)
    assert str(path) in str(e.value) and "\n" not in str(e.value)


def test_binary_class_list(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot read the class list"):
        resolve_class_split(str(path), CLASSES)


def test_missing_class_list(tmp_path: Path) -> None:
    path = str(tmp_path / "nowhere.txt")
    with pytest.raises(ValueError, match="cannot read the class list") as e:
        resolve_class_split(path, CLASSES)
    assert path in str(e.value)


def test_unknown_split_names_the_nearest_and_all_others() -> None:
    with pytest.raises(ValueError, match="did you mean 'nonvoc'.*E5_A60B20"):
        resolve_class_split("non_voc", COCO_CLASSES)
    with pytest.raises(ValueError, match="unknown split ''"):
        resolve_class_split("", COCO_CLASSES)


def test_split_of_another_data_set() -> None:
    with pytest.raises(ValueError, match="'voc' does not fit the data set.*20 classes.*red disk"):
        resolve_class_split("voc", SHAPES_CLASSES)


def test_many_unknown_classes_are_counted_not_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(["cup", *(f"zzz{i}" for i in range(9))]))
    with pytest.raises(ValueError, match="'zzz4' and 4 more$"):
        resolve_class_split(str(path), CLASSES)


def test_voc_even_and_odd_share_out_voc() -> None:
    even, odd = (
        resolve_class_split(name, VOC_INSTANCE_CLASSES) for name in ("voc_even", "voc_odd")
    )
    assert even == (tuple(range(0, 20, 2)), tuple(range(1, 20, 2)))
    assert odd == (even.set_b, even.set_a)
    assert [VOC_INSTANCE_CLASSES[i] for i in even.set_a[:3]] == ["aeroplane", "bird", "bottle"]
    # Any data set with these names, in any order, and with others.
    names = ("zebra", *reversed(VOC_INSTANCE_CLASSES))
    assert {names[i] for i in resolve_class_split("voc_odd", names).set_a} == {
        VOC_INSTANCE_CLASSES[i] for i in odd.set_a
    }


def test_no_class_may_use_its_masks() -> None:
    assert resolve_class_split("none", ["cup", "dog"]) == ((), (0, 1))
