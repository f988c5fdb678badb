"""`seg-every-thing train` is projects_train_net.py, wherever the package is installed."""

from pathlib import Path
from typing import Any, List

import pytest
from helpers import TINY

import projects_train_net
from seg_every_thing.cli import main, train

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
        *("--dist-url", "tcp://here:1", "--resume", "--eval-only", "SEED", "4"),
    ]
    main(["train", *arguments])
    monkeypatch.setattr("sys.argv", ["projects_train_net.py", *arguments])
    projects_train_net.invoke_main()
    command, script = (
        {k: v for k, v in vars(a).items() if k not in ("command", "run")} for a in seen
    )
    assert command == script
    assert (script["num_machines"], script["opts"]) == (3, ["SEED", "4"])


def test_several_machines_must_agree_on_an_address(tmp_path: Path, capsys: Any) -> None:
    arguments = ["--config-file", "shapes/maskx.yaml", "--num-machines", "2"]
    with pytest.raises(SystemExit) as e:
        main(["train", *arguments, "OUTPUT_DIR", str(tmp_path)])
    assert e.value.code == 1
    assert "dist_url=auto not supported in multi-machine jobs" in capsys.readouterr().err
