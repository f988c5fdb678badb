"""Loading a checkpoint, with one line for whatever may be wrong with it."""

import contextlib
import os
from pathlib import Path
from typing import Iterator, Optional

from torch import nn

from .compatibility import NotFiniteError, UnfitCheckpointError, check_finite
from .safe_checkpointer import SafeCheckpointer, load_tensors


def load_for_inference(
    model: nn.Module, path: str, allow_partial: bool = False, resume_dir: str = ""
) -> None:
    """Load the weights of a model that is to be used as it is.

    Args:
        model: changed in place.
        path: a checkpoint of this very model.
        allow_partial: go on where it is another model's, with what fits; a table in the log says
            what does not.
        resume_dir: the folder, where the checkpoint is the last one of a training.

    Raises:
        ValueError: when the file cannot be read, its weights are not finite, or it does not bring
            all of the model; the message says which tensors.
    """
    with readable_checkpoint(path, resume_dir):
        SafeCheckpointer(model, require="any" if allow_partial else "all").load(path)


def last_checkpoint(folder: str) -> Optional[str]:
    """The checkpoint from which a training in a folder would be resumed.

    Returns:
        Its path; None where nothing has been saved.

    Raises:
        ValueError: when the file ``last_checkpoint``, which names it, is missing or wrong; the
            message names the newest checkpoint that is whole.
    """
    pointer = Path(folder, "last_checkpoint")
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        if newest_whole(folder) is None:
            return None
        raise ValueError(f"cannot resume: '{pointer}' does not exist. {_offer(folder)}") from None
    except (OSError, UnicodeDecodeError) as e:
        raise ValueError(f"cannot resume: '{pointer}' cannot be read: {e}. {_offer(folder)}") from e
    path = Path(folder, name)
    if not name or not path.is_file():
        reason = f"names '{name}', which does not exist" if name else "is empty"
        raise ValueError(f"cannot resume: '{pointer}' {reason}. {_offer(folder)}")
    return str(path)


def newest_whole(folder: str, but: str = "") -> Optional[str]:
    """Name of the newest checkpoint of a training that can be read and is finite; None = none.

    Args:
        folder: where it is.
        but: one in it that is known to be broken.
    """
    names = {os.path.basename(but), "model_best.pth"}  # the best one may be an early one
    files = [path for path in Path(folder).glob("*.pth") if path.name not in names]
    for path in sorted(files, key=lambda p: p.stat().st_mtime, reverse=True):
        with contextlib.suppress(ValueError):
            content = load_tensors(str(path))
            if isinstance(content, dict) and {"model", "iteration"} <= content.keys():
                check_finite(content["model"], str(path))
                return path.name
    return None


@contextlib.contextmanager
def readable_checkpoint(path: str, resume_dir: str = "") -> Iterator[None]:
    """Turn the many ways in which reading a broken checkpoint fails into one that names the file.

    Args:
        path: the checkpoint.
        resume_dir: the folder, where the checkpoint is the last one of a training; the message
            names the newest one there that is whole.

    Raises:
        UnfitCheckpointError: as it comes.
        ValueError: naming the file.
    """
    try:
        yield
    except NotFiniteError as e:
        raise type(e)(f"{e} {_offer(resume_dir, path)}" if resume_dir else str(e)) from e
    except UnfitCheckpointError:
        raise
    except (RuntimeError, AssertionError, EOFError, KeyError, OSError, ValueError) as e:
        reason = str(e).strip().splitlines()[-1:] or [type(e).__name__]
        mend = _offer(resume_dir, path) if resume_dir else "Give another MODEL.WEIGHTS"
        raise ValueError(
            f"cannot load the checkpoint '{path}': {reason[0]}. It is missing, truncated or not a "
            f"detectron2 checkpoint. {mend}"
        ) from e
    except Exception as e:
        # pickle reports corrupt bytes with errors of any kind.
        if type(e).__module__ not in ("_pickle", "pickle"):
            raise
        raise ValueError(f"cannot load the checkpoint '{path}': it is not valid: {e}") from e


def _offer(folder: str, broken: str = "") -> str:
    whole = newest_whole(folder, broken)
    if whole is None:
        return f"No other checkpoint in '{folder}' is whole: train without --resume"
    pointer = os.path.join(folder, "last_checkpoint")
    return (
        f"The newest whole checkpoint there is '{whole}': to go on from it, write that name into "
        f"'{pointer}'"
    )
