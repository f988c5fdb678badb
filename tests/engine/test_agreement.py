"""Config, training sets and test sets that do not agree are named before the first iteration."""

import json
import logging
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence

import pytest
from conftest import unregister
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import coco, register_coco_instances
from detectron2.evaluation import DatasetEvaluators
from helpers import shapes_config

from seg_every_thing import Trainer, add_seg_every_thing_config
from seg_every_thing.engine import agreement
from seg_every_thing.engine.agreement import (
    check_classes,
    check_labels_fit,
    check_settings,
    check_test_files,
)
from seg_every_thing.engine.launch import evaluate
from seg_every_thing.engine.semantic_trainer import SemanticTrainer

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Function that registers a copy of two images of Shapes with categories of its own.

    Categories are given in the order of their ids, which are ``step``, twice ``step``, ...
    """
    made: List[str] = []

    def register(names: Sequence[str], step: int = 1) -> str:
        name = f"test_agreement_{len(made)}"
        made.append(name)
        box = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": 0}
        polygon = {"segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]]}
        content: Dict[str, Any] = {
            "images": [
                {"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in (1, 2)
            ],
            "annotations": [
                {"id": i, "image_id": i, "category_id": step * len(names), **box, **polygon}
                for i in (1, 2)
            ],
            "categories": [{"id": step * (i + 1), "name": n} for i, n in enumerate(names)],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        register_coco_instances(name, {}, str(tmp_path / f"{name}.json"), str(tmp_path))
        return name

    yield register
    for name in made:
        unregister(name)


def config(train: Any = (), test: Any = (), num_classes: int = 3, *opts: Any) -> CfgNode:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.DATASETS.TRAIN = (train,) if isinstance(train, str) else train
    cfg.DATASETS.TEST = (test,) if isinstance(test, str) else test
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.merge_from_list(list(opts))
    return cfg


def semantic_config(train: Any, test: Any, num_classes: int) -> CfgNode:
    head = "MODEL.SEM_SEG_HEAD"
    options = ("MODEL.META_ARCHITECTURE", "SemanticSegmentor", f"{head}.NUM_CLASSES", num_classes)
    return config(train, test, 80, *options, f"{head}.IGNORE_VALUE", 255)


def refused(check: Callable[..., Any], *arguments: Any, error: Any = ValueError) -> str:
    with pytest.raises(error) as raised:
        check(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- before any data are read --------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1])
def test_numbers_that_cannot_work(value: int) -> None:
    line = refused(check_settings, config((), (), 3, "SOLVER.MAX_ITER", value), True)
    assert f"SOLVER.MAX_ITER is {value}" in line
    check_settings(config(), True)
    assert f"MODEL.ROI_HEADS.NUM_CLASSES is {value}" in refused(
        check_settings, config((), (), value), True
    )
    assert f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {value}" in refused(
        check_settings, semantic_config((), (), value), True
    )
    retina = ("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CLASSES", value)
    assert f"MODEL.RETINANET.NUM_CLASSES is {value}" in refused(
        check_settings, config((), (), 3, *retina), True
    )


def test_test_sets_must_be_there(make: Make, tmp_path: Path) -> None:
    name = make(["cup"])
    check_settings(config((), name), True)
    line = refused(check_settings, config((), name.replace("agreement", "agreemnet")), True)
    assert f"did you mean '{name}'" in line
    assert "DATASETS.TEST is empty" in refused(check_settings, config(name, ()), False)
    check_settings(config(name, ()), True)  # training may do without
    folder = str(tmp_path / "nowhere")
    json_file = MetadataCatalog.get(name).json_file
    register_coco_instances("test_agreement_gone", {}, json_file, folder)
    cfg = config((), "test_agreement_gone")
    line = refused(check_settings, cfg, True, error=FileNotFoundError)
    unregister("test_agreement_gone")
    assert f"image folder '{folder}' of the data set 'test_agreement_gone'" in line
    Path(json_file).unlink()
    line = refused(check_settings, config((), name), False, error=FileNotFoundError)
    assert json_file in line


def test_early_stopping_is_not_for_detection() -> None:
    line = refused(check_settings, config((), (), 3, "TEST.EARLY_STOPPING.PATIENCE", 2), True)
    assert "TEST.EARLY_STOPPING" in line and "GeneralizedRCNN" in line


# --- classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [2, 4])
def test_number_of_classes(make: Make, told: int) -> None:
    train, test = make(["cup", "dog", "kite"]), make(["cup", "dog", "kite"])
    for sets in ((train, ()), ((), test), (train, test)):
        line = refused(check_classes, config(*sets, told))
        assert f"MODEL.ROI_HEADS.NUM_CLASSES is {told}, the data set" in line
        assert "has 3 classes" in line and ".json" in line
    check_classes(config(train, test, 3))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["kite", "cup", "dog"], "class 0 is 'cup' in the first and 'kite' in the second"),
        (["cup", "kite", "dog"], "class 1 is 'dog' in the first and 'kite' in the second"),
        (["cup", "dog"], "class 2 is 'kite' in the first and missing (2 classes) in the second"),
        (["cup", "dog", "kite", "ox"], "class 3 is missing (3 classes) in the first and 'ox'"),
        (["Cup", "dog", "kite"], "class 0 is 'cup' in the first and 'Cup' in the second"),
    ],
)
def test_classes_in_another_order(make: Make, names: List[str], words: str) -> None:
    train, other = make(["cup", "dog", "kite"]), make(names)
    assert words in refused(check_classes, config(train, other))
    assert words in refused(check_classes, config((train, other), ()))
    assert words in refused(check_classes, config((), (train, other)))


def test_ids_may_differ(make: Make) -> None:
    names = ["cup", "dog", "kite"]
    check_classes(config(make(names), make(names, step=7)))


def test_a_training_set_need_not_be_there_to_evaluate(
    make: Make, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["cup", "dog", "kite"]
    train, test = make(names), make(names)
    Path(MetadataCatalog.get(train).json_file).unlink()
    caplog.set_level(logging.WARNING, agreement.__name__)
    monkeypatch.setattr(logging.getLogger("seg_every_thing"), "propagate", True)
    check_classes(config(train, test))
    assert "classes of training are not compared" in caplog.text
    MetadataCatalog.get(train).thing_classes = names[::-1]  # but where they are known, they count
    assert "class 0 is 'kite'" in refused(check_classes, config(train, test))


def test_a_split_that_does_not_fit(make: Make) -> None:
    test = make(["cup", "dog", "kite"])
    line = refused(check_classes, config((), test, 3, "TEST.CLASS_SPLIT", "voc"))
    assert f"TEST.CLASS_SPLIT for the test set '{test}'" in line and "'person'" in line
    line = refused(check_classes, config((), test, 3, "DATASETS.MASK_CLASSES", "vocc"))
    assert "DATASETS.MASK_CLASSES" in line and "unknown split 'vocc'" in line


def test_architectures_of_other_projects_count_their_classes_themselves(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement, "architecture_of", lambda cfg: lambda cfg: None)
    train, test = make(["cup", "dog", "kite"]), make(["cup", "kite", "dog"])
    check_classes(config(train, train, 80))
    assert "class 1" in refused(check_classes, config(train, test, 80))


@pytest.fixture
def semantic_sets() -> Iterator[Callable[..., str]]:
    made: List[str] = []

    def register(**metadata: Any) -> str:
        name = f"test_agreement_semantic_{len(made)}"
        made.append(name)
        DatasetCatalog.register(name, lambda: [])
        MetadataCatalog.get(name).set(evaluator_type="sem_seg", **metadata)
        return name

    yield register
    for name in made:
        unregister(name)


def test_semantic_classes(semantic_sets: Callable[..., str]) -> None:
    first = semantic_sets(stuff_classes=["sky", "road"], ignore_label=255)
    second = semantic_sets(stuff_classes=["road", "sky"], ignore_label=255)
    check_classes(semantic_config(first, first, 2))
    line = refused(check_classes, semantic_config(first, second, 2))
    assert "class 0 is 'sky' in the first and 'road' in the second" in line
    line = refused(check_classes, semantic_config(first, first, 3))
    assert "MODEL.SEM_SEG_HEAD.NUM_CLASSES is 3" in line and "needs 2" in line
    for lacking in ("stuff_classes", "ignore_label"):
        complete = {"stuff_classes": ["sky", "road"], "ignore_label": 255}
        name = semantic_sets(**{k: v for k, v in complete.items() if k != lacking})
        line = refused(check_labels_fit, semantic_config(name, (), 2), name)
        assert f"the metadata of '{name}' have no {lacking}" in line
    assert "DATASETS.TRAIN is empty" in refused(
        SemanticTrainer.build_train_loader, semantic_config((), (), 2)
    )


# --- where it is said -----------------------------------------------------------------------------


def detector(output: Path, *opts: Any) -> CfgNode:
    small = ("DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", 1, "INPUT.MIN_SIZE_TEST", 64)
    unsplit = ("DATASETS.MASK_CLASSES", "all", "TEST.CLASS_SPLIT", "")
    return shapes_config("detector", output, *small, *unsplit, *opts)


def test_trainers_say_it_before_the_first_iteration(
    make: Make, tiny_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "run_step", lambda self: pytest.fail("too late"))
    monkeypatch.setattr(Trainer, "build_model", lambda cfg: pytest.fail("too late"))
    assert "MAX_ITER" in refused(Trainer, detector(tmp_path, "SOLVER.MAX_ITER", 0))
    assert "no_such_set" in refused(Trainer, detector(tmp_path, "DATASETS.TEST", ("no_such_set",)))
    monkeypatch.undo()

    monkeypatch.setattr(Trainer, "run_step", lambda self: pytest.fail("too late"))
    train, other = make(["cup", "dog", "kite"]), make(["kite", "cup", "dog"])
    for image in ("1.png", "2.png"):
        (tmp_path / image).touch()
    sets = ("DATASETS.TRAIN", (train,), "DATASETS.TEST", ())
    line = refused(Trainer(detector(tmp_path, *sets)).train)
    assert "NUM_CLASSES is 48" in line and train in line
    trained = Trainer(detector(tmp_path, *sets, "MODEL.ROI_HEADS.NUM_CLASSES", 3))
    trained.cfg.DATASETS.TEST = (other,)
    assert "class 0 is 'cup' in the first and 'kite'" in refused(trained.train)
    sets = ("DATASETS.TRAIN", (train, other), "DATASETS.TEST", ())
    assert "class 0 is 'cup' in the first and 'kite'" in refused(Trainer, detector(tmp_path, *sets))


def test_files_of_a_test_set_are_looked_for(
    make: Make, tiny_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "run_step", lambda self: pytest.fail("too late"))
    train, test = make(["cup"]), make(["cup"])
    sets = ("DATASETS.TRAIN", (train,), "DATASETS.TEST", (test,), "MODEL.ROI_HEADS.NUM_CLASSES", 1)
    line = refused(Trainer, detector(tmp_path, *sets), error=FileNotFoundError)
    assert f"2 of 2 files of the training sets ({train}) do not exist; the first is '" in line
    images = [tmp_path / "1.png", tmp_path / "2.png"]
    for image in images:
        image.touch()
    trainer = Trainer(detector(tmp_path, *sets))
    for image in images:
        image.unlink()
    line = refused(trainer.train, error=FileNotFoundError)
    assert (
        f"2 of 2 files of the test set '{test}' do not exist; the first is '{tmp_path}/1.png'"
        in line
    )
    (tmp_path / "1.png").touch()
    DatasetCatalog.register(
        "test_agreement_labels",
        lambda: [
            {
                "file_name": str(tmp_path / "1.png"),
                "sem_seg_file_name": str(tmp_path / "1_labels.png"),
            },
            {"file_name": "https://example.org/2.png"},
        ],
    )
    line = refused(check_test_files, config(), "test_agreement_labels", error=FileNotFoundError)
    unregister("test_agreement_labels")
    assert "1 of 3 files" in line and "1_labels.png" in line


def test_a_test_set_that_cannot_be_evaluated(
    tiny_shapes: Path, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "run_step", lambda self: pytest.fail("too late"))
    trainer = Trainer(detector(tmp_path))
    json_file = MetadataCatalog.get("shapes_val").json_file
    known = {
        "evaluator_type": "lvis",
        "thing_classes": MetadataCatalog.get("shapes_val").thing_classes,
    }
    DatasetCatalog.register("test_agreement_lvis", lambda: [])
    MetadataCatalog.get("test_agreement_lvis").set(json_file=json_file, **known)
    trainer.cfg.DATASETS.TEST = ("test_agreement_lvis",)
    line = refused(trainer.train)
    unregister("test_agreement_lvis")
    assert "no evaluator for the data set 'test_agreement_lvis'" in line


def test_evaluation_says_it_before_a_model_is_built(
    make: Make, tiny_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "build_model", lambda cfg: pytest.fail("too late"))
    train, other = make(["cup", "dog", "kite"]), make(["kite", "cup", "dog"])
    options = ("MODEL.ROI_HEADS.NUM_CLASSES", 3, "DATASETS.TRAIN", (train,))
    cfg = detector(tmp_path, *options, "DATASETS.TEST", (other,))
    assert "class 0 is 'cup'" in refused(evaluate, cfg, False)
    assert "class 0 is 'cup'" in refused(Trainer.test, cfg, None)  # in a project of one's own
    cfg = detector(tmp_path, *options, "DATASETS.TEST", ())
    assert "DATASETS.TEST is empty" in refused(evaluate, cfg, False)


def test_a_training_set_is_loaded_once(
    make: Make, tiny_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = make(["cup", "dog", "kite"]), make(["cup", "dog", "kite"])
    loaded: List[str] = []
    load = coco.load_coco_json

    def counted(json_file: str, image_root: str, name: str, *rest: Any) -> Any:
        loaded.append(name)
        return load(json_file, image_root, name, *rest)

    monkeypatch.setattr(coco, "load_coco_json", counted)
    monkeypatch.setattr(Trainer, "run_step", lambda self: None)
    monkeypatch.setattr(Trainer, "after_train", lambda self: None)
    monkeypatch.setattr(Trainer, "after_step", lambda self: None)
    for name in ("1.png", "2.png"):
        (tmp_path / name).touch()
    sets = ("DATASETS.TRAIN", (train,), "DATASETS.TEST", (test,))
    Trainer(detector(tmp_path, *sets, "MODEL.ROI_HEADS.NUM_CLASSES", 3)).train()
    assert loaded.count(train) == 1


def test_a_project_with_evaluators_of_its_own(
    tiny_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Own(Trainer):
        @classmethod
        def build_evaluator(cls, cfg: CfgNode, dataset_name: str, output_folder: Any = None) -> Any:
            if dataset_name == "shapes_val":
                raise NotImplementedError
            return DatasetEvaluators([])

    monkeypatch.setattr(Trainer, "run_step", lambda self: None)
    monkeypatch.setattr(Trainer, "after_train", lambda self: None)
    monkeypatch.setattr(Trainer, "after_step", lambda self: None)
    Own(detector(tmp_path)).train()


@pytest.mark.parametrize(
    "key, value",
    [
        ("SOLVER.BASE_LR", 0.0),
        ("SOLVER.BASE_LR", -0.1),
        ("SOLVER.BASE_LR", float("inf")),
        ("DATALOADER.NUM_WORKERS", -1),
        ("INPUT.MIN_SIZE_TRAIN", ()),
        ("INPUT.MIN_SIZE_TRAIN", (64, -1)),
    ],
)
def test_numbers_that_cannot_train(make: Make, key: str, value: Any) -> None:
    name = make(["cup"])
    cfg = config([name], [name], 1)
    check_settings(cfg, training=True)
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=f"{key} is .*expected"):
        check_settings(cfg, training=True)
    check_settings(cfg, training=False)


def test_a_length_of_0_keeps_images_as_they_are(make: Make) -> None:
    name = make(["cup"])
    cfg = config([name], [name], 1)
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (0,)])
    check_settings(cfg, training=True)
