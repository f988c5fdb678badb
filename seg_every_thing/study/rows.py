"""Rows of a study: a config file and overrides each, so that what differs can be read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        name: key of the row in ``results.json``.
        title: what a reader calls it.
        config: YAML file below ``configs/``.
        overrides: KEY, VALUE, ... on top of it.
    """

    name: str
    title: str
    config: str
    overrides: Tuple[str, ...] = ()


QUICKSTART_DETECTOR = Row("detector", "boxes of all classes", "shapes/detector.yaml")
QUICKSTART_ROWS = (
    Row("class_agnostic", "class-agnostic", "shapes/class_agnostic.yaml"),
    Row("maskx", "Mask^X (cls+box, 2 layers, MLP)", "shapes/maskx.yaml"),
    Row("oracle", "fully supervised", "shapes/oracle.yaml"),
)
