from dataclasses import replace
from pathlib import Path
from typing import Any, Iterator, List, Optional

import pytest
from conftest import unregister
from demo_helpers import CONFIG
from detectron2.data import DatasetCatalog, MetadataCatalog

from seg_every_thing.config import load_config
from seg_every_thing.data.vocabulary import Vocabulary, class_filter, vocabulary_of

NAMES = ["truck.n.01", "bank.n.01", "bank.n.02", "traffic_light.n.01", "Dog"]
SHOWN = ["truck", "bank", "bank", "traffic light", "dog, domestic"]


@pytest.fixture
def words() -> Vocabulary:
    return Vocabulary(NAMES, SHOWN, [1, 2, 3, 7, 9], frozenset({0, 1}))


@pytest.fixture
def data_set() -> Iterator[str]:
    """A data set of which the metadata alone are known."""
    name = "test_vocabulary"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).thing_classes = NAMES
    yield name
    unregister(name)


def config_for(data_set: str) -> Any:
    opts = ["DATASETS.TEST", repr((data_set,)), "MODEL.ROI_HEADS.NUM_CLASSES", "5"]
    opts += ["DATASETS.MASK_CLASSES", "all", "TEST.CLASS_SPLIT", ""]
    return load_config(CONFIG, opts)


@pytest.mark.parametrize(
    ("name", "indices"),
    [
        ("truck.n.01", [0]),
        ("truck", [0]),
        ("Truck", [0]),
        ("bank", [1, 2]),
        ("bank.n.02", [2]),
        ("BANK.N.02", [2]),
        ("Traffic Light", [3]),
        ("dog", [4]),
        ("traffic", []),
        ("", []),
    ],
)
def test_a_class_is_found_by_either_name(words: Vocabulary, name: str, indices: List[int]) -> None:
    assert words.find(name) == indices


def test_a_name_of_the_data_set_goes_before_a_display_name() -> None:
    words = Vocabulary(["cup", "mug", "CUP"], ["bowl", "cup", "kite"], [1, 2, 3])
    assert words.find("cup") == [0]
    assert words.find("CUP") == [2]
    assert words.find("Cup") == [0, 2]


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        ("truck", {0}),
        ("bank,truck.n.01", {0, 1, 2}),
        (" traffic light , bank.n.01,,", {1, 3}),
        ("dog, domestic", {4}),  # with its comma a name
    ],
)
def test_filter_of_names(words: Vocabulary, wanted: str, indices: set) -> None:
    assert class_filter(wanted, words) == indices


@pytest.mark.parametrize("file_name", ["wanted.txt", "wanted"])
def test_filter_from_a_file(tmp_path: Path, words: Vocabulary, file_name: str) -> None:
    path = tmp_path / file_name
    path.write_text("bank.n.02\n\n  dog, domestic \r\n")
    assert class_filter(str(path), words) == {2, 4}


def test_a_class_goes_before_a_file_of_its_name(
    tmp_path: Path, words: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "truck").write_text("bank.n.02")
    assert class_filter("truck", words) == {0}


def test_unknown_names_are_answered_with_the_nearest(tmp_path: Path, words: Vocabulary) -> None:
    with pytest.raises(ValueError, match=r"--classes: .*5 classes .* 'trukc' \(nearest: truck"):
        class_filter("bank,trukc", words)
    with pytest.raises(ValueError, match=r"'traffic_ligt.n.1' \(nearest: traffic_light.n.01"):
        class_filter("traffic_ligt.n.1", words)
    with pytest.raises(ValueError, match=r"'a'; 'zzzz'; 'zzzy' and 2 more$"):
        class_filter("a,zzzz,zzzy,zzzx,zzzw", words)
    (tmp_path / "a.txt").write_text("banc")
    with pytest.raises(ValueError, match=r"a.txt': .*'banc' \(nearest: bank"):
        class_filter(str(tmp_path / "a.txt"), words)


@pytest.mark.parametrize("wanted", ["", " , ", "empty.txt"])
def test_a_filter_must_name_a_class(
    tmp_path: Path, words: Vocabulary, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no class"):
        class_filter(wanted, words)


def test_unreadable_lists_are_named(tmp_path: Path, words: Vocabulary) -> None:
    with pytest.raises(ValueError, match="cannot read the class list '.*none.txt'"):
        class_filter(str(tmp_path / "none.txt"), words)
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot read the class list '.*binary.txt'"):
        class_filter(str(tmp_path / "binary.txt"), words)


def test_an_added_class_stands_at_the_end(words: Vocabulary) -> None:
    more = words.with_class("unicorn").with_class("dragon")
    assert more.find("Unicorn") == [5]
    assert more.find("dragon") == [6]
    assert more.category_ids[5:] == [10, 11]
    assert (more.set_a, more.added) == ({0, 1}, {5, 6})
    assert (words.names, words.added) == (NAMES, frozenset())
    assert class_filter("unicorn,truck", more) == {0, 5}


def test_an_added_class_has_an_id_of_text_where_ids_are(words: Vocabulary) -> None:
    text = replace(words, category_ids=["a", "b", "unicorn", "d", "e"])
    more = text.with_class("unicorn").with_class("dragon")
    assert more.category_ids[5:] == ["unicorn (added)", "dragon"]


@pytest.mark.parametrize("name", ["truck.n.01", "bank", "DOG", "unicorn"])
def test_an_added_class_needs_a_name_of_its_own(words: Vocabulary, name: str) -> None:
    with pytest.raises(ValueError, match=f"a class called '{name}' exists"):
        words.with_class("unicorn").with_class(name)


@pytest.mark.parametrize(
    ("display_names", "expected"),
    [(SHOWN, SHOWN), (tuple(SHOWN), SHOWN), (None, NAMES), (SHOWN[:4], NAMES), ([], NAMES)],
)
def test_display_names_come_from_the_metadata(
    data_set: str, tiny_shapes: Path, display_names: Optional[Any], expected: List[str]
) -> None:
    if display_names is not None:
        MetadataCatalog.get(data_set).display_names = display_names
    words = vocabulary_of(config_for(data_set))
    assert (words.names, words.display_names) == (NAMES, expected)
    assert words.category_ids == [0, 1, 2, 3, 4]


def test_display_names_of_another_number_of_classes_are_not_used(
    data_set: str, tiny_shapes: Path
) -> None:
    MetadataCatalog.get(data_set).display_names = SHOWN
    cfg = config_for(data_set)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    words = vocabulary_of(cfg)
    assert words.names == words.display_names == ["0", "1"]
