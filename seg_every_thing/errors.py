"""Which errors are answers to bad input, and how one says them in a line."""

import os
import re

_EXPECTED = (OSError, ValueError, KeyError, AssertionError, FloatingPointError)
"""What bad input, or a training that diverges, raises here and in detectron2; anything else is a
defect and keeps its traceback."""


class ProcessError(ValueError):
    """One of several processes met an expected error; the message is that error's."""


def is_expected(error: BaseException) -> bool:
    """Whether to answer an error with its message alone.

    Not with ``SEG_EVERY_THING_TRACEBACK=1``, which shows where it came from.
    """
    return isinstance(error, _EXPECTED) and not os.getenv("SEG_EVERY_THING_TRACEBACK")


def one_line(error: BaseException) -> str:
    """The message of an error, without what libraries put around it."""
    if isinstance(error, KeyError) and len(error.args) == 1:
        text = str(error.args[0])  # str(KeyError) would add quotes
    else:
        text = str(error)
    # Errors of worker processes arrive as a whole traceback that ends with the message.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1]) if len(lines) > 1 else lines[-1]
