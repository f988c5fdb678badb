"""`seg-every-thing doctor`: what is installed, what is wrong with it, and how to mend it."""

import argparse
import dataclasses
import json
import sys

from ..diagnosis import Diagnosis, diagnose

HELP = "say what is installed, what is wrong with it, and how to mend it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's argument."""
    parser.add_argument("--json", action="store_true", help="print it for programs")


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis.

    Returns:
        1 when something does not work, else 0.
    """
    diagnosis = diagnose()
    if args.json:
        text = json.dumps(dataclasses.asdict(diagnosis), indent=2)
    else:
        text = _as_text(diagnosis)
    sys.stdout.write(f"{text}\n")
    return int(any(f.error for f in diagnosis.findings))


def _as_text(diagnosis: Diagnosis) -> str:
    root = diagnosis.data_root
    facts = {
        **{name: version or "not there" for name, version in diagnosis.versions.items()},
        "compiled ops": diagnosis.compiled_ops,
        "devices": ", ".join(diagnosis.devices),
        "data root": f"{root['path']} ({', '.join(root['folders']) or 'no folders'})",
        "extras": ", ".join(name for name, there in diagnosis.extras.items() if there) or "none",
    }
    lines = [f"{name:<16}{value}" for name, value in facts.items()]
    for finding in sorted(diagnosis.findings, key=lambda f: not f.error):
        kind = "error" if finding.error else "note"
        lines += ["", f"{kind}: {finding.what}", f"  mend: {finding.mend}"]
    if not any(f.error for f in diagnosis.findings):
        lines += ["", "No errors found."]
    return "\n".join(lines)
