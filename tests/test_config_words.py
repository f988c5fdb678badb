"""Config files and overrides that cannot be: one line each, and nothing of a file is run."""

from pathlib import Path
from typing import List, Union

import pytest

from seg_every_thing.config import load_config
from seg_every_thing.model_zoo import config_files

pytestmark = pytest.mark.usefixtures("python_yaml")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "c.yaml' is empty: it needs at least one line"),
        ("# a remark alone\n", "c.yaml' is empty"),
        ("- a\n- b\n", "c.yaml' holds no 'KEY: value' but a list"),
        ("hello", "but a str"),
        ("5", "but a int"),
        ("1: 2\n", "has the key 1, which is no text"),
        ("MODEL:\n", "MODEL is None, stands for a group of keys: give MODEL."),
        ("MODEL: [1]\n", r"MODEL is \[1\], stands for a group"),
        ("MODEL:\n  RPN: x\n", "MODEL.RPN is 'x', stands for a group"),
        ("SOLVER:\n  MAX_ITER:\n", "SOLVER.MAX_ITER is None, expected a value such as 40000"),
        ("SOLVER:\n  MAX_ITR: 5\n", r"key: SOLVER.MAX_ITR .did you mean SOLVER.MAX_ITER"),
        ("_BASE_: 5\n", "the _BASE_ of '.*c.yaml' is 5, expected the path"),
        ("_BASE_: [c.yaml, 5]\n", "the _BASE_ of '.*c.yaml' is .*expected the path"),
        ("_BASE_: nope.yaml\n", "the _BASE_ '.*nope.yaml' does not exist, and no config"),
        ("_BASE_: c.yaml\n", "its _BASE_ leads back to itself"),
        (b"\xff\xfe\x00\x01", " is no text of UTF-8"),
        ("a: [\n", "is not valid YAML: while parsing"),
    ],
)
def test_files(tmp_path: Path, text: Union[str, bytes], message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"^config file '{path}'.*{message}") as error:
        load_config(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("base", [False, True])
def test_a_config_runs_no_code(tmp_path: Path, base: bool) -> None:
    made = tmp_path / "made"
    path = tmp_path / "c.yaml"
    evil = f"SEED: !!python/object/apply:os.mkdir ['{made}']\n"
    path.write_text(evil)
    if base:
        (tmp_path / "leaf.yaml").write_text("_BASE_: c.yaml\n")
        path = tmp_path / "leaf.yaml"
    with pytest.raises(ValueError, match="is not valid YAML: .*python/object/apply"):
        load_config(str(path))
    assert not made.exists()


@pytest.mark.parametrize(
    "opts, message",
    [
        (["SEED"], "'SEED' is left over: give pairs KEY VALUE"),
        (["SEED", "1", "2"], "'2' is left over"),
        (["SOLVER.MAX_ITR", "5"], r"SOLVER.MAX_ITR .did you mean SOLVER.MAX_ITER\?"),
        (["SOLVR.MAX_ITER", "5"], r"SOLVR.MAX_ITER .did you mean SOLVER.MAX_ITER\?"),
        (["SEED.X", "5"], "Non-existent key: SEED.X"),
        (["nothing.like.it", "5"], "Non-existent key: nothing.like.it$"),
        (["MODEL.RPN", "5"], "MODEL.RPN stands for a group of keys: give MODEL.RPN."),
        (["SOLVER.MAX_ITER", "None"], "SOLVER.MAX_ITER is None, expected a value such as 40000"),
        (["SOLVER.MAX_ITER", "abc"], "for config key: SOLVER.MAX_ITER"),
    ],
)
def test_overrides(opts: List[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^config override: .*{message}") as error:
        load_config("shapes/maskx.yaml", opts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("device", ["gpu", "", "cpu0"])
def test_devices(device: str) -> None:
    with pytest.raises(ValueError, match=f"MODEL.DEVICE '{device}' is no device"):
        load_config("shapes/maskx.yaml", ["MODEL.DEVICE", device])


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    load_config("shapes/maskx.yaml", ["MODEL.DEVICE", "cuda:1"])
    with pytest.raises(ValueError, match="'cuda:2', this machine has 2 GPUs"):
        load_config("shapes/maskx.yaml", ["MODEL.DEVICE", "cuda:2"])


def test_what_may_be_none_may(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("TEST:\n  MASK_THRESHOLD: null\nSOLVER:\n  WEIGHT_DECAY_BIAS: null\n")
    assert load_config(str(path), ["TEST.MASK_THRESHOLD", "None"]).TEST.MASK_THRESHOLD is None
    assert len(config_files()) > 20  # each of which is read in test_configs.py
