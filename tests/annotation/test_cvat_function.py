"""The function of CVAT, through the types of cvat-sdk."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List, Optional

import numpy as np
import pytest
from annotating import ellipse, ellipse_mask, rle_of, write_data
from PIL import Image

from seg_every_thing.annotation.cvat_function import MasksOfFile, create

BOX = [10.0, 8.0, 24.0, 18.0]
FRAME = Image.fromarray(np.zeros((48, 64, 3), np.uint8))


def parts() -> np.ndarray:
    mask = ellipse(BOX)
    mask[14:18, 18:24] = False
    return mask | ellipse([40, 20, 12, 16])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    masked = {"bbox": [10, 8, 42, 28], "segmentation": rle_of(parts()), "score": 0.5}
    crowd = {"bbox": BOX, "segmentation": rle_of(ellipse(BOX)), "iscrowd": 1}
    alone = {"bbox": [50, 30, 20, 10], "category_id": 7}  # partly outside
    return write_data(tmp_path / "d", [[masked, crowd, alone], []])


@pytest.fixture
def function(file: Path) -> MasksOfFile:
    pytest.importorskip("cvat_sdk.auto_annotation", reason="cvat-sdk is not installed")
    return create(str(file))


def context(name: str = "1.png", least: Optional[float] = None, polygons: bool = False) -> Any:
    return SimpleNamespace(frame_name=name, conf_threshold=least, conv_mask_to_poly=polygons)


def test_masks_and_boxes_of_a_frame(function: MasksOfFile) -> None:
    from cvat_sdk import models
    from cvat_sdk.masks import decode_mask

    assert [(label.name, label.id) for label in function.spec.labels] == [("cup", 1), ("dog", 2)]
    masked, alone = function.detect(context(), FRAME)
    assert isinstance(masked, models.LabeledShapeRequest)
    assert (masked.type.value, masked.label_id, masked.frame) == ("mask", 1, 0)
    decoded = decode_mask(masked.points, image_width=64, image_height=48)
    assert (decoded == parts()).all()  # holes and all
    assert (alone.type.value, alone.label_id) == ("rectangle", 2)
    assert list(alone.points) == [50, 30, 64, 40]
    assert function.detect(context("2.png"), FRAME) == []
    assert function.detect(context("unknown.png"), FRAME) == []
    assert len(function.detect(context("job/1.png"), FRAME)) == 2


def test_threshold_and_polygons(function: MasksOfFile) -> None:
    (alone,) = function.detect(context(least=0.6), FRAME)  # has no score
    assert alone.type.value == "rectangle"
    first, second, _ = function.detect(context(least=0.5, polygons=True), FRAME)
    assert first.type.value == second.type.value == "polygon"
    assert first.group == second.group == 1


def test_cvat_takes_the_shapes(function: MasksOfFile) -> None:
    """The driver of cvat-sdk checks what a function gives, and puts the task's labels in."""
    driver = pytest.importorskip("cvat_sdk.auto_annotation.driver")
    from cvat_sdk import models

    labels = [
        models.Label(id=70, name="cup", type="any", attributes=[], sublabels=[]),
        models.Label(id=80, name="dog", type="any", attributes=[], sublabels=[]),
    ]
    mapper = driver._AnnotationMapper(
        logging.getLogger("test"),
        function.spec.labels,
        labels,
        allow_unmatched_labels=False,
        conv_mask_to_poly=False,
    )
    shapes = function.detect(context(), FRAME)
    mapper.validate_and_remap(shapes, 5)
    assert [(s.label_id, s.frame, s.source) for s in shapes] == [(70, 5, "auto"), (80, 5, "auto")]


def test_cvat_cli_loads_it(file: Path) -> None:
    common = pytest.importorskip("cvat_cli._internal.common", reason="cvat-cli is not installed")
    module = "seg_every_thing.annotation.cvat_function"
    loaded = common.FunctionLoader(module, None, {"annotations": str(file)}).load()
    assert len(loaded.detect(context(), FRAME)) == 2


def test_a_model_makes_what_is_missing(function: MasksOfFile) -> None:
    from cvat_sdk.masks import decode_mask

    asked: List[Any] = []

    def masker(image: np.ndarray, boxes: np.ndarray, categories: Any) -> Any:
        asked.append((image.shape, boxes.tolist(), list(categories)))
        return [ellipse_mask(image, box) for box in boxes]

    function.masker = masker
    _, made = function.detect(context(), FRAME)
    assert asked == [((48, 64, 3), [[50, 30, 20, 10]], [7])]
    decoded = decode_mask(made.points, image_width=64, image_height=48)
    assert made.type.value == "mask" and (decoded == ellipse([50, 30, 20, 10])).all()


def test_what_is_wrong_is_named(function: MasksOfFile, file: Path) -> None:
    with pytest.raises(ValueError, match="boxes.json', annotation 10, frame '1.png': the RLE"):
        function.detect(context(), Image.new("RGB", (64, 40)))
    with pytest.raises(ValueError, match="config_file and weights belong together"):
        create(str(file), config_file="x.yaml")
    with pytest.raises(ValueError, match="no.json"):
        create(str(file.with_name("no.json")))


def test_a_frame_that_fits_two_images_is_refused(function: MasksOfFile, file: Path) -> None:
    text = file.read_text().replace('"1.png"', '"x/a.png"').replace('"2.png"', '"y/a.png"')
    file.write_text(text)
    found = create(str(file))
    with pytest.raises(ValueError, match="can be 'x/a.png' or 'y/a.png'"):
        found.detect(context("a.png"), FRAME)
    assert len(found.detect(context("x/a.png"), FRAME)) == 2
