"""Each run as a command ``seg-every-thing train``, and running these on machines with GPUs."""

import logging
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Dict, List, Sequence

from ...config import load_config
from ...files import read_json, write_text
from ...processes import call_and_end_together
from ..definitions.suites import Suite
from .done import DONE, finished, write_done
from .runner import Run, row_options
from .scheduler import Record
from .stages import row_fingerprint

logger = logging.getLogger(__name__)

_BEGUN = "begun.txt"  # holds the fingerprint of a run

TRAIN = ("-m", "seg_every_thing", "train")


def arguments_of(suite: Suite, run: Run, output: Path, overrides: Sequence[str]) -> List[str]:
    """Arguments after the command's name and its ``--num-gpus``."""
    row = run.row
    leaf = suite.leaves.get(row.name)
    options = row_options(suite, run)
    if leaf is not None:
        # The leaf holds the row; what is left is of the run: its seed and its split.
        of_row = {key for key, value in row.overrides if "{" not in str(value)}
        options = [
            x for pair in zip(options[::2], options[1::2]) if pair[0] not in of_row for x in pair
        ]
    options += [*overrides, "SEED", str(run.seed), "OUTPUT_DIR", str(output / run.name)]
    if row.on_detector and suite.detector is not None:
        weights = output / Run(suite.detector, "", run.seed).name / "model_final.pth"
        options += ["MODEL.WEIGHTS", str(weights)]
    return ["--config-file", leaf or suite.bases[row.stage], *options]


def command_of(
    suite: Suite, run: Run, output: Path, num_gpus: int, overrides: Sequence[str] = ()
) -> str:
    """The command of a run, as one types it."""
    if not run.row.learns or run.row.teacher:
        study = ["study", "--suite", suite.name, "--only", run.row.name]
        study += ["--seeds", str(run.seed + 1), "--output", str(output)]
        study += ["--opts", *overrides] if overrides else []
        return shlex.join(["seg-every-thing", *study])
    gpus = ["--num-gpus", str(num_gpus)] if num_gpus else []
    file, *rest = (arguments := arguments_of(suite, run, output, overrides))[1:]
    return shlex.join(["python", *TRAIN, arguments[0], file, *gpus, *rest])


def run_commands(
    suite: Suite, runs: Sequence[Run], output: Path, num_gpus: int, overrides: Sequence[str]
) -> Dict[str, Record]:
    """Run one command after the other; what is complete already is used again.

    An interrupted run goes on from its last checkpoint; one that fails does not end the others.

    Returns:
        Records by :attr:`Run.name`, with ``{"error"}`` for runs that failed.
    """
    records: Dict[str, Record] = {}
    for i, run in enumerate(runs, start=1):
        folder = output / run.name
        arguments = arguments_of(suite, run, output, overrides)
        cfg = load_config(arguments[1], arguments[2:])
        expected = row_fingerprint(cfg, "")
        record = finished(folder, expected)
        if record:
            records[run.name] = {**record, "reused": True}
            continue
        # Gone on with is what was begun with these settings and has not come to its end.
        begun = folder / _BEGUN
        same = begun.is_file() and begun.read_text(encoding="utf-8") == expected
        if not same or (folder / DONE).is_file():
            if folder.is_dir():
                shutil.rmtree(folder)
            write_text(begun, expected)
        start = time.perf_counter()
        logger.info("Run %d of %d: %s", i, len(runs), run.name)
        command = [sys.executable, *TRAIN, "--num-gpus", str(num_gpus), "--resume", *arguments]
        code = call_and_end_together(command)
        results = folder / "inference" / cfg.DATASETS.TEST[0] / "metrics.json"
        if code != 0 or not results.is_file():
            records[run.name] = {"error": f"exit code {code} (see {folder / 'log.txt'})"}
            logger.error("%s failed: %s", run.name, records[run.name]["error"])
            continue
        record = {
            "fingerprint": expected,
            "metrics": read_json(results),
            "seconds": {"total": time.perf_counter() - start},
        }
        records[run.name] = write_done(folder, record)
    return records
