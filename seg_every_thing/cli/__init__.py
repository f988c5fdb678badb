"""`seg-every-thing <command>`: one module a command, each with HELP, add_arguments and run."""

import argparse
import contextlib
import importlib
import logging
import os
import re
import sys
from typing import Iterator, List, Optional

from detectron2.utils.logger import setup_logger
from torch.multiprocessing import ProcessRaisedException

COMMANDS = {
    "train": "seg_every_thing.cli.train",
    "demo": "seg_every_thing.cli.demo",
    "quickstart": "seg_every_thing.cli.quickstart",
    "prepare-vg": "seg_every_thing.cli.prepare_vg",
    "align": "seg_every_thing.cli.align",
    "convert": "seg_every_thing.cli.convert",
    "study": "seg_every_thing.cli.study",
    "benchmark": "seg_every_thing.cli.benchmark",
}

_EXPECTED = (OSError, ValueError, KeyError, AssertionError, ProcessRaisedException)
"""What bad input raises here and in detectron2, in this process or one of several that train;
anything else is a defect and keeps its traceback."""


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; default ``sys.argv[1:]``.

    Returns:
        The exit code: what the command returns; None stands for 0.
    """
    parser = argparse.ArgumentParser(prog="seg-every-thing", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(module_name)
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    if args.command != "train":  # which logs to its output folder, too, and sets up both
        for name in ("detectron2", "fvcore", "seg_every_thing"):
            setup_logger(name=name).setLevel(logging.INFO)
    with one_line_errors():
        return args.run(args) or 0


@contextlib.contextmanager
def one_line_errors(program: str = "seg-every-thing") -> Iterator[None]:
    """Let bad input end the program with one line on stderr and exit code 1.

    ``SEG_EVERY_THING_TRACEBACK=1`` shows where it came from.
    """
    try:
        yield
    except _EXPECTED as e:
        if os.getenv("SEG_EVERY_THING_TRACEBACK"):
            raise
        sys.stderr.write(f"{program}: error: {_one_line(e)}\n")
        sys.exit(1)


def _one_line(error: BaseException) -> str:
    if isinstance(error, KeyError) and len(error.args) == 1:
        text = str(error.args[0])  # str(KeyError) would add quotes
    else:
        text = str(error)
    # Errors of worker processes arrive as a whole traceback that ends with the message.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1]) if len(lines) > 1 else lines[-1]
