"""Programs and workers of a test, forked from it: to start Python and torch anew takes seconds.

What starts as it does for a user is held by ``test_wheel.py``.  These processes see no GPU, as the
tests that start them see none: CUDA cannot be forked.
"""

import contextlib
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any, Iterator, Sequence
from unittest import mock

import torch

from seg_every_thing.cli import main

CONTEXT: Any = multiprocessing.get_context("fork")


@contextlib.contextmanager
def spawned_are_forked() -> Iterator[None]:
    """Let what asks for spawned processes get forked ones."""
    get_context = multiprocessing.get_context

    def forked(method: Any = None) -> Any:
        return CONTEXT if method == "spawn" else get_context(method)

    with mock.patch.object(multiprocessing, "get_context", forked):
        yield


def start(arguments: Sequence[Any], log: Path) -> Any:
    """The process of a command of ours, ``seg-every-thing ARGUMENTS``; both outputs go to ``log``.

    The processes that it starts are forked, too.
    """
    process = CONTEXT.Process(target=_run, args=([str(a) for a in arguments], log))
    process.start()
    return process


def run(arguments: Sequence[Any], log: Path) -> int:
    """The exit code of a command that has run to its end."""
    process = start(arguments, log)
    process.join()
    return process.exitcode


def _run(arguments: Sequence[str], log: Path) -> None:
    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(descriptor, number)
        setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))
    for name in ("", "detectron2", "fvcore", "seg_every_thing"):
        logging.getLogger(name).handlers.clear()
    with spawned_are_forked():
        sys.exit(main(list(arguments)))
