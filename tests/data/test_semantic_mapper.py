"""SemanticMapper: image and label stay together through resizing, crop and flip."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from PIL import Image
from tiramisu_helpers import HEIGHT, WIDTH, camvid, palette_png, tiramisu_config  # noqa: F401

from seg_every_thing.data.datasets.voc import voc_palette
from seg_every_thing.data.semantic_mapper import SemanticMapper


def mapper(*opts: Any, is_train: bool = True) -> SemanticMapper:
    return SemanticMapper(tiramisu_config("fc_densenet56_camvid", *opts), is_train=is_train)


def test_label_follows_the_image(camvid: Path) -> None:  # noqa: F811
    record = DatasetCatalog.get("camvid_train")[0]
    train = mapper("INPUT.CROP.SIZE", (16, 24))
    corners = set()
    for _ in range(12):
        sample = train(record)
        assert sample["image"].shape == (3, 16, 24) and sample["image"].dtype == torch.uint8
        assert sample["sem_seg"].dtype == torch.int64
        # The images of the fixture are grey of 20 times the label.
        assert torch.equal(sample["image"][0].long(), 20 * sample["sem_seg"])
        corners.add(tuple(sample["sem_seg"][0].tolist()))
    assert len(corners) > 2
    assert "sem_seg_file_name" in record and "sem_seg_file_name" not in sample


def test_crop_comes_after_resizing(camvid: Path) -> None:  # noqa: F811
    record = DatasetCatalog.get("camvid_train")[0]
    half = ("INPUT.MIN_SIZE_TRAIN", (HEIGHT // 2,), "INPUT.MAX_SIZE_TRAIN", WIDTH)
    assert mapper(*half, "INPUT.CROP.SIZE", (16, 24))(record)["image"].shape == (3, 16, 24)
    # A crop larger than the image is the whole image.
    whole = mapper(*half)(record)
    assert whole["image"].shape == (3, HEIGHT // 2, WIDTH // 2)
    assert whole["sem_seg"].shape == (HEIGHT // 2, WIDTH // 2)
    assert (whole["height"], whole["width"]) == (HEIGHT, WIDTH)


def test_whole_images_without_crop_and_in_test(camvid: Path) -> None:  # noqa: F811
    record = DatasetCatalog.get("camvid_train")[0]
    sample = mapper("INPUT.CROP.ENABLED", False)(record)
    assert sample["image"].shape == (3, HEIGHT, WIDTH)
    tested = mapper(is_train=False)(record)
    assert tested["image"].shape == (3, HEIGHT, WIDTH) and "sem_seg" not in tested


def test_palette_labels(tmp_path: Path) -> None:
    label = np.array([[0, 5, 255], [20, 1, 2]], np.uint8)
    palette_png(tmp_path / "label.png", label, voc_palette())
    Image.new("RGB", (3, 2)).save(tmp_path / "image.png")
    record = {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "label.png"),
    }
    voc = {"augmentations": [T.NoOpTransform()], "image_format": "RGB", "num_classes": 21}
    assert SemanticMapper(True, **voc)(record)["sem_seg"].tolist() == label.tolist()
    with pytest.raises(ValueError, match="label.png' has the value 20.* 0 to 19 and void 255"):
        SemanticMapper(True, **{**voc, "num_classes": 20})(record)
    Image.new("RGB", (4, 2)).save(tmp_path / "image.png")
    with pytest.raises(ValueError, match=r"label.png' has \(2, 3\).*image.png' \(2, 4\)"):
        SemanticMapper(True, **voc)(record)
