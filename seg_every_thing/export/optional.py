"""Packages that only some formats need."""

import importlib
from typing import Any


def optional(name: str, format: str) -> Any:
    """Import a package that ``pip install "seg_every_thing[export]"`` brings.

    Args:
        name: of the package.
        format: that needs it, for the message.

    Raises:
        ValueError: when it is not installed or does not load.
    """
    try:
        return importlib.import_module(name)
    except ImportError as e:
        raise ValueError(
            f'--format {format} needs {name} ({e}): pip install "seg_every_thing[export]"'
        ) from e
