"""No command writes over what it reads, or the same file twice."""

import json
import os
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
import yaml
from demo_helpers import CONFIG, TINY, write_images
from vg_files import write_miniature

from seg_every_thing.cli import main
from seg_every_thing.engine import launch

COCO = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cup"}]}


def digest(folder: Path) -> Dict[str, bytes]:
    """Every file below a folder."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Run a command that must end with one line and change no file; gives the line."""

    def run(*arguments: Any) -> str:
        before = digest(tmp_path)
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        assert end.value.code == 1 and digest(tmp_path) == before
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert line.startswith("seg-every-thing: error: ")
        return line

    return run


@pytest.fixture
def align(tmp_path: Path, refused: Callable[..., str]) -> Callable[..., str]:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(COCO))
    (tmp_path / "map.json").write_text('{"cup": "cup"}')
    (tmp_path / "link.json").symlink_to("a.json")
    os.link(tmp_path / "b.json", tmp_path / "hard.json")
    (tmp_path / "folder").mkdir()

    def run(output: str, *more: Any) -> str:
        files = ("--source", tmp_path / "a.json", "--target", tmp_path / "b.json")
        return refused("align", "--by", "name", *files, "--output", tmp_path / output, *more)

    return run


@pytest.mark.parametrize(
    "output", ["a.json", "b.json", "link.json", "hard.json", "folder/../a.json"]
)
def test_align(align: Callable[..., str], output: str) -> None:
    source = "b.json" if output in ("b.json", "hard.json") else "a.json"
    assert f"{source}' would be written over" in align(output)


def test_align_report_and_map(align: Callable[..., str], tmp_path: Path) -> None:
    assert "written over" in align("out.json", "--report", tmp_path / "a.json")
    same = align("out.json", "--report", tmp_path / "folder" / ".." / "out.json")
    assert "out.json' would be written over by" in same and "the same file" in same
    with_map = ("--map", tmp_path / "map.json")
    assert "map.json' would be written over" in align("map.json", *with_map)
    os.rename(tmp_path / "map.json", tmp_path / "out_report.json")  # the report's name
    with_map = ("--map", tmp_path / "out_report.json")
    assert "out_report.json' would be written over" in align("out.json", *with_map)
    assert "it is a folder" in align("folder")
    assert "no ordinary file" in align("out.json", "--report", os.devnull)


@pytest.mark.parametrize(
    ("option", "target"),
    [
        ("--image-data", "instances_vg3k_train.json"),
        ("--objects", "summary.json"),
        ("--coco-annotations", "instances_vg3k_val.json"),
        ("--synsets", "coco_classes.txt"),
    ],
)
def test_prepare_vg(option: str, target: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    image_data, objects, ids = write_miniature(tmp_path)
    synsets = tmp_path / "synsets.txt"
    synsets.write_text("tree.n.01\n")
    files = {
        **{"--image-data": image_data, "--objects": objects},
        **{"--coco-annotations": ids, "--synsets": synsets},
    }
    output = tmp_path / "output"
    output.mkdir()
    (output / target).symlink_to(files[option])
    files[option] = output / target
    line = refused("prepare-vg", "--output", output, *[v for item in files.items() for v in item])
    assert f"{target}' would be written over" in line


def test_prepare_vg_into_nowhere(tmp_path: Path, refused: Callable[..., str]) -> None:
    image_data, objects, ids = write_miniature(tmp_path)
    files = ("--image-data", image_data, "--objects", objects, "--coco-annotations", ids)
    line = refused("prepare-vg", *files, "--output", "")
    assert line.endswith("--output is empty: name a folder, or '.' for this one")


def test_convert(tmp_path: Path, refused: Callable[..., str]) -> None:
    source = tmp_path / "X.pkl"
    source.write_bytes(b"not read")
    (tmp_path / "Y.pth").symlink_to("X.pkl")
    convert = ("convert", "--input", source, "--output", tmp_path / "Y.pth")
    assert "X.pkl' would be written over" in refused(*convert)
    convert = ("convert", "--input", source, "--output", tmp_path / "Z.pth")
    assert "Z.yaml' would be written over" in refused(*convert, "--report", tmp_path / "Z.yaml")


def test_benchmark(tmp_path: Path, refused: Callable[..., str]) -> None:
    benchmark = ("benchmark", "--suite", "mask_branch", "--output")
    assert "it is a folder" in refused(*benchmark, tmp_path)
    assert "no ordinary file" in refused(*benchmark, os.devnull)


@pytest.fixture
def demo(tmp_path: Path, refused: Callable[..., str]) -> Callable[..., str]:
    images = write_images(tmp_path / "images", ["a.png"])

    def run(output: Path, *more: Any, pictures: Path = images, opts: List[Any] = TINY) -> str:
        files = ("--config-file", CONFIG, "--input", pictures, "--output", output)
        return refused("demo", *files, *more, "--opts", *opts)

    return run


def test_demo_pictures(tmp_path: Path, demo: Callable[..., str]) -> None:
    images = tmp_path / "images"
    (tmp_path / "same").symlink_to("images")
    assert "holds the input" in demo(images)
    assert "holds the input" in demo(tmp_path / "same")
    assert "holds the input" in demo(tmp_path / "same" / ".." / "images")
    links = tmp_path / "links"
    links.mkdir()
    (links / "a.png").symlink_to(images / "a.png")
    assert "holds the input" in demo(links, pictures=links)
    assert "holds the input" in demo(images, pictures=links)


@pytest.mark.parametrize(
    ("option", "target"),
    [("--boxes", "predictions.json"), ("--classes", "index.html"), ("--boxes", "images.json")],
)
def test_demo_files(option: str, target: str, tmp_path: Path, demo: Callable[..., str]) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / target).write_text("[]")
    assert f"{target}' would be written over" in demo(output, option, output / target)


def test_demo_vectors_and_weights(tmp_path: Path, demo: Callable[..., str]) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (output / "index.html").write_text("x")
    (output / "predictions.json").symlink_to("index.html")
    added = ("--add-class", f"new={output / 'index.html'}")
    assert "index.html' would be written over" in demo(output, *added)
    weights = [*TINY, "MODEL.WEIGHTS", output / "predictions.json"]
    assert "predictions.json' would be written over" in demo(output, opts=weights)


def test_train(tmp_path: Path, refused: Callable[..., str]) -> None:
    output = tmp_path / "output"
    output.mkdir()
    for name in ("model_final.pth", "model_0000004.pth", "elsewhere.pth"):
        (output / name).write_text("x")
    (output / "config.yaml").write_text(f"_BASE_: {CONFIG}\n")
    os.link(output / "model_final.pth", tmp_path / "linked.pth")
    train = ("train", "--config-file", CONFIG, "OUTPUT_DIR", output, "MODEL.WEIGHTS")
    for name in ("model_final.pth", "model_0000004.pth"):
        assert f"{name}' would be written over" in refused(*train, output / name)
    assert "linked.pth' would be written over" in refused(*train, tmp_path / "linked.pth")
    saved = ("train", "--config-file", output / "config.yaml", "OUTPUT_DIR", output)
    assert "config.yaml' would be written over" in refused(*saved)


def test_an_evaluation_leaves_the_config_of_the_training(
    tmp_path: Path, tiny_shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "evaluate", lambda *_: {})
    saved = tmp_path / "config.yaml"
    evaluate = ["train", "--eval-only", "--config-file", CONFIG, "OUTPUT_DIR", str(tmp_path)]
    main(evaluate)
    first = saved.read_text()
    assert yaml.safe_load(first)["OUTPUT_DIR"] == str(tmp_path)
    evaluate[3] = str(saved)
    main([*evaluate, "SEED", "77"])
    assert saved.read_text() == first


def test_export(tmp_path: Path, refused: Callable[..., str]) -> None:
    saved = tmp_path / "config.yaml"
    saved.write_text(f"_BASE_: {CONFIG}\n")
    (tmp_path / "link.yaml").symlink_to("config.yaml")
    for format in ("stock", "torchscript", "onnx", "openvino"):
        for config in (saved, tmp_path / "link.yaml"):
            export = ("export", "--config-file", config, "--output", tmp_path, "--format", format)
            assert f"'{config}' would be written over" in refused(*export)


@pytest.mark.parametrize(
    ("command", "target"),
    [(["quickstart"], "results.json"), (["study", "--seeds", "1"], "tables.md")],
)
def test_study_and_quickstart(
    command: List[str], target: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    output = tmp_path / "output"
    weights = output / "seed0" / "detector" / "model_final.pth"
    weights.parent.mkdir(parents=True)
    for file in (weights, output / target):
        file.write_text("x")
    run = (*command, "--output", output, "--num-train", 1, "--num-val", 1)
    line = refused(*run, "--opts", "MODEL.WEIGHTS", weights)
    assert "model_final.pth' is in" in line and "seed0', which is cleared first" in line
    line = refused(*run, "--opts", "MODEL.WEIGHTS", output / target)
    assert f"{target}' would be written over" in line
    line = refused(*run, "--data-root", output / "seed0" / "detector")
    assert "detector' is in" in line
