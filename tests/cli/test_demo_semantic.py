"""`seg-every-thing demo` with models that label pixels."""

import argparse
from pathlib import Path
from typing import Any, List, Sequence

import cv2
import numpy as np
import pytest
import torch
from demo_helpers import read, write_images
from helpers import CONFIGS
from tiramisu_helpers import clean_catalog  # noqa: F401

from seg_every_thing.cli import demo, main
from seg_every_thing.data.datasets.camvid import CAMVID_CLASSES
from seg_every_thing.visualization.label_maps import class_colors_of, color_map, enlarged, overlaid

pytestmark = pytest.mark.usefixtures("clean_catalog")

CONFIG = str(CONFIGS / "semantic" / "tiramisu" / "small_camvid_fcdn.yaml")
TINY = ["MODEL.FC_DENSENET.STEM_CHANNELS", "4", "INPUT.MIN_SIZE_TEST", "32", "SEED", "1"]


def run(inputs: Sequence[Path], output: Path, *opts: str) -> Path:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    arguments = ["--config-file", CONFIG, "--input", *map(str, inputs), "--output", str(output)]
    demo.run(parser.parse_args([*arguments, "--opts", *TINY, *opts]))
    return output


def test_labels_pictures_and_page(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", ["a.png", "A.png", "b.jpg"])
    output = run([folder], tmp_path / "out")
    results = read(output / "predictions.json")
    assert [Path(r["file_name"]).name for r in results] == ["A.png", "a.png", "b.jpg"]
    assert len({r["picture"].lower() for r in results}) == 3  # also where case is ignored
    page = (output / "index.html").read_text()
    for result in results:
        image = cv2.imread(result["file_name"])
        labels = cv2.imread(str(output / result["labels"]), cv2.IMREAD_UNCHANGED)
        assert labels.shape == image.shape[:2] and labels.max() < len(CAMVID_CLASSES)
        assert list(result["shares"]) == list(CAMVID_CLASSES)
        assert sum(result["shares"].values()) == pytest.approx(100)
        first = CAMVID_CLASSES[int(labels[0, 0])]
        assert result["shares"][first] > 0
        assert (output / result["picture"]).is_file() and result["picture"] in page
    assert ">cyclist<" in page and "rgb(0, 128, 192)" in page


def test_the_labels_are_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(image: np.ndarray) -> Any:
        scores = torch.zeros(11, *image.shape[:2])
        scores[3] = 0.5
        scores[8, :, :30] = 1.0
        return {"sem_seg": scores}

    monkeypatch.setattr(demo, "build_predictor", lambda cfg, *_: predict)
    folder = write_images(tmp_path / "images", ["a.png"])  # 120 wide
    output = run([folder], tmp_path / "out")
    (result,) = read(output / "predictions.json")
    assert result["shares"]["car"] == 25 and result["shares"]["road"] == 75
    assert "a.png: road 75 %, car 25 %" in (output / "index.html").read_text()
    labels = cv2.imread(str(output / "a_labels.png"), cv2.IMREAD_UNCHANGED)
    assert (labels[:, :30] == 8).all() and (labels[:, 30:] == 3).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--classes", "car"], "--classes needs a model that finds objects"),
        (["--boxes", "b.json"], "--boxes needs a model that finds objects"),
        (["--add-class", "x=x.npy"], "--add-class needs a model that finds objects"),
    ],
)
def test_what_needs_objects_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: List[str], message: str
) -> None:
    folder = write_images(tmp_path / "images", ["a.png"])
    paths = ["--config-file", CONFIG, "--input", str(folder), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main(["demo", *paths, *arguments])
    assert ended.value.code == 1 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_number_of_classes(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", ["a.png"])
    with pytest.raises(ValueError, match="NUM_CLASSES is 5, the data set 'camvid_val' has 11"):
        run([folder], tmp_path / "out", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5")
    assert not (tmp_path / "out").exists()


def test_colours_by_hand() -> None:
    colors = [(255, 0, 0), (0, 10, 200)]
    label = np.array([[0, 1], [255, 1]], np.uint8)
    assert color_map(label, colors).tolist() == [
        [[0, 0, 255], [200, 10, 0]],
        [[0, 0, 0], [200, 10, 0]],
    ]
    image = np.full((2, 2, 3), 100, np.uint8)
    assert overlaid(image, label, colors)[0, 0].tolist() == [40, 40, 193]  # 0.4 and 0.6
    assert enlarged(image).shape == (320, 320, 3)
    unknown = class_colors_of("a data set of nobody", 3)
    assert list(unknown) == ["0", "1", "2"] and len(set(unknown.values())) == 3
