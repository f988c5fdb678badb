"""A disk that gets full while a command writes: one line that names the file, and no half of it."""

import json
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from full_disk import full_disk
from helpers import TINY
from vg_files import NUM_CLASSES, write_miniature

from seg_every_thing.cli import main
from seg_every_thing.engine import launch

Refused = Callable[..., str]


def content(folder: Path) -> Dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> Refused:
    """Run a command on a disk with that much room; gives the line with which it ends."""

    def run(room: int, *arguments: Any) -> str:
        with full_disk(room) as disk, pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        assert end.value.code == 1 and disk.was_full
        (line,) = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
        return line

    return run


@pytest.mark.parametrize(("room", "name"), [(0, "out.json"), (1000, "out.json"), (4200, "out_rep")])
def test_align(room: int, name: str, tmp_path: Path, refused: Refused) -> None:
    """The report comes last; without room for it the annotations are there, and whole."""
    boxes = [{"id": i, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]} for i in range(60)]
    images = [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}]
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cup"}]}
    source = tmp_path / "a.json"
    source.write_text(json.dumps(coco))
    command = ("align", "--by", "name", "--source", source, "--target", source)
    line = refused(room, *command, "--output", tmp_path / "out.json")
    assert f"cannot write '{tmp_path / name}" in line and "No space left on device" in line
    left = {p.name for p in tmp_path.iterdir()} - {"a.json"}
    assert left == ({"out.json"} if name == "out_rep" else set())
    assert not left or len(json.loads((tmp_path / "out.json").read_text())["annotations"]) == 60


@pytest.mark.parametrize("room", [0, 2000, 8000, 18_000])
def test_prepare_vg(room: int, tmp_path: Path, refused: Refused) -> None:
    image_data, objects, ids = write_miniature(tmp_path)
    command = (
        *("prepare-vg", "--image-data", image_data, "--objects", objects, "--num-test", 1),
        *("--coco-annotations", ids, "--num-classes", NUM_CLASSES, "--output", tmp_path / "out"),
    )
    line = refused(room, *command)
    assert "cannot write '" in line and line.endswith("json': No space left on device")
    assert list((tmp_path / "out").iterdir()) == []


def train(tmp_path: Path) -> List[Any]:
    options = [*TINY, "SOLVER.MAX_ITER", 1, "DATALOADER.NUM_WORKERS", 0]
    return ["train", "--config-file", "shapes/maskx.yaml", "OUTPUT_DIR", tmp_path, *options]


@pytest.mark.parametrize(("room", "name"), [(0, "config.yaml"), (50_000, "model_final.pth")])
def test_train(room: int, name: str, tmp_path: Path, tiny_shapes: Path, refused: Refused) -> None:
    output = tmp_path / "output"
    line = refused(room, *train(output), "DATASETS.TEST", ())
    assert line.endswith(f"cannot write '{output / name}': No space left on device")
    left = {p.name.partition(".1")[0] for p in output.iterdir()}
    assert not any(x.startswith(("model_", ".")) or x == "last_checkpoint" for x in left)
    assert ("config.yaml" in left) == (name != "config.yaml")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_evaluation(share: float, tmp_path: Path, tiny_shapes: Path, refused: Refused) -> None:
    output = tmp_path / "output"
    main([str(a) for a in train(output)])
    evaluate = ["train", "--eval-only", *train(output)[1:], "MODEL.WEIGHTS"]
    evaluate.append(output / "model_final.pth")
    main([str(a) for a in evaluate])
    results = output / "inference" / "shapes_val"
    before = content(results)
    assert len(before) == 3  # predictions, results, metrics
    report = (output / "data_report.json").stat().st_size  # comes first
    room = int(share * sum(map(len, before.values())))
    line = refused(report + room, *evaluate)
    assert f"cannot write '{results}/" in line and line.endswith("': No space left on device")
    assert content(results) == before


def test_logs_of_others_name_their_folder(
    tmp_path: Path, tiny_shapes: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """detectron2 and TensorBoard append to files of their own."""

    class Trainer:
        def __init__(self, cfg: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(launch, "trainer_class", lambda cfg: Trainer)
    with pytest.raises(SystemExit):
        main([str(a) for a in train(tmp_path)])
    assert capsys.readouterr().err.endswith(f"write '{tmp_path}': No space left on device\n")
