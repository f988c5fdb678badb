import json
from pathlib import Path
from typing import Any, Dict, List

import cv2
import numpy as np
import pytest
import torch
from demo_helpers import CONFIG, EMBEDDED, TINY, write_images

from seg_every_thing.annotation.given_boxes import (
    GivenBox,
    assign_boxes,
    read_given_boxes,
)
from seg_every_thing.config import load_config
from seg_every_thing.data.vocabulary import Vocabulary
from seg_every_thing.engine.box_prompts import predict_masks
from seg_every_thing.engine.predictor import build_predictor
from seg_every_thing.modeling.add_class import add_class
from seg_every_thing.visualization.pictures import size_of

COCO: Dict[str, List[Any]] = {
    "images": [{"id": 4, "file_name": "a.jpg"}, {"id": 9, "file_name": "sub/b.png"}],
    "categories": [{"id": 7, "name": "kite"}, {"id": 2, "name": "cup"}],
    "annotations": [
        {"image_id": 9, "category_id": 2, "bbox": [10, 20, 30, 40], "segmentation": "unread"},
        {"image_id": 4, "category_id": 7, "bbox": [0, 0, 5, 6.5], "score": 0.25, "iscrowd": 0},
        {"image_id": 4, "category_id": 7, "bbox": [0, 0, 50, 60], "iscrowd": 1},
    ],
}
RESULT = {"file_name": "a.jpg", "category_name": "kite", "bbox": [1, 2, 3, 4], "score": 1}
WORDS = Vocabulary(["cup.n.01", "cup.n.02", "kite.n.01"], ["cup", "cup", "kite"], [1, 2, 3])


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


# Reading


def test_annotations(tmp_path: Path) -> None:
    assert read_given_boxes(write(tmp_path / "boxes.json", COCO)) == [
        GivenBox("sub/b.png", (10, 20, 40, 60), "cup", 1),
        GivenBox("a.jpg", (0, 0, 5, 6.5), "kite", 0.25),
    ]


def test_results(tmp_path: Path) -> None:
    without_score = {k: v for k, v in RESULT.items() if k != "score"}
    results = [{**RESULT, "score": 0.5}, {**without_score, "file_name": "c.mp4#30"}]
    assert read_given_boxes(write(tmp_path / "boxes.json", results)) == [
        GivenBox("a.jpg", (1, 2, 4, 6), "kite", 0.5),
        GivenBox("c.mp4#30", (1, 2, 4, 6), "kite", 1),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "hold no box"),
        ({**COCO, "annotations": []}, "hold no box"),
        ({"annotations": []}, "neither COCO annotations .* nor a list of results: 'images'"),
        ({**COCO, "categories": [{"id": 7, "name": "kite"}]}, "neither .*: 2 is missing"),
        ({**COCO, "images": 5}, "neither COCO annotations"),
        ("boxes", "neither COCO annotations"),
        ([RESULT, {"bbox": [1, 2, 3, 4], "category_id": 1}], "entry 1: the key 'file_name'"),
        ([RESULT, 5], "entry 1: "),
        ([{**RESULT, "category_name": 3}], "entry 0: file_name and category_name must be text"),
        ([{**RESULT, "bbox": [1, 2, 3]}], "entry 0: it needs a bbox of 4 numbers"),
        ([3], "entry 0: it needs a bbox of 4 numbers .* got 3"),
        ([{**RESULT, "bbox": [1, 2, 3, "x"]}], "entry 0: could not convert"),
        ([{**RESULT, "bbox": None}], "entry 0: it needs a bbox"),
        ([{**RESULT, "bbox": [1, 2, 0, 4]}], r"entry 0: .* with an area .* got \[1, 2, 0, 4\]"),
        ([{**RESULT, "bbox": [1, 2, float("nan"), 4]}], "entry 0: expected a bbox"),
        ([{**RESULT, "score": 1.5}], "entry 0: .*a score from 0 to 1, got .* and 1.5"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "boxes.json", content)
    with pytest.raises(ValueError, match=f"boxes '.*boxes.json'.*{message}"):
        read_given_boxes(path)


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.json"):
        read_given_boxes(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="broken.json"):
        read_given_boxes(tmp_path / "broken.json")


# Which picture, which class


@pytest.fixture
def files(tmp_path: Path) -> List[Path]:
    """one/a.png (100 high, 120 wide), one/b.png, two/a.png, and a video two/c.avi (96 x 128)."""
    one = write_images(tmp_path / "one", ["a.png", "b.png"])
    two = write_images(tmp_path / "two", ["a.png"])
    writer = cv2.VideoWriter(str(two / "c.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (128, 96))
    if not writer.isOpened():
        pytest.skip("this OpenCV cannot write MJPG videos")
    for _ in range(3):
        writer.write(np.zeros((96, 128, 3), np.uint8))
    writer.release()
    return [one / "a.png", one / "b.png", two / "a.png", two / "c.avi"]


def box(file_name: str, category: str = "kite", xyxy: Any = (10, 10, 30, 30)) -> GivenBox:
    return GivenBox(file_name, xyxy, category, 1.0)


def test_sizes_of_images_and_videos(files: List[Path]) -> None:
    assert [size_of(file) for file in files] == [(100, 120), (110, 120), (100, 120), (96, 128)]


def test_boxes_go_to_the_picture_whose_path_ends_with_their_file_name(files: List[Path]) -> None:
    boxes = [box("b.png"), box("two/a.png", "cup.n.02"), box("c.avi#2"), box("elsewhere.png")]
    boxes += [box(str(files[1]), xyxy=(-5, 50, 1, 200)), box("nd/b.png", "any")]
    assert assign_boxes(boxes, files, WORDS, "f.json") == {
        str(files[1]): [(boxes[0], 2), (boxes[4], 2)],
        str(files[2]): [(boxes[1], 1)],
        f"{files[3]}#2": [(boxes[2], 2)],
    }


def test_a_whole_path_goes_before_the_end_of_another(
    tmp_path: Path, files: List[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "one")
    inputs = [Path("a.png"), files[2]]
    assert list(assign_boxes([box("a.png")], inputs, WORDS, "f.json")) == ["a.png"]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([box("a.png")], r"'a.png' can be '.*one/a.png' or '.*two/a.png': write more"),
        ([box("b.png", "kit")], r"'kit' \(nearest: kite"),
        ([box("b.png", "cup")], "'cup' can be any of cup.n.01, cup.n.02: write which"),
        ([box("x.png"), box("y.png")], "none belongs to an input; the first is of 'x.png'"),
        ([box("b.png", xyxy=(120, 0, 130, 9))], r"outside its image '.*b.png' of 120 x 110"),
        ([box("c.avi#0", xyxy=(0, 96, 9, 99))], r"outside its image '.*c.avi#0' of 128 x 96"),
        ([box("b.png", xyxy=(-9, 0, 0, 9))], "outside its image"),
    ],
)
def test_boxes_without_a_place_are_refused(
    files: List[Path], boxes: List[GivenBox], message: str
) -> None:
    with pytest.raises(ValueError, match=f"boxes 'f.json'.*{message}"):
        assign_boxes(boxes, files, WORDS, "f.json")


# Masks


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
@pytest.mark.parametrize("min_size", [100, 160])  # of an image of 100 x 120: as it is, enlarged
def test_masks_are_those_of_detections_with_the_same_boxes(
    tiny_shapes: Path, image_format: str, min_size: int
) -> None:
    opts = [*TINY, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "SEED", "3"]
    opts += ["INPUT.FORMAT", image_format, "INPUT.MIN_SIZE_TEST", str(min_size)]
    torch.manual_seed(0)
    predictor = build_predictor(load_config(CONFIG, opts))
    for layer in predictor.model.roi_heads.weight_transfer.parameters():
        torch.nn.init.normal_(layer)  # masks with holes, not all or nothing
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    found = predictor(image)["instances"]
    boxes, classes = found.pred_boxes.tensor.numpy(), found.pred_classes.tolist()
    masked = predict_masks(predictor, image, boxes, classes)
    assert len(masked) == 3
    assert masked.pred_classes.tolist() == classes
    assert torch.equal(masked.pred_boxes.tensor, found.pred_boxes.tensor)
    assert masked.scores.tolist() == [1, 1, 1]
    assert masked.pred_masks.shape == (3, 100, 120)
    areas = found.pred_masks.flatten(1).float().mean(1)
    assert ((areas > 0) & (areas < 0.9)).any()
    differing = (masked.pred_masks != found.pred_masks).flatten(1).float().mean(1)
    assert (differing < 0.002).all()  # boxes went there and back in float32

    other = predict_masks(predictor, image[:, :, ::-1].copy(), boxes, classes)
    assert (other.pred_masks != found.pred_masks).any()  # the order of the channels matters


def test_boxes_of_an_added_class_and_no_boxes(tiny_shapes: Path) -> None:
    torch.manual_seed(0)
    predictor = build_predictor(load_config(CONFIG, [*TINY, *EMBEDDED]))
    for layer in predictor.model.roi_heads.weight_transfer.parameters():
        torch.nn.init.normal_(layer)
    index = add_class(predictor.model, "unicorn", np.linspace(-1, 1, 300))
    image = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    boxes = np.array([[10.0, 20, 60, 90], [-5, 80, 40, 130]])
    masked = predict_masks(predictor, image, boxes, [index, 0])
    assert masked.pred_boxes.tensor.tolist() == boxes.tolist()
    assert masked.pred_classes.tolist() == [48, 0]
    inside = torch.zeros(2, 100, 120, dtype=torch.bool)
    inside[0, 19:91, 9:61] = inside[1, 79:, :41] = True
    assert not (masked.pred_masks & ~inside).any()
    assert masked.pred_masks.flatten(1).any(1).all()
    assert len(predict_masks(predictor, image, boxes[:0], [])) == 0
