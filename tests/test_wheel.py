"""The package as users get it: a wheel in an environment of its own, used in an empty folder.

The environment sees the packages of this one, and nothing of the checkout: a process that opens a
file of it ends at once.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from caffe2_reference import Caffe2Model, python2_pickle
from helpers import CONFIGS, TINY, package_folders

ROOT = Path(__file__).resolve().parents[1]
OPTIONS = [str(v) for v in [*TINY, "TEST.DETECTIONS_PER_IMAGE", 5]]

GUARD = f"""
import os, sys

def refuse_the_checkout(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str):
        path = os.path.realpath(arguments[0])
        if path.startswith({str(ROOT) + os.sep!r}) and not path.startswith({sys.prefix + os.sep!r}):
            os.write(2, f"of the checkout: {{path}}\\n".encode())
            os._exit(99)

sys.addaudithook(refuse_the_checkout)
"""


def call(*command: Any, cwd: Path) -> str:
    """Run a command to its end; its standard output."""
    ours = ("PYTHONPATH", "DETECTRON2_DATASETS")
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**{k: v for k, v in os.environ.items() if k not in ours}, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a source distribution, so that both are whole."""
    pytest.importorskip("setuptools", "64", reason="building needs setuptools 64 or newer")
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    for name in ("seg_every_thing", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; build_meta.build_sdist('..')"
    call(sys.executable, "-c", build, cwd=source)
    shutil.rmtree(source)
    (sdist,) = folder.glob("*.tar.gz")
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    call(sys.executable, "-m", "pip", "wheel", *offline, "-w", folder, sdist, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment with the wheel."""
    environment = tmp_path_factory.mktemp("installed") / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    python = environment / "bin" / "python"
    offline = ("--no-deps", "--no-index", "--no-compile")
    pip = (sys.executable, "-m", "pip", "--python", python)
    call(*pip, "install", *offline, wheel, cwd=environment.parent)
    (packages,) = environment.glob("lib/python*/site-packages")
    # Only now, or pip would take the package as installed already.
    # No sitecustomize.py, as Ubuntu's Python has one of its own, which comes first.
    lines = ["import guard_of_the_tests", *package_folders()]
    (packages / "of_the_tests.pth").write_text("\n".join(lines) + "\n")
    (packages / "guard_of_the_tests.py").write_text(GUARD)
    return environment / "bin"


def test_the_wheel_holds_the_package_its_page_and_every_config(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    configs = {p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml")}
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "seg_every_thing").rglob("*.py")}
    page = (ROOT / "seg_every_thing" / "annotation" / "review_page").iterdir()
    modules |= {p.relative_to(ROOT).as_posix() for p in page}
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == modules | {f"seg_every_thing/configs/{name}" for name in configs}


def test_pip_takes_the_detectron2_and_the_numpy_that_are_there(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (file,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(file).decode().split("\n\n")[0]
    needed = re.findall(r"^Requires-Dist: ([^;\n]+)$", text, re.MULTILINE)
    assert {"numpy", "pycocotools"} <= set(needed)
    assert not [name for name in needed if "detectron2" in name]


def test_the_guard_works(commands: Path, tmp_path: Path) -> None:
    read = f"import pathlib; pathlib.Path({str(ROOT / 'setup.py')!r}).read_text()"
    done = subprocess.run(
        [commands / "python", "-c", read], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 99 and "of the checkout" in done.stderr


# Commands one after the other, each in a process as if it had just started.
COMMANDS = """
import json, multiprocessing, sys
import seg_every_thing
from seg_every_thing.cli import main

print(seg_every_thing.__file__, seg_every_thing.model_zoo.CONFIGS, sep="\\n", flush=True)
for arguments in json.loads(sys.argv[1]):
    run = lambda: sys.exit(main(arguments))
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)
"""


def test_everything_runs_in_an_empty_folder(commands: Path, tmp_path: Path) -> None:
    size = ("--num-train", 6, "--num-val", 3, "--jobs", 1)
    quickstart = ("quickstart", *size, "--output", "demo", "--opts", *OPTIONS)
    call(commands / "seg-every-thing", *quickstart, "SOLVER.MAX_ITER", 1, cwd=tmp_path)
    assert json.loads((tmp_path / "demo" / "results.json").read_text())["rows"].keys() >= {"maskx"}
    assert (tmp_path / "demo" / "gallery" / "index.html").is_file()

    study = ("study", "--suite", "coco", "--dry-run", "--tables", "1c")

    # The quickstart's drawings, as data of one's own.
    (drawings,) = (tmp_path / "demo" / "data" / "shapes").iterdir()
    data = drawings.relative_to(tmp_path)
    own = [
        *("--train-json", data / "instances_train.json", "--train-images", data / "train"),
        *("--val-json", data / "instances_val.json", "--val-images", data / "val"),
    ]
    config = ("--config-file", "shapes/Base-EndToEnd.yaml")
    train = ("train", *config, *own, "OUTPUT_DIR", "own", *OPTIONS, "SOLVER.MAX_ITER", 1)

    pictures = ("--input", data / "val", "--output", "pictures", "--threshold", 0)
    trained = ("--opts", "MODEL.WEIGHTS", "own/model_final.pth")
    demo = ("demo", "--config-file", "own/config.yaml", *pictures, *trained)

    pickled = python2_pickle({"blobs": Caffe2Model(mlp=1).blobs(), "cfg": "MODEL: {}\n"}, 2)
    (tmp_path / "X.pkl").write_bytes(pickled)
    convert = ("convert", "--input", "X.pkl", "--output", "Y.pth")

    arguments = json.dumps([[str(x) for x in c] for c in (study, train, demo, convert)])
    lines = call(commands / "python", "-c", COMMANDS, arguments, cwd=tmp_path)
    for path in lines.splitlines()[:2]:
        assert Path(path).is_relative_to(commands.parent)
    assert "-m seg_every_thing train --config-file coco/stage_two/clsbox_mlp.yaml" in lines
    metrics = tmp_path / "own" / "inference" / "own_val" / "metrics.json"
    assert {"bbox/AP", "segm/AP"} <= json.loads(metrics.read_text()).keys()
    assert (tmp_path / "pictures" / "index.html").is_file()
    assert len(list((tmp_path / "pictures").glob("*.[jp][pn]g"))) == 3
    assert (tmp_path / "Y.pth").is_file() and (tmp_path / "Y.yaml").is_file()
