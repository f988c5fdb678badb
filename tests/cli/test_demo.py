import argparse
import logging
from pathlib import Path
from typing import Any, Callable, Iterator, List

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from demo_helpers import CONFIG, TINY, fixed_predictor, read, run_demo, write_images
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from pycocotools.coco import COCO

from seg_every_thing.cli import demo
from seg_every_thing.cli.demo_instances import InstanceDemo
from seg_every_thing.config import load_config
from seg_every_thing.data.datasets.shapes import SHAPES_CLASSES, SHAPES_SET_A
from seg_every_thing.data.vocabulary import classes_of
from seg_every_thing.engine.predictor import build_predictor
from seg_every_thing.visualization import pictures
from seg_every_thing.visualization.pictures import Failures, check_pictures, read_pictures
from seg_every_thing.visualization.result_folder import NOTES

Run = Callable[..., Path]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 3 images of different sizes, and a file that is none."""
    folder = write_images(tmp_path / "images", ("b.png", "a.jpg", "c.PNG"))
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def run(tmp_path: Path, tiny_shapes: Path) -> Run:
    """Function that runs the command on inputs and returns the output folder."""

    def run(*inputs: Path, extra: Any = (), opts: Any = (), output: Any = None) -> Path:
        return run_demo(inputs, output or tmp_path / "out", extra, opts)

    return run


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function that puts a fixed prediction in the place of the model's."""

    def install(classes: List[int], scores: List[float]) -> None:
        predict = fixed_predictor(classes, scores)
        monkeypatch.setattr(demo, "build_predictor", lambda cfg, *_: predict)

    return install


def write_video(path: Path, codec: str, frames: int = 7) -> Path:
    """A video whose k-th frame has the grey value 30 * k."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 5, (128, 96))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV cannot write {codec} videos")
    for k in range(frames):
        writer.write(np.full((96, 128, 3), 30 * k, np.uint8))
    writer.release()
    return path


def test_end_to_end(tmp_path: Path, images: Path, run: Run) -> None:
    video = write_video(tmp_path / "clip.avi", "MJPG")
    output = run(images / "b.png", images, video, extra=["--threshold", "0", "--frame-step", "3"])

    content, results = read(output / "images.json"), read(output / "predictions.json")
    names = [str(images / n) for n in ("b.png", "a.jpg", "c.PNG")]
    names += [f"{video}#{k}" for k in (0, 3, 6)]
    assert [i["file_name"] for i in content["images"]] == names
    assert [i["id"] for i in content["images"]] == [1, 2, 3, 4, 5, 6]
    assert [(i["width"], i["height"]) for i in content["images"][:2]] == [(120, 100), (120, 110)]
    pictures = ["b.jpg", "a.jpg", "c.jpg", "clip_000000.jpg", "clip_000003.jpg", "clip_000006.jpg"]
    assert [i["picture"] for i in content["images"]] == pictures
    expected = {*pictures, "images.json", "index.html", "predictions.json", NOTES}
    assert {p.name for p in output.iterdir()} == expected
    # Enlarged by the whole number that brings the shorter side nearest to 384.
    drawn = [cv2.imread(str(output / picture)).shape[:2] for picture in pictures]
    assert drawn == [(400, 480), (330, 360), (360, 360), *[(384, 512)] * 3]

    assert len(results) == 6 * 3  # a threshold of 0 lets through all that the model is asked for
    sizes = {i["id"]: [i["height"], i["width"]] for i in content["images"]}
    for result in results:
        assert result["file_name"] == names[result["image_id"] - 1]
        assert 1 <= result["category_id"] <= 48
        assert 0 < result["score"] <= 1
        assert result["segmentation"]["size"] == sizes[result["image_id"]]
    loaded = COCO(str(output / "images.json")).loadRes(str(output / "predictions.json"))
    assert len(loaded.getAnnIds(imgIds=[4])) == 3
    assert loaded.annToMask(loaded.loadAnns(1)[0]).shape == (100, 120)

    page = (output / "index.html").read_text(encoding="utf-8")
    assert page.count("<img") == 6
    for text in ("18 instances", "score of at least 0 ", CONFIG, "set A:", "set B:", "shapes_A"):
        assert text in page


def test_results_hold_what_was_predicted(images: Path, run: Run, stub: Any) -> None:
    in_a, in_b = (
        next(i for i, name in enumerate(SHAPES_CLASSES) if (name in SHAPES_SET_A) == wanted)
        for wanted in (True, False)
    )
    stub([in_a, in_b, in_b], [0.75, 0.5, 0.49])
    output = run(images / "b.png")
    results = read(output / "predictions.json")
    assert [r["category_id"] for r in results] == [in_a + 1, in_b + 1]  # Shapes counts from 1
    assert [r["score"] for r in results] == [0.75, 0.5]
    for result in results:
        assert result["bbox"] == [10, 20, 30, 50]
        assert mask_util.area(result["segmentation"]) == 30 * 50
    page = (output / "index.html").read_text(encoding="utf-8")
    assert "2 instances (1 of set A, 1 of set B)" in page


def test_no_predictions_still_give_pictures_and_an_empty_list(
    images: Path, run: Run, stub: Any
) -> None:
    stub([0], [0.3])
    output = run(images)
    assert read(output / "predictions.json") == []
    assert len(list(output.glob("*.jpg"))) == 3
    assert "0 instances with a score" in (output / "index.html").read_text(encoding="utf-8")


def test_without_a_split_nothing_is_said_of_sets(images: Path, run: Run, stub: Any) -> None:
    stub([0], [0.9])
    page = (run(images, opts=["DATASETS.MASK_CLASSES", "all"]) / "index.html").read_text("utf-8")
    assert "3 instances with" in page
    assert "set A" not in page


def test_threshold_reaches_below_that_of_the_config(images: Path, run: Run) -> None:
    opts = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.9"]
    assert len(read(run(images, extra=["--threshold", "0"], opts=opts) / "predictions.json")) == 9


def test_threshold_reaches_models_of_every_kind(tiny_shapes: Path) -> None:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    paths = ["--config-file", CONFIG, "--input", "x", "--output", "y"]
    cfg = load_config(CONFIG, [*TINY, "MODEL.META_ARCHITECTURE", "RetinaNet"])
    InstanceDemo(parser.parse_args([*paths, "--threshold", "0.01"]), cfg)
    assert cfg.MODEL.RETINANET.SCORE_THRESH_TEST == cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.01


def test_equal_names_get_pictures_of_their_own(
    tmp_path: Path, images: Path, run: Run, stub: Any
) -> None:
    stub([], [])
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / "A.png"
    cv2.imwrite(str(other), np.zeros((90, 90, 3), np.uint8))
    output = run(images / "a.jpg", other, images / "a.jpg")
    assert sorted(p.name for p in output.glob("*.jpg")) == ["A_2.jpg", "a.jpg"]


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("a.mp4", "mp4v")])
def test_every_nth_frame_of_a_video(tmp_path: Path, name: str, codec: str) -> None:
    video = write_video(tmp_path / name, codec)
    for step, expected in ((1, range(7)), (3, (0, 3, 6)), (4, (0, 4)), (10, (0,))):
        frames = list(read_pictures([video], step, Failures()))
        assert [f.name for f in frames] == [f"{video}#{k}" for k in expected]
        for frame, k in zip(frames, expected):
            assert abs(float(frame.image.mean()) - 30 * k) < 6
        assert check_pictures([video], step) == ([video], len(frames), [])


def test_corrupt_files_alone_are_named_before_the_model_is_built(
    tmp_path: Path, images: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "build_predictor", lambda cfg, *_: pytest.fail("too early"))
    whole = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(whole[: len(whole) // 2])
    (images / "a.jpg").write_bytes(b"not an image")
    (images / "c.PNG").unlink()
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    with pytest.raises(ValueError, match=r"no input can be read: .*a\.jpg.*b\.png.*clip\.mp4"):
        run(images, tmp_path / "clip.mp4")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--threshold", "1.01"], "--threshold"),
        (["--threshold", "-0.1"], "--threshold"),
        (["--threshold", "nan"], "--threshold"),
        (["--frame-step", "0"], "--frame-step"),
    ],
)
def test_bad_numbers(images: Path, run: Run, extra: List[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(images, extra=extra)


def test_bad_paths(tmp_path: Path, images: Path, run: Run, stub: Any) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="nowhere' does not exist"):
        run(images, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="empty' holds no images"):
        run(images, tmp_path / "empty")
    with pytest.raises(ValueError, match="notes.txt' is neither an image"):
        run(images / "notes.txt")
    with pytest.raises(ValueError, match="holds the input"):
        run(images, output=images)
    stub([], [])
    with pytest.raises(OSError, match="notes.txt"):
        run(images, output=images / "notes.txt")


def test_bad_checkpoints(tmp_path: Path, images: Path, run: Run) -> None:
    with pytest.raises(ValueError, match="none.pth"):
        run(images, opts=["MODEL.WEIGHTS", str(tmp_path / "none.pth")])
    torch.save({"model": {"x": torch.zeros(1000)}}, tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="cut.pth"):
        run(images, opts=["MODEL.WEIGHTS", str(tmp_path / "cut.pth")])
    # A mistake in the config is not blamed on the checkpoint.
    with pytest.raises(ValueError, match="WEIGHT_TRANSFER.INPUT"):
        run(images, opts=["MODEL.WEIGHT_TRANSFER.INPUT", "dreams"])
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_other_classes_needs_a_word(
    tmp_path: Path, images: Path, run: Run, tiny_shapes: Path
) -> None:
    model = build_predictor(load_config(CONFIG, [*TINY, "MODEL.ROI_HEADS.NUM_CLASSES", "3"])).model
    DetectionCheckpointer(model, str(tmp_path)).save("three")
    opts = ["MODEL.WEIGHTS", str(tmp_path / "three.pth")]
    with pytest.raises(ValueError, match=r"three\.pth' .* it has 3 classes, the config 48"):
        run(images / "b.png", opts=opts)
    assert not (tmp_path / "out").exists()
    output = run(images / "b.png", extra=["--allow-partial-checkpoint"], opts=opts)
    assert (output / "b.jpg").is_file()


def test_weights_of_a_checkpoint_are_loaded_and_programs_are_not(
    tmp_path: Path, tiny_shapes: Path
) -> None:
    cfg = load_config(CONFIG, [*TINY])
    model = build_predictor(cfg).model
    DetectionCheckpointer(model, str(tmp_path)).save("model")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    loaded = build_predictor(cfg).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())
    torch.save({"model": {"x": Path("any object")}}, tmp_path / "program.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "program.pth")
    with pytest.raises(ValueError, match="program.pth.*more than tensors"):
        build_predictor(cfg)


def test_log_tells_progress_and_eta(
    images: Path, run: Run, stub: Any, capsys: pytest.CaptureFixture
) -> None:
    stub([0], [0.9])
    handler = logging.StreamHandler()  # to the stderr of this test
    log = logging.getLogger(pictures.__name__)
    log.addHandler(handler)
    log.setLevel(logging.INFO)  # as the command line does
    try:
        run(images)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    lines = capsys.readouterr().err.splitlines()
    steps = [line for line in lines if "ETA" in line]
    assert [line[:14] for line in steps] == ["picture 1 of 3", "picture 3 of 3"]
    assert steps[-1].endswith("ETA 0:00:00")


# Classes of a data set


@pytest.fixture
def absent(tmp_path: Path) -> Iterator[str]:
    """A data set whose annotation file is not on this machine."""
    name = "test_demo_absent"
    register_coco_instances(name, {}, str(tmp_path / "absent.json"), str(tmp_path))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def config_for(data_set: str, num_classes: int, split: str = "all") -> Any:
    opts = ["DATASETS.TEST", repr((data_set,)), "DATASETS.TRAIN", "('shapes_train',)"]
    opts += ["DATASETS.MASK_CLASSES", split, "TEST.CLASS_SPLIT", ""]
    return load_config(CONFIG, [*opts, "MODEL.ROI_HEADS.NUM_CLASSES", str(num_classes)])


def test_class_names_without_the_annotation_file(
    tmp_path: Path, absent: str, tiny_shapes: Path
) -> None:
    MetadataCatalog.get(absent).thing_classes = ["cup", "dog", "kite"]
    MetadataCatalog.get(absent).thing_dataset_id_to_contiguous_id = {7: 2, 1: 0, 3: 1}
    (tmp_path / "set_a.txt").write_text("kite\ncup\n")
    classes = classes_of(config_for(absent, 3, str(tmp_path / "set_a.txt")))
    assert classes == (["cup", "dog", "kite"], [1, 3, 7], frozenset({0, 2}))
    assert classes_of(config_for(absent, 3)).set_a is None


def test_classes_are_named_by_index_when_nothing_knows_them(absent: str, tiny_shapes: Path) -> None:
    expected = (["0", "1", "2"], [0, 1, 2], None)
    assert classes_of(config_for(absent, 3)) == expected
    assert classes_of(config_for("test_demo_unregistered", 3, "voc")) == expected
    MetadataCatalog.get(absent).thing_classes = ["cup", "dog"]
    assert classes_of(config_for(absent, 3, "voc")) == expected


def test_a_split_that_does_not_fit_is_refused(absent: str, tiny_shapes: Path) -> None:
    MetadataCatalog.get(absent).thing_classes = ["cup", "dog", "kite"]
    with pytest.raises(ValueError, match="shapes_A"):
        classes_of(config_for(absent, 3, "shapes_A"))
