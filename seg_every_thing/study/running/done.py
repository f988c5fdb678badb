"""What a stage leaves behind when it is complete, and whether it can be trusted."""

import logging
from pathlib import Path
from typing import Any, Dict, Optional

from ...files import file_digest, read_json, write_json

logger = logging.getLogger(__name__)

DONE = "done.json"
WEIGHTS = "model_final.pth"


def finished(folder: Path, expected: str) -> Optional[Dict[str, Any]]:
    """The record of a stage that is complete, was made with the same fingerprint, and whose weights
    are those it was written for."""
    if not (folder / DONE).is_file():
        return None
    try:
        record = read_json(folder / DONE)
        same = record["fingerprint"] == expected
        weights = record["weights"] if same else ""
    except (ValueError, KeyError, TypeError) as e:
        logger.warning("'%s' is broken (%s): its stage is done again", folder / DONE, e)
        return None
    if same and weights != _digest(folder / WEIGHTS):
        logger.warning(
            "'%s' is not the file that '%s' was written for: its stage is done again",
            *(folder / WEIGHTS, DONE),
        )
        return None
    return record if same else None


def write_done(folder: Path, record: Dict[str, Any]) -> Dict[str, Any]:
    """Say that a stage is complete; the last thing that it does.

    Args:
        folder: that holds its weights.
        record: with "fingerprint".

    Returns:
        The record with "weights", which tells these from others.
    """
    record = {**record, "weights": _digest(folder / WEIGHTS)}
    write_json(folder / DONE, record)
    return record


def _digest(path: Path) -> str:
    """Of a file's content; "" = there is none."""
    return file_digest(path) if path.is_file() else ""
