"""Reading configs: keys whose type is not fixed."""

from pathlib import Path
from typing import Any

import pytest
from detectron2.config import get_cfg

from seg_every_thing import add_seg_every_thing_config
from seg_every_thing.config import load_config


@pytest.mark.parametrize("in_file", ["0.3", "fit", "null"])
@pytest.mark.parametrize("override, expected", [("fit", "fit"), ("0.5", 0.5), (0.25, 0.25)])
def test_the_mask_threshold_is_a_number_or_a_word(
    tmp_path: Path, in_file: str, override: Any, expected: Any
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"TEST:\n  MASK_THRESHOLD: {in_file}\nVERSION: 2\n")
    cfg = load_config(str(path), ["TEST.MASK_THRESHOLD", override])
    threshold = cfg.TEST.MASK_THRESHOLD
    assert threshold == expected


@pytest.mark.parametrize("value", ["fit", 0.3])
def test_the_mask_threshold_in_a_foreign_project(value: Any) -> None:
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    cfg.merge_from_list(["TEST.MASK_THRESHOLD", value])
    threshold = cfg.TEST.MASK_THRESHOLD
    assert threshold == value
