"""`seg-every-thing demo` with thousands of classes, with a filter, and with added classes."""

import json
import logging
from pathlib import Path
from typing import Any, Callable, Iterator, List

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from conftest import unregister
from demo_helpers import CONFIG, EMBEDDED, TINY, fixed_predictor, read, run_demo, write_images
from detectron2.data import DatasetCatalog, MetadataCatalog

from seg_every_thing.cli import demo, main
from seg_every_thing.data.datasets.shapes import SHAPES_CLASSES
from seg_every_thing.visualization.painter import Painter

MANY = 3001
SYNSETS = [f"thing_{i // 2}.n.{i % 2 + 1:02d}" for i in range(MANY)]
SHOWN = [f"thing {i // 2}" for i in range(MANY)]  # two synsets of each name

NO_DETECTIONS = ["TEST.DETECTIONS_PER_IMAGE", "0"]

Stub = Callable[[List[int], List[float]], None]


@pytest.fixture
def image(tmp_path: Path, tiny_shapes: Path) -> Path:
    return write_images(tmp_path / "images", ["a.png"]) / "a.png"


@pytest.fixture
def many(tmp_path: Path) -> Iterator[List[str]]:
    """Overrides for a data set of 3001 classes; the even ones are set A."""
    name = "test_demo_many"
    DatasetCatalog.register(name, list)
    to_index = {i + 1: i for i in range(MANY)}
    MetadataCatalog.get(name).set(
        thing_classes=SYNSETS, display_names=SHOWN, thing_dataset_id_to_contiguous_id=to_index
    )
    (tmp_path / "set_a.txt").write_text("\n".join(SYNSETS[::2]))
    opts = ["DATASETS.TEST", repr((name,)), "MODEL.ROI_HEADS.NUM_CLASSES", str(MANY)]
    yield [*opts, "DATASETS.MASK_CLASSES", str(tmp_path / "set_a.txt")]
    unregister(name)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    def install(classes: List[int], scores: List[float]) -> None:
        predict = fixed_predictor(classes, scores)
        monkeypatch.setattr(demo, "build_predictor", lambda cfg, *_: predict)

    return install


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> List[str]:
    """The labels that are drawn."""
    texts: List[str] = []
    monkeypatch.setattr(Painter, "draw_text", lambda self, text, *_, **__: texts.append(text))
    return texts


# Thousands of classes


def test_a_model_of_3001_classes(
    tmp_path: Path, image: Path, many: List[str], labels: List[str]
) -> None:
    output = run_demo([image], tmp_path / "out", ["--threshold", 0], many)
    results, content = read(output / "predictions.json"), read(output / "images.json")
    assert len(content["categories"]) == MANY
    last = {"id": 3001, "name": "thing_1500.n.01", "display_name": "thing 1500"}
    assert content["categories"][-1] == last
    assert len(results) == 3
    expected = []
    for result in results:
        index = result["category_id"] - 1
        expected.append(f"{'B' if index % 2 else 'A'}: {SHOWN[index]} {result['score']:.2f}")
    assert sorted(labels) == sorted(expected)
    page = (output / "index.html").read_text()
    assert "set A:" in page and "set B:" in page


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ("thing 5", [10, 11]),
        ("thing_5.n.01,Thing 6", [10, 12]),
        ("thing 1000", []),
    ],
)
def test_filter_of_classes(
    tmp_path: Path, image: Path, many: List[str], stub: Stub, wanted: str, kept: List[int]
) -> None:
    stub([10, 11, 12, 30], [0.9, 0.8, 0.7, 0.6])
    output = run_demo([image], tmp_path / "out", ["--classes", wanted], many)
    assert [r["category_id"] - 1 for r in read(output / "predictions.json")] == kept
    page = (output / "index.html").read_text()
    assert f"Classes: {wanted}." in page
    in_a = sum(i % 2 == 0 for i in kept)
    if kept:
        assert f"2 instances ({in_a} of set A, {2 - in_a} of set B) with a score" in page


def test_an_unknown_class_ends_the_run_before_the_model_is_built(
    tmp_path: Path, image: Path, many: List[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "build_predictor", lambda cfg, *_: pytest.fail("too early"))
    with pytest.raises(ValueError, match=r"'thingy 1234' \(nearest: thing 1234, "):
        run_demo([image], tmp_path / "out", ["--classes", "thing 5,thingy 1234"], many)
    assert not (tmp_path / "out").exists()


def test_the_best_instances_are_drawn_and_the_others_counted(
    tmp_path: Path, image: Path, stub: Stub, labels: List[str]
) -> None:
    stub([0, 1, 2, 3], [0.6, 0.9, 0.7, 0.8])
    output = run_demo([image], tmp_path / "out", ["--max-instances", 3])
    assert sorted(text[-4:] for text in labels) == ["0.70", "0.80", "0.90"]
    assert "; 1 more of lower scores not drawn" in (output / "index.html").read_text()
    assert len(read(output / "predictions.json")) == 4
    output = run_demo([image], tmp_path / "all")
    assert len(labels) == 3 + 4
    assert "not drawn" not in (output / "index.html").read_text()


def test_at_least_one_instance_must_be_drawn(tmp_path: Path, image: Path) -> None:
    with pytest.raises(ValueError, match="--max-instances must be at least 1, not 0"):
        run_demo([image], tmp_path / "out", ["--max-instances", 0])


# Given boxes and added classes


def write_boxes(path: Path, *categories: str, **more: Any) -> Path:
    boxes = [
        {"file_name": "a.png", "category_name": c, "bbox": [10 + 5 * i, 20, 50, 60], **more}
        for i, c in enumerate(categories)
    ]
    path.write_text(json.dumps(boxes))
    return path


@pytest.fixture
def unicorn(tmp_path: Path) -> str:
    np.save(tmp_path / "unicorn.npy", np.linspace(-1, 1, 300))
    return f"unicorn={tmp_path / 'unicorn.npy'}"


def test_an_added_class_in_given_boxes(
    tmp_path: Path, image: Path, unicorn: str, labels: List[str]
) -> None:
    boxes = write_boxes(tmp_path / "boxes.json", "unicorn", SHAPES_CLASSES[0])
    extra = ["--threshold", 0, "--add-class", unicorn, "--boxes", boxes]
    torch.manual_seed(0)
    plain = read(run_demo([image], tmp_path / "plain", extra[:2], EMBEDDED) / "predictions.json")
    labels.clear()
    torch.manual_seed(0)
    output = run_demo([image], tmp_path / "out", extra, EMBEDDED)
    results, content = read(output / "predictions.json"), read(output / "images.json")
    assert results[:3] == plain  # what the detector finds stays the same
    assert content["categories"][-1] == {"id": 49, "name": "unicorn"}
    assert [(r["category_id"], r["score"], r["bbox"]) for r in results[3:]] == [
        (49, 1, [10, 20, 50, 60]),
        (1, 1, [15, 20, 50, 60]),
    ]
    assert all(r["segmentation"]["size"] == [100, 120] for r in results[3:])
    assert len(labels) == 5
    assert "new: unicorn 1.00" in labels
    assert f"A: {SHAPES_CLASSES[0]} 1.00" in labels
    page = (output / "index.html").read_text()
    assert "1 of added classes)" in page
    assert "Added classes, whose boxes were all given: unicorn." in page
    assert "added: not in training" in page


def test_the_vector_decides_the_masks_of_an_added_class(
    tmp_path: Path, image: Path, unicorn: str
) -> None:
    np.save(tmp_path / "other.npy", -np.load(tmp_path / "unicorn.npy"))
    boxes = write_boxes(tmp_path / "boxes.json", "unicorn", "other")
    boxes.write_text(boxes.read_text().replace("[15,", "[10,"))  # the same box for both
    extra = ["--add-class", unicorn, "--add-class", f"other={tmp_path / 'other.npy'}"]
    extra += ["--boxes", boxes, "--classes", "other,unicorn"]
    results = read(run_demo([image], tmp_path / "out", extra, EMBEDDED) / "predictions.json")
    assert [r["category_id"] for r in results] == [49, 50]
    assert results[0]["bbox"] == results[1]["bbox"]
    assert results[0]["segmentation"] != results[1]["segmentation"]


def test_scores_of_given_boxes_meet_the_threshold(tmp_path: Path, image: Path) -> None:
    boxes = write_boxes(tmp_path / "boxes.json", SHAPES_CLASSES[0], score=0.4)
    for threshold, count in ((0.4, 1), (0.41, 0)):
        output = tmp_path / str(threshold)
        run_demo([image], output, ["--boxes", boxes, "--threshold", threshold], NO_DETECTIONS)
        assert len(read(output / "predictions.json")) == count


def test_boxes_of_frames(tmp_path: Path, image: Path, caplog: pytest.LogCaptureFixture) -> None:
    video = tmp_path / "c.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 5, (128, 96))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG videos")
    for _ in range(7):
        writer.write(np.zeros((96, 128, 3), np.uint8))
    writer.release()
    boxes = write_boxes(tmp_path / "boxes.json", SHAPES_CLASSES[0])
    entry = read(boxes)[0]
    boxes.write_text(json.dumps([{**entry, "file_name": f"c.avi#{k}"} for k in (3, 4)]))
    logging.getLogger("seg_every_thing").propagate = True
    extra = ["--boxes", boxes, "--frame-step", 3]
    output = run_demo([video], tmp_path / "out", extra, NO_DETECTIONS)
    assert [r["file_name"] for r in read(output / "predictions.json")] == [f"{video}#3"]
    assert f"no such frame: {video}#4" in caplog.text


def one_line(
    capsys: pytest.CaptureFixture, image: Path, output: Path, extra: List[Any], opts: List[str]
) -> str:
    """The one line on stderr with which the command ends, without what is logged."""
    arguments = ["demo", "--config-file", CONFIG, "--input", str(image), "--output", str(output)]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *map(str, extra), "--opts", *TINY, *opts])
    assert ended.value.code == 1
    assert not output.exists()
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("seg-every-thing:")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("unicorn", "--add-class 'unicorn': expected NAME=FILE.npy"),
        ("=v.npy", "--add-class '=v.npy': expected NAME=FILE.npy"),
        ("unicorn=", "--add-class 'unicorn=': expected NAME=FILE.npy"),
        ("unicorn=none.npy", "--add-class: cannot read the class vector 'none.npy'"),
        (f"{SHAPES_CLASSES[3]}=v.npy", f"a class called '{SHAPES_CLASSES[3]}' exists"),
        ("unicorn=short.npy", "'unicorn' has 299 values, those of the model's classes 300"),
        ("unicorn=nan.npy", "'unicorn' holds values that are not finite"),
        ("unicorn=table.npy", "'table.npy' holds 48 vectors"),
    ],
)
def test_bad_added_classes_end_with_one_line(
    tmp_path: Path,
    image: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    argument: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, vector in {
        "v": np.zeros(300),
        "short": np.zeros(299),
        "nan": np.full(300, np.nan),
        "table": np.zeros((48, 300)),
    }.items():
        np.save(f"{name}.npy", vector)
    boxes = write_boxes(tmp_path / "boxes.json", SHAPES_CLASSES[0])
    extra = ["--add-class", argument, "--boxes", boxes]
    assert message in one_line(capsys, image, tmp_path / "out", extra, EMBEDDED)


def test_models_without_embeddings_and_boxes_that_are_missing(
    tmp_path: Path, image: Path, unicorn: str, capsys: pytest.CaptureFixture
) -> None:
    extra: List[Any] = ["--add-class", unicorn]
    line = one_line(capsys, image, tmp_path / "out", extra, EMBEDDED)
    assert "--add-class needs --boxes: the detector has no box weights for 'unicorn'" in line
    extra += ["--boxes", write_boxes(tmp_path / "boxes.json", "unicorn")]
    line = one_line(capsys, image, tmp_path / "out", extra, [])
    assert "its T takes 'cls+box', box weights that only training" in line
    line = one_line(capsys, image, tmp_path / "out", [*extra, "--add-class", unicorn], EMBEDDED)
    assert "a class called 'unicorn' exists" in line
    opts = ["MODEL.ROI_MASK_HEAD.PREDICTOR", "class_agnostic"]
    line = one_line(capsys, image, tmp_path / "out", extra, opts)
    assert "('class_agnostic') has no T" in line
    boxes = write_boxes(tmp_path / "boxes.json", "unicron")
    line = one_line(capsys, image, tmp_path / "out", [*extra[:3], boxes], EMBEDDED)
    assert "have none called 'unicron' (nearest: unicorn" in line


def test_an_added_class_without_boxes_of_its_own_is_warned_of(
    tmp_path: Path, image: Path, unicorn: str, caplog: pytest.LogCaptureFixture
) -> None:
    boxes = write_boxes(tmp_path / "boxes.json", SHAPES_CLASSES[0])
    logging.getLogger("seg_every_thing").propagate = True
    extra = ["--add-class", unicorn, "--boxes", boxes]
    output = run_demo([image], tmp_path / "out", extra, [*EMBEDDED, *NO_DETECTIONS])
    results = read(output / "predictions.json")
    assert [r["category_id"] for r in results] == [1]
    assert "has no box of the added unicorn" in caplog.text


BOX_TO_MASK = [
    *("MODEL.META_ARCHITECTURE", "BoxToMask", "MODEL.ROI_MASK_HEAD.PREDICTOR", "class_agnostic"),
    *("MODEL.ROI_MASK_HEAD.BOX_SCALE", "1.25", "TEST.MASK_THRESHOLD", "fit"),
]


def test_a_model_without_a_detector(tmp_path: Path, image: Path) -> None:
    boxes = write_boxes(tmp_path / "boxes.json", SHAPES_CLASSES[0], SHAPES_CLASSES[1])
    output = run_demo([image], tmp_path / "out", ["--boxes", boxes], BOX_TO_MASK)
    results = read(output / "predictions.json")
    assert [r["category_id"] for r in results] == [1, 2]
    for result, given in zip(results, read(boxes)):
        assert result["bbox"] == pytest.approx(given["bbox"], abs=0.01)
        x, y, w, h = mask_util.toBbox(result["segmentation"])
        left, top, width, height = given["bbox"]
        assert left <= x and x + w <= left + width and top <= y and y + h <= top + height


def test_a_model_without_a_detector_needs_boxes(tmp_path: Path, image: Path) -> None:
    with pytest.raises(ValueError, match="'BoxToMask' finds no boxes: give them with --boxes"):
        run_demo([image], tmp_path / "out", [], BOX_TO_MASK)
