"""Pickles that hold numbers and nothing else: arrays and plain containers, no code.

A pickle is a small program, and loading one from elsewhere is running it.  Here its instructions
are read first, and a file that names anything but numpy arrays is refused before any of it runs.
What it may name is then played by stand-ins, so numpy's own unpickling functions, which trust their
input, are never called.
"""

import mmap
import pickle
from pathlib import Path
from typing import Any, Union

from .pickle_scan import RefusedError, check_name, scan
from .pickle_stand_ins import ALLOWED, plain


def load_pickle(path: Union[str, Path]) -> Any:
    """Read a pickle that may hold numpy arrays of numbers, plain containers, strings and numbers.

    Protocols 0 to 5, also as written by Python 2 (its strings are read as Latin-1), and as Python 3
    writes what it read from there as bytes (keys become text).

    Args:
        path: a local file.

    Returns:
        The content.  Arrays are of native byte order and own their memory.

    Raises:
        ValueError: when the file cannot be read, is not one whole pickle, or names anything else;
            in the last case none of it has run.  The message names the file.
    """
    try:
        with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:2] == b"PK":
                raise ValueError("it is a zip archive, such as PyTorch's .pth files")
            scan(content, ALLOWED)
            content.seek(0)
            value = _Unpickler(content, encoding="latin1").load()
        return plain(value, {})
    except OSError as e:
        raise ValueError(f"cannot read '{path}': {e.strerror or e}") from e
    except RefusedError as e:
        raise ValueError(
            f"refused to unpickle '{path}': {e}; only numpy arrays of numbers, plain containers, "
            f"strings and numbers are accepted"
        ) from e
    except MemoryError as e:
        raise ValueError(f"cannot unpickle '{path}': it needs more memory than there is") from e
    except Exception as e:  # pickle reports corrupt bytes with errors of any kind
        raise ValueError(f"'{path}' is not a valid pickle: {e or type(e).__name__}") from e


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        check_name(module, name, ALLOWED)
        return ALLOWED[module, name]
