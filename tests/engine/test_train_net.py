"""projects_train_net.py: trains, evaluates, and answers bad input with one clear line."""

import json
import sys
from pathlib import Path
from typing import Any, Callable, List

import numpy as np
import pytest
import torch
from conftest import unregister
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from helpers import TINY, shapes_config
from PIL import Image

import projects_train_net
from seg_every_thing import Trainer
from seg_every_thing.cli import main as cli_main

CONFIG = str(Path(projects_train_net.__file__).parent / "configs" / "shapes" / "maskx.yaml")

Run = Callable[..., None]


@pytest.fixture
def run(tiny_shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call projects_train_net with arguments."""

    def call(*args: Any) -> None:
        flags = [a for a in args if str(a).startswith("--")]
        rest = [str(a) for a in args if not str(a).startswith("--")]
        if "--config-file" in flags:
            flags.remove("--config-file")
            config, rest = rest[0], rest[1:]
        else:
            config = CONFIG
        options = [str(v) for v in [*TINY, "OUTPUT_DIR", tmp_path / "out", *rest]]
        argv = ["projects_train_net.py", "--config-file", config, *flags, *options]
        monkeypatch.setattr(sys, "argv", argv)
        projects_train_net.invoke_main()

    return call


def test_train_then_evaluate(run: Run, tmp_path: Path) -> None:
    run()
    weights = tmp_path / "out" / "model_final.pth"
    run("--eval-only", "MODEL.WEIGHTS", weights)
    metrics = tmp_path / "out" / "inference" / "shapes_val" / "metrics.json"
    assert {"segm/AP_A", "segm/AP_B", "bbox/AP_A"} <= json.loads(metrics.read_text()).keys()


def fails(capsys: pytest.CaptureFixture, run: Run, *args: Any) -> str:
    """The one line on stderr with which a call ends."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_info:
        run(*args)
    assert exit_info.value.code == 1
    lines = [x for x in capsys.readouterr().err.splitlines() if "error: " in x]
    assert len(lines) == 1, lines
    return lines[0]


def dataset_with(tmp_path: Path, edit: Callable[[Any], Any]) -> str:
    metadata = MetadataCatalog.get("shapes_train")
    text = edit(json.loads(Path(metadata.json_file).read_text()))
    path = tmp_path / "edited.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    unregister("edited")
    register_coco_instances("edited", {}, str(path), metadata.image_root)
    return "edited"


def test_missing_config_and_unknown_keys(run: Run, capsys: Any, tmp_path: Path) -> None:
    assert "nowhere.yaml" in fails(capsys, run, "--config-file", "nowhere.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("MODEL: [1, 2")
    assert "broken.yaml" in fails(capsys, run, "--config-file", broken)
    assert "MODEL.NO_SUCH" in fails(capsys, run, "MODEL.NO_SUCH", 1)


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("MODEL.ROI_MASK_HEAD.PREDICTOR", "telepathy", ["PREDICTOR", "telepathy"]),
        ("MODEL.WEIGHT_TRANSFER.INPUT", "smell", ["INPUT", "smell"]),
        ("MODEL.WEIGHT_TRANSFER.ACTIVATION", "tanh", ["ACTIVATION", "tanh"]),
        ("MODEL.ROI_MASK_HEAD.MLP.INPUT", "raw", ["MLP.INPUT", "raw"]),
        ("DATASETS.MASK_CLASSES", "shapes_a", ["shapes_a", "did you mean 'shapes_A'"]),
        ("DATASETS.MASK_CLASSES", "voc", ["does not fit"]),
        ("DATASETS.TRAIN", "('shapes_trian',)", ["shapes_trian", "shapes_train"]),
        ("SOLVER.MAX_ITER", "0", ["SOLVER.MAX_ITER is 0"]),
        ("SOLVER.IMS_PER_BATCH", "-2", ["SOLVER.IMS_PER_BATCH is -2"]),
        ("SOLVER.CHECKPOINT_PERIOD", "0", ["SOLVER.CHECKPOINT_PERIOD is 0"]),
        ("MODEL.ROI_HEADS.NUM_CLASSES", "0", ["MODEL.ROI_HEADS.NUM_CLASSES is 0"]),
        ("MODEL.SEM_SEG_HEAD.NUM_CLASSES", "-1", ["MODEL.SEM_SEG_HEAD.NUM_CLASSES is -1"]),
        ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True", ["CLS_AGNOSTIC_BBOX_REG", "cls"]),
    ],
)
def test_unknown_values(run: Run, capsys: Any, key: str, value: str, words: List[str]) -> None:
    line = fails(capsys, run, key, value)
    assert all(word in line for word in words), line


def test_unknown_class_names_the_nearest(run: Run, capsys: Any, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("red disk\nred starr\n")
    line = fails(capsys, run, "DATASETS.MASK_CLASSES", classes)
    assert "red starr" in line and "did you mean 'red star'" in line


def test_missing_data_root(run: Run, capsys: Any, tmp_path: Path) -> None:
    register_coco_instances("rootless", {}, str(tmp_path / "no" / "x.json"), str(tmp_path))
    line = fails(capsys, run, "DATASETS.TRAIN", "('rootless',)", "DATASETS.MASK_CLASSES", "all")
    unregister("rootless")
    assert "x.json" in line and "DETECTRON2_DATASETS" in line


def test_missing_image_and_broken_json(run: Run, capsys: Any, tmp_path: Path) -> None:
    def without_images(content: Any) -> Any:
        for image in content["images"]:
            image["file_name"] = "gone.png"
        return content

    options = ("DATASETS.TRAIN", "('edited',)", "DATASETS.MASK_CLASSES", "all")
    dataset_with(tmp_path, without_images)
    assert "gone.png" in fails(capsys, run, *options)
    # An error in a worker process arrives with a traceback around it.
    assert "gone.png" in fails(capsys, run, *options, "DATALOADER.NUM_WORKERS", 1)
    dataset_with(tmp_path, lambda content: json.dumps(content)[:500])
    assert "edited.json" in fails(capsys, run, *options)
    dataset_with(tmp_path, lambda content: {"images": content["images"]})
    assert "edited.json" in fails(capsys, run, *options)
    unregister("edited")


def test_wrong_embedding_size(run: Run, capsys: Any, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "vectors.npy", np.zeros((47, 5), np.float32))
    line = fails(
        capsys,
        run,
        *("MODEL.WEIGHT_TRANSFER.INPUT", "embedding"),
        *("MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE", tmp_path / "vectors.npy"),
    )
    assert "vectors.npy" in line and "(47, 5)" in line and "(48, D)" in line


def test_truncated_checkpoint(run: Run, capsys: Any, tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"model": {"x": torch.zeros(1000)}}, whole)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(whole.read_bytes()[:700])
    assert "broken.pth" in fails(capsys, run, "MODEL.WEIGHTS", broken)
    assert "broken.pth" in fails(capsys, run, "--eval-only", "MODEL.WEIGHTS", broken)
    assert "absent.pth" in fails(capsys, run, "MODEL.WEIGHTS", tmp_path / "absent.pth")


def test_unwritable_output(run: Run, capsys: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = fails(capsys, run, "OUTPUT_DIR", tmp_path / "file" / "out")
    assert "cannot write" in line and str(tmp_path / "file") in line


def test_cli_answers_alike(capsys: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli_main(["quickstart", "--output", str(tmp_path), "--seed", "-1"])
    assert exit_info.value.code == 1
    assert "seg-every-thing: error: --seed" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_info:
        cli_main(["no-such-command"])
    assert exit_info.value.code == 2


def test_a_broken_image_is_named_in_training_and_evaluation(
    run: Run, capsys: Any, tmp_path: Path
) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8))
    noise.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:3000])

    def with_that_image(content: Any) -> Any:
        for image in content["images"]:
            image["file_name"] = str(tmp_path / "cut.jpg")
        return content

    dataset_with(tmp_path, with_that_image)
    workers = ("DATALOADER.NUM_WORKERS", 1)
    options = ("DATASETS.TRAIN", "('edited',)", "DATASETS.MASK_CLASSES", "all")
    tested = ("--eval-only", "DATASETS.TEST", "('edited',)", *options)
    for arguments in ((*options, *workers), tested):
        line = fails(capsys, run, *arguments)
        reason = f"cannot read the image '{tmp_path / 'cut.jpg'}': image file is truncated"
        assert line.startswith(f"projects_train_net.py: error: {reason}"), line


def test_evaluation_scales_deep_images_as_training_does(tiny_shapes: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8)
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    content = {
        "images": [{"id": 1, "file_name": "deep.png", "width": 128, "height": 128}],
        "annotations": [],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (tmp_path / "deep.json").write_text(json.dumps(content))
    register_coco_instances("deep", {}, str(tmp_path / "deep.json"), str(tmp_path))
    cfg = shapes_config("maskx", tmp_path, "DATALOADER.NUM_WORKERS", 0)
    ((sample,),) = Trainer.build_test_loader(cfg, "deep")
    unregister("deep")
    assert (sample["image"].numpy() == pixels).all()
