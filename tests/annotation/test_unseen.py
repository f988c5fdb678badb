"""What is expected of classes without masks: a second model has not seen the masks of others."""

import json
from pathlib import Path
from typing import Any, Dict, List, Sequence

import annotating
import numpy as np
import pytest
from annotating import WIDTH, ellipse, ellipse_mask, options_for, rle_of, write_data
from helpers import CONFIGS

from seg_every_thing.annotation import training, unseen
from seg_every_thing.annotation.annotator import annotate_file
from seg_every_thing.annotation.index import Index
from seg_every_thing.annotation.index_building import build_index
from seg_every_thing.annotation.making import Masker, Work
from seg_every_thing.annotation.options import Options
from seg_every_thing.annotation.quality import ScoreModel, Scores

NAMES = ("ant", "bee", "cat", "dog", "eel")
CATEGORIES = [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
WITH_MASKS = 4  # of them
IMAGES = 20


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An object of each class in each image; eels have no mask."""
    monkeypatch.setattr(annotating, "CATEGORIES", CATEGORIES)
    return write_data(tmp_path / "d", [objects_of(i) for i in range(IMAGES)])


def objects_of(image: int, with_masks: int = WITH_MASKS) -> List[Dict[str, Any]]:
    objects = []
    for category in range(1, len(NAMES) + 1):
        box = [float(image % 7), float(category), 30.0 + category, 24.0 + image % 11]
        objects.append({"bbox": box, "category_id": category})
        if category <= with_masks:
            objects[-1]["segmentation"] = rle_of(ellipse(box))
    return objects


def options(path: Path, **more: Any) -> Options:
    """Of a run that trains for no time worth speaking of."""
    config = path.parent / "tiny.yaml"
    config.write_text(
        f"""
_BASE_: {CONFIGS / "shapes" / "Base-Shapes-RCNN-FPN.yaml"}
MODEL:
  META_ARCHITECTURE: "BoxToMask"
  DEVICE: "cpu"
  FPN: {{OUT_CHANNELS: 8}}
  RESNETS: {{RES2_OUT_CHANNELS: 16, WIDTH_PER_GROUP: 4}}
  ROI_MASK_HEAD: {{PREDICTOR: "class_agnostic", CONV_DIM: 8, NUM_CONV: 1, BOX_SCALE: 1.25}}
DATASETS: {{TRAIN: [], TEST: [], MASK_CLASSES: "all"}}
TEST: {{CLASS_SPLIT: ""}}
INPUT: {{MIN_SIZE_TRAIN: [48], MAX_SIZE_TRAIN: {WIDTH}, MIN_SIZE_TEST: 48, MAX_SIZE_TEST: {WIDTH}}}
SOLVER: {{MAX_ITER: 2, IMS_PER_BATCH: 2, WARMUP_ITERS: 0}}
"""
    )
    return options_for(path, **{"config_file": str(config), "opts": (), "holdout": 0.5, **more})


def worse_where_unseen(work: Work, index: Index) -> Masker:
    """The first model's masks are right; the second one's are but upper halves."""
    half = "unseen" in work.model.config_file

    def make(image: np.ndarray, boxes: np.ndarray, _: Sequence[Any]) -> List[Any]:
        made = [ellipse_mask(image, box) for box in boxes]
        for x in made if half else ():
            x.mask.pixels[len(x.mask.pixels) // 2 :] = False
        return made

    return make


def test_a_class_without_masks_is_worth_what_hidden_ones_are(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, write = [], training.write_training_file

    def noted(file: Path, *more: Any) -> Any:
        counts = write(file, *more)
        files.append(json.loads(file.read_text())["annotations"])
        return counts

    monkeypatch.setattr(training, "write_training_file", noted)
    quality = annotate_file(options(path), worse_where_unseen)["quality"]
    assert quality["held_out_masks"] == 40 and quality["held_out_mean_IoU"] == 100
    assert {*quality["hidden_classes"]} == {"bee", "dog"}
    for row in quality["hidden_classes"].values():
        assert row["masks"] == IMAGES and 45 < row["IoU"] < 55
    # Were it not for the second model, they would have 100.
    assert 45 < quality["by_class"]["eel"]["expected_IoU"] < 55
    assert quality["expected_mean_IoU"] == quality["by_class"]["eel"]["expected_IoU"]
    assert quality["error_of_unseen_classes"] is None  # two classes do not tell
    assert quality["classes_without_any_mask"] == ["eel"]

    # It has learned from no hidden mask, and from all boxes.
    masks = [
        [sum("segmentation" in a for a in file if a["category_id"] == i) for i in range(1, 6)]
        for file in files
    ]
    assert masks == [[10, 10, 10, 10, 0], [20, 0, 20, 0, 0]]
    assert [len(file) for file in files] == [100, 100]


def test_a_run_that_is_ended_in_between_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = options(path, output=path.parent / "straight.json")
    annotate_file(straight, worse_where_unseen)
    with monkeypatch.context() as patch:
        patch.setattr(unseen, "make_all_masks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            annotate_file(options(path), worse_where_unseen)
    weights = path.parent / "out.json.part" / "unseen" / "masks_model" / "model" / "model_final.pth"
    stamp = weights.stat().st_mtime_ns
    kept = unseen.make_all_masks

    def checked(*arguments: Any) -> Any:
        assert weights.stat().st_mtime_ns == stamp
        return kept(*arguments)

    monkeypatch.setattr(unseen, "make_all_masks", checked)
    annotate_file(options(path), worse_where_unseen)
    first, second = (path.parent / name for name in ("straight.json", "out.json"))
    assert (
        json.loads(first.read_text())["annotations"]
        == json.loads(second.read_text())["annotations"]
    )
    assert not (path.parent / "out.json.part").exists()


@pytest.mark.parametrize(
    ("with_masks", "images", "more", "hidden"),
    [
        (4, IMAGES, {}, [2, 4]),
        (5, IMAGES, {"overwrite": True}, []),  # none is without masks
        (3, IMAGES, {}, []),  # too few to hide some
        (4, 10, {}, []),  # too few masks to calibrate
        (4, IMAGES, {"holdout": 0.0}, []),
        (4, IMAGES, {"opts": ("MODEL.WEIGHTS", "model.pth")}, []),  # trained already
    ],
)
def test_when_there_is_a_second_model(
    with_masks: int,
    images: int,
    more: Any,
    hidden: List[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(annotating, "CATEGORIES", CATEGORIES)
    path = write_data(tmp_path / "d", [objects_of(i, with_masks) for i in range(images)])
    run = options(path, **more)
    build_index(tmp_path / "index.sqlite", run, "error", {})
    assert unseen.hidden_categories(run, Index(tmp_path / "index.sqlite")) == hidden


def test_scores_by_class() -> None:
    seen, other = ScoreModel("certainty"), ScoreModel("learned")
    scores = Scores(seen, other, frozenset({"2", '"x"'}))
    assert [scores.of(i).kind for i in (1, 2, "2", "x")] == [
        "certainty",
        "learned",
        "certainty",
        "learned",
    ]
    assert Scores(seen).of(2) is seen
