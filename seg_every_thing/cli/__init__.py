"""`seg-every-thing <command>`: one module a command, each with HELP, add_arguments and run."""

import argparse
import contextlib
import importlib
import logging
import sys
from typing import Iterator, List, Optional

from ..errors import is_expected, one_line
from ..processes import EndedBySignal, readers_may_end, signals_end_in_good_order

COMMANDS = {
    "train": "seg_every_thing.cli.train",
    "self-train": "seg_every_thing.cli.self_train",
    "demo": "seg_every_thing.cli.demo",
    "annotate": "seg_every_thing.cli.annotate",
    "compare-masks": "seg_every_thing.cli.compare_masks",
    "quickstart": "seg_every_thing.cli.quickstart",
    "prepare-vg": "seg_every_thing.cli.prepare_vg",
    "align": "seg_every_thing.cli.align",
    "convert": "seg_every_thing.cli.convert",
    "export": "seg_every_thing.cli.export",
    "study": "seg_every_thing.cli.study",
    "benchmark": "seg_every_thing.cli.benchmark",
    "doctor": "seg_every_thing.cli.doctor",
}


def main(argv: Optional[List[str]] = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; default ``sys.argv[1:]``.

    Returns:
        The exit code: what the command returns; None stands for 0.
    """
    parser = argparse.ArgumentParser(prog="seg-every-thing", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    given = (sys.argv[1:] if argv is None else argv)[:1]
    # The command alone, where it is named: the others need libraries that `doctor` does without.
    for name in given if given and given[0] in COMMANDS else COMMANDS:
        module = importlib.import_module(COMMANDS[name])
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    if args.command != "doctor":  # which works where the libraries of these do not load
        _set_up_output(args.command)
    with one_line_errors():
        return args.run(args) or 0


def _set_up_output(command: str) -> None:
    from detectron2.utils.logger import setup_logger

    from ..files import escape_in

    escape_in(sys.stdout)
    if command != "train":  # which logs to its output folder, too, and sets up both
        for name in ("detectron2", "fvcore", "seg_every_thing"):
            setup_logger(name=name).setLevel(logging.INFO)


@contextlib.contextmanager
def one_line_errors(program: str = "seg-every-thing") -> Iterator[None]:
    """Let bad input end the program with one line on stderr and exit code 1.

    A signal (Ctrl-C, SIGTERM, SIGHUP; or the end of a process that it needs) gives one line, too,
    and exit code 128 + signal.
    """
    with readers_may_end():
        try:
            with signals_end_in_good_order():
                yield
        except EndedBySignal as e:
            sys.stderr.write(f"{program}: {e}\n")
            sys.exit(128 + e.number)
        except Exception as e:
            if not is_expected(e):
                raise
            sys.stderr.write(f"{program}: error: {one_line(e)}\n")
            sys.exit(1)
