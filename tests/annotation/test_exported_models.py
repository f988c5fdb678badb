"""`annotate` and `demo` with a model that was exported: the same as with its checkpoint."""

import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from exporting import given_boxes, picture, trained

from seg_every_thing import annotate
from seg_every_thing.annotation.options import Options
from seg_every_thing.cli import main
from seg_every_thing.export.to_torchscript import export_torchscript


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Tuple[Path, Path]:
    """The folders of a training and of an export of its model."""
    folder = tmp_path_factory.mktemp("models") / "trained"
    cfg, _ = trained(folder)
    (folder / "ours.yaml").rename(folder / "config.yaml")
    export_torchscript(cfg, folder / "exported")
    (folder / "ours.pth").rename(folder / "model_final.pth")
    return folder, folder / "exported"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two images with three boxes each, of categories named as the model's classes."""
    content: Dict[str, List[Any]] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 5 + i, "name": str(i)} for i in range(3)]
    (tmp_path / "images").mkdir()
    for number, (height, width) in enumerate([(90, 130), (70, 60)], 1):
        name = f"{number}.png"
        cv2.imwrite(str(tmp_path / "images" / name), picture(height, width, number))
        size = {"height": height, "width": width}
        content["images"].append({"id": number, "file_name": name, **size})
        boxes, classes = given_boxes(3, height, width)
        for (x0, y0, x1, y1), c in zip(boxes.tolist(), classes):
            entry = {"id": len(content["annotations"]) + 1, "image_id": number}
            entry.update(category_id=5 + c, bbox=[x0, y0, x1 - x0, y1 - y0])
            content["annotations"].append(entry)
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    return path


def masks_in(path: Path) -> np.ndarray:
    content = json.loads(path.read_text())
    return np.concatenate(
        [mask_util.decode(a["segmentation"]).ravel() for a in content["annotations"]]
    )


def test_annotate_gives_the_same_file(data: Path, models: Tuple[Path, Path]) -> None:
    written = []
    for i, model in enumerate(models):
        output = data.with_name(f"{i}.json")
        arguments = ["annotate", "--annotations", str(data), "--output", str(output)]
        arguments += ["--image-root", str(data.parent / "images"), "--model", str(model)]
        assert main(arguments) == 0
        written.append(json.loads(output.read_text()))
    for ours, theirs in zip(*(content["annotations"] for content in written)):
        assert ours["id"] == theirs["id"] and ours["bbox"] == theirs["bbox"]
        assert abs(ours["score"] - theirs["score"]) < 1e-3
    masks = [masks_in(data.with_name(f"{i}.json")) for i in range(2)]
    assert (masks[0] != masks[1]).mean() < 1e-3 and masks[0].any()
    report = json.loads(data.with_name("1_report.json").read_text())
    assert report["made_by"]["model"]["config"] == str(models[1])
    assert main(arguments) == 0  # it is complete, and nothing is done


def test_another_model_is_not_taken_for_the_same(data: Path, models: Tuple[Path, Path]) -> None:
    output = data.with_name("out.json")
    shas = []
    for model in models:
        annotate(data, data.parent / "images", output, model=str(model))
        report = json.loads(data.with_name("out_report.json").read_text())
        shas.append(report["made_by"]["model"]["sha256"])
    assert shas[0] != shas[1]


def test_demo_gives_the_same(data: Path, models: Tuple[Path, Path]) -> None:
    found = []
    for i, model in enumerate(models):
        output = data.parent / f"demo{i}"
        arguments = ["demo", "--input", str(data.parent / "images"), "--output", str(output)]
        arguments += ["--boxes", str(data), "--threshold", "0.2", "--model", str(model)]
        assert main(arguments) == 0
        found.append(json.loads((output / "predictions.json").read_text()))
    assert len(found[0]) == len(found[1]) > 6
    for ours, theirs in zip(*found):
        assert ours["category_id"] == theirs["category_id"]
        assert abs(ours["score"] - theirs["score"]) < 1e-3


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Give --config-file FILE"),
        (["--model", "{}", "--config-file", "x.yaml"], "leave out --config-file"),
        (["--model", "{}", "--add-class", "a=b.npy"], "--add-class needs a checkpoint"),
        (["--model", "nowhere"], "'nowhere' is no folder of a model"),
    ],
)
def test_arguments_of_demo(
    arguments: List[str],
    message: str,
    data: Path,
    models: Tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [text.format(models[1]) for text in arguments]
    with pytest.raises(SystemExit) as end:
        main(["demo", "-i", str(data.parent / "images"), "-o", str(data.parent / "d"), *given])
    assert end.value.code == 1 and message in capsys.readouterr().err


def test_options_that_exclude_each_other() -> None:
    paths = Path("a.json"), Path("images"), Path("b.json")
    with pytest.raises(ValueError, match="leave out --config-file and --opts"):
        Options(*paths, model=Path("m"), config_file="x.yaml")
    with pytest.raises(ValueError, match="or --model gives a model that is trained"):
        Options(*paths, model=Path("m"), minutes=3)
