"""With all keys of masks from boxes at their defaults, every bit is that of commit ec4b60b.

``SEG_EVERY_THING_ACCEPT_RECORDS=1`` stores what comes out now, for a change meant to move them.
"""

import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
import torch
from conftest import unregister
from recorded_runs import RUNS, all_records, environment, numbers, trained_and_applied

RECORDS = Path(__file__).parent / "expect" / "default_keys.json"


@pytest.fixture(scope="module")
def records() -> Dict[str, Any]:
    known = json.loads(RECORDS.read_text())
    if os.getenv("SEG_EVERY_THING_ACCEPT_RECORDS"):
        new = all_records()
        known = {"environments": new["environments"], "numbers": new["numbers"]}
        RECORDS.write_text(json.dumps(known, indent=1) + "\n")
    return known


@pytest.fixture(autouse=True)
def leave_nothing_behind() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    unregister("shapes_train")
    unregister("shapes_val")


@pytest.mark.parametrize("name", RUNS)
def test_every_bit_is_as_before(name: str, records: Dict[str, Any], tmp_path: Path) -> None:
    torch.set_num_threads(1)
    here = environment()
    if here not in records["environments"]:
        pytest.skip(
            f"plain convolutions give other bits here ({here}) than where the records were made "
            f"({', '.join(records['environments'])}); the numbers below are compared everywhere"
        )
    assert trained_and_applied(name, tmp_path) == records["environments"][here][name]


def test_numbers_are_as_before_on_every_cpu(records: Dict[str, Any]) -> None:
    now = numbers()
    assert now.keys() == records["numbers"].keys()
    for name, values in records["numbers"].items():
        assert now[name] == pytest.approx(values, rel=1e-5), name
