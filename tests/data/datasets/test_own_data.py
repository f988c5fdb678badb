"""Own COCO-format files without a line of Python: what they decide, and what contradicts them."""

import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import yaml
from conftest import CATEGORIES, MakeDataset, unregister
from detectron2.data import DatasetCatalog, MetadataCatalog

from seg_every_thing.config import load_config
from seg_every_thing.data.vocabulary import classes_of

Files = Tuple[str, str]  # annotations, images

NAMES = list(CATEGORIES.values())


@pytest.fixture(autouse=True)
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, which stays empty: Shapes is not drawn where its configs get other data."""
    root = tmp_path / "data_sets"
    root.mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(root))
    yield root
    assert not list(root.iterdir())
    for name in ("own_train", "own_val", "own_train_1", "own_train_2"):
        unregister(name)


@pytest.fixture
def files(make_dataset: MakeDataset, mixed_objects: Dict[str, Any]) -> Files:
    """An annotation file of three classes, and its images."""
    metadata = MetadataCatalog.get(make_dataset([list(mixed_objects.values())]))
    return metadata.json_file, metadata.image_root


def edited(files: Files, name: str, edit: Any) -> str:
    """A copy of the annotation file, changed."""
    content = json.loads(Path(files[0]).read_text())
    edit(content)
    path = Path(files[0]).with_name(name)
    path.write_text(json.dumps(content))
    return str(path)


def train_options(*pairs: Files) -> List[Any]:
    annotations, images = zip(*pairs)
    return ["DATASETS.TRAIN_JSON", annotations, "DATASETS.TRAIN_IMAGES", images]


def val_options(*pairs: Files) -> List[Any]:
    return [
        str(x).replace("TRAIN", "VAL") if i % 2 == 0 else x
        for i, x in enumerate(train_options(*pairs))
    ]


@pytest.mark.parametrize("config", ["coco/maskx_R_50_FPN_1x.yaml", "shapes/maskx.yaml"])
def test_a_config_of_the_zoo_gives_way(config: str, files: Files) -> None:
    """It says 80 or 48 classes, data sets and a split: those of the data that it was made for."""
    cfg = load_config(config, [*train_options(files), *val_options(files)])
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("own_train",), ("own_val",))
    assert (cfg.DATASETS.MASK_CLASSES, cfg.TEST.CLASS_SPLIT) == ("all", "")
    for name in ("own_train", "own_val"):
        assert MetadataCatalog.get(name).thing_classes == NAMES
        assert len(DatasetCatalog.get(name)[0]["annotations"]) == 6
    classes = classes_of(cfg)
    assert (classes.names, classes.category_ids) == (NAMES, [1, 3, 7])


def test_other_configs_are_as_before(files: Files) -> None:
    load_config("coco/maskx_R_50_FPN_1x.yaml", train_options(files))
    cfg = load_config("coco/maskx_R_50_FPN_1x.yaml")
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.DATASETS.TEST) == (80, ("coco_2017_val",))
    assert cfg.DATASETS.MASK_CLASSES == cfg.TEST.CLASS_SPLIT == "voc"


def test_only_training_or_only_evaluation(files: Files) -> None:
    cfg = load_config("coco/maskx_R_50_FPN_1x.yaml", train_options(files))
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == (("own_train",), ())
    cfg = load_config("coco/maskx_R_50_FPN_1x.yaml", val_options(files))
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((), ("own_val",))
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 3


def test_several_files(files: Files) -> None:
    def nothing(content: Any) -> None:
        content["images"], content["annotations"] = [], []

    more = edited(files, "more.json", nothing)
    cfg = load_config("shapes/maskx.yaml", train_options(files, (more, files[1])))
    assert cfg.DATASETS.TRAIN == ("own_train_1", "own_train_2")
    assert [len(DatasetCatalog.get(n)) for n in cfg.DATASETS.TRAIN] == [1, 0]
    one_folder = ["DATASETS.TRAIN_JSON", (files[0], more), "DATASETS.TRAIN_IMAGES", (files[1],)]
    assert load_config("shapes/maskx.yaml", one_folder).DATASETS.TRAIN == cfg.DATASETS.TRAIN
    assert MetadataCatalog.get("own_train_2").image_root == files[1]


def user_config(folder: Path, **words: Any) -> str:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"_BASE_": "shapes/maskx.yaml", **words}))
    return str(path)


def test_what_the_user_says_is_held_to(files: Files, tmp_path: Path, tiny_shapes: Path) -> None:
    options = train_options(files)
    wrong = r"NUM_CLASSES is 5, but '.*instances.json' has 3 classes: leave it out"
    with pytest.raises(ValueError, match=wrong):
        load_config("shapes/maskx.yaml", [*options, "MODEL.ROI_HEADS.NUM_CLASSES", "5"])
    five = user_config(tmp_path, MODEL={"ROI_HEADS": {"NUM_CLASSES": 5}})
    with pytest.raises(ValueError, match=wrong):
        load_config(five, options)
    assert load_config(five).MODEL.ROI_HEADS.NUM_CLASSES == 5
    with pytest.raises(ValueError, match="DATASETS.TRAIN names shapes_val, and --train-json"):
        load_config("shapes/maskx.yaml", [*options, "DATASETS.TRAIN", ("shapes_val",)])
    other = user_config(tmp_path, DATASETS={"TEST": ["shapes_val"]})
    with pytest.raises(ValueError, match="DATASETS.TEST names shapes_val, and --val-json"):
        load_config(other, val_options(files))


def test_what_the_user_says_is_used(files: Files, tmp_path: Path, tiny_shapes: Path) -> None:
    (tmp_path / "classes.txt").write_text("dog\n")
    mine = user_config(
        tmp_path,
        MODEL={"ROI_HEADS": {"NUM_CLASSES": 3}},
        DATASETS={"MASK_CLASSES": str(tmp_path / "classes.txt"), "TEST": ["shapes_val"]},
    )
    cfg = load_config(mine, train_options(files))
    assert cfg.DATASETS.TEST == ("shapes_val",)  # no --val-json takes its place
    assert cfg.DATASETS.MASK_CLASSES.endswith("classes.txt")
    cfg = load_config("shapes/maskx.yaml", [*train_options(files), "TEST.CLASS_SPLIT", "voc"])
    assert cfg.TEST.CLASS_SPLIT == "voc"


def test_a_saved_config_knows_the_data(files: Files, tmp_path: Path, monkeypatch: Any) -> None:
    """OUTPUT_DIR/config.yaml, read in another folder by another process, and without the files."""
    monkeypatch.chdir(Path(files[0]).parent)
    relative = (os.path.basename(files[0]), ".")
    cfg = load_config("shapes/maskx.yaml", [*train_options(relative), *val_options(relative)])
    saved = tmp_path / "config.yaml"
    saved.write_text(cfg.dump())
    monkeypatch.chdir(tmp_path)
    for name in ("own_train", "own_val"):
        unregister(name)
    again = load_config(str(saved))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
    assert tuple(again.DATASETS.TRAIN_JSON) == (files[0],)
    assert len(DatasetCatalog.get("own_train")) == 1
    # Other files may take their place: nothing in a saved config is in the way.
    pair = (files[0], files[1])
    other = load_config(str(saved), ["DATASETS.CATEGORIES", [], *train_options(pair, pair)])
    assert other.DATASETS.TRAIN == ("own_train_1", "own_train_2")
    os.unlink(files[0])
    for name in ("own_train", "own_val"):
        unregister(name)
    classes = classes_of(load_config(str(saved)))
    assert (classes.names, classes.category_ids) == (NAMES, [1, 3, 7])


def test_files_must_agree_in_their_classes(files: Files) -> None:
    def renamed(content: Any) -> None:
        content["categories"][1]["name"] = "wolf"

    def shorter(content: Any) -> None:
        del content["categories"][0]

    for name, edit, words in (
        ("wolf.json", renamed, r"\[3, 'dog'\] is in one of them only"),
        ("short.json", shorter, r"has 3 categories and '.*short.json' 2, and \[1, 'cup'\]"),
    ):
        other = (edited(files, name, edit), files[1])
        for options in (train_options(files, other), [*train_options(files), *val_options(other)]):
            with pytest.raises(ValueError, match=rf"'.*instances.json' .*{words}"):
                load_config("shapes/maskx.yaml", options)

    def reversed_(content: Any) -> None:
        content["categories"].reverse()

    same = (edited(files, "reversed.json", reversed_), files[1])
    load_config("shapes/maskx.yaml", train_options(files, same))  # ids decide the order


@pytest.mark.parametrize(
    "edit, words",
    [
        (lambda c: c.pop("categories"), "no categories"),
        (lambda c: c.update(categories=[]), "no categories"),
        (lambda c: c.update(categories={"1": "cup"}), "no categories"),
        (lambda c: c["categories"][0].pop("name"), "no categories with an 'id'"),
        (lambda c: c["categories"][0].update(id="1"), "no categories with an 'id'"),
        (lambda c: c["categories"][0].update(id=3), "has 2 categories with the id '3'"),
        (lambda c: c["categories"][0].update(name="dog"), "2 categories with the name 'dog'"),
    ],
)
def test_broken_categories(edit: Any, words: str, files: Files) -> None:
    broken = edited(files, "broken.json", edit)
    with pytest.raises(ValueError, match=f"'.*broken.json' .*{words}"):
        load_config("shapes/maskx.yaml", train_options((broken, files[1])))


def test_paths_that_are_not_there(files: Files) -> None:
    with pytest.raises(ValueError, match="annotation file '/nowhere.json' does not exist"):
        load_config("shapes/maskx.yaml", train_options(("/nowhere.json", files[1])))
    with pytest.raises(ValueError, match="image folder '/nowhere' does not exist"):
        load_config("shapes/maskx.yaml", train_options((files[0], "/nowhere")))
    options = train_options(files, files)
    for changed in ((), (files[1],) * 3):
        with pytest.raises(ValueError, match=f"2 --train-json .* with {len(changed)} --train-im"):
            load_config("shapes/maskx.yaml", [*options[:3], changed])
    with pytest.raises(ValueError, match="0 --val-json .* with 1 --val-images"):
        load_config("shapes/maskx.yaml", ["DATASETS.VAL_IMAGES", (files[1],)])
