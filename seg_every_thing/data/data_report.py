"""What became of the objects of a data set: a table in the log, a file, and one error."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

from detectron2.utils import comm
from tabulate import tabulate

from ..files import PathLike, read_json, write_json

logger = logging.getLogger(__name__)

USED = "used"
CLIPPED = "clipped"
SUSPICIOUS = "suspicious"
CROWD = "crowd"
BOX_ONLY = "box-only"
DROPPED = "dropped"
ROWS = (USED, CLIPPED, SUSPICIOUS, CROWD, BOX_ONLY, DROPPED)

REPORT_FILE = "data_report.json"
TRAINING, EVALUATION = "training", "evaluation"

_NAMED = 10  # objects that the file and the error name in each row
_LOGGED = 3  # and the log


@dataclass
class _Row:
    objects: int = 0
    faulty: bool = False
    first: List[Dict[str, str]] = field(default_factory=list)


class DataReport:
    """Counts each object of a data set in one row: what became of it, and why."""

    def __init__(self, data_set: str, purpose: str, file: str = "") -> None:
        """
        Args:
            data_set: registered name.
            purpose: ``TRAINING`` or ``EVALUATION``.
            file: annotation file, if there is one.
        """
        self.data_set, self.purpose, self.file = data_set, purpose, file
        self.rows: Dict[Tuple[str, str], _Row] = {}
        self.filled_in: Counter = Counter()
        """Fields that were missing or no value, by name."""
        self.objects = 0
        self.altered = 0
        """Objects and images that are not used as the file has them."""
        self.unusable = 0
        self._errors: List[str] = []

    def count(self, row: str, reason: str = "", name: str = "", why: str = "") -> None:
        """Count an object.

        Args:
            row: one of ``ROWS``.
            reason: the same words for all objects of the row, such as "with an empty mask".
            name: of the object; needed where there is a fault.
            why: what is wrong with this one.
        """
        self.objects += 1
        found = self.rows.get((row, reason))
        if found is None:
            found = self.rows[row, reason] = _Row()
        found.objects += 1
        if name:
            found.faulty = True
            if len(found.first) < _NAMED:
                found.first.append({"object": name, **({"why": why} if why else {})})

    def refuse(self, message: str) -> None:
        """Note something unusable: an error, unless the user has it set aside."""
        self.unusable += 1
        if len(self._errors) < _NAMED:
            self._errors.append(message)

    def number(self, row: str, reason: str) -> int:
        """Objects of a row."""
        return self.rows[row, reason].objects if (row, reason) in self.rows else 0

    def check(self, on_bad: str) -> None:
        """Let what is unusable be an error, unless ``on_bad`` is "set_aside".

        Raises:
            ValueError: naming the first ten.
        """
        if self.unusable and on_bad != "set_aside":
            raise ValueError(
                f"{self._errors_in_words()}. Mend that, or go on without what is unusable: "
                f"DATASETS.ON_BAD_ANNOTATION set_aside"
            )

    def _errors_in_words(self) -> str:
        more = self.unusable - len(self._errors)
        first = "; ".join(self._errors)
        return f"{self.unusable} unusable: {first}; and {more} more" if more else first

    def log(self) -> None:
        """Write the table to the log, and a warning for each row that something is wrong with."""
        table = [
            (row, found.objects, reason or "-") for (row, reason), found in self._sorted_rows()
        ]
        logger.info(
            "Annotations of '%s' for %s, %d objects:\n%s",
            *(self.data_set, self.purpose, self.objects),
            tabulate(table, headers=("", "objects", "which"), tablefmt="pipe"),
        )
        for (row, reason), found in self._sorted_rows():
            if not found.faulty:
                continue
            named = ", ".join(first["object"] for first in found.first[:_LOGGED])
            more = ", ..." if found.objects > _LOGGED else ""
            fate = {
                DROPPED: "are left out",
                BOX_ONLY: "train boxes only" if self.purpose == TRAINING else "have boxes only",
                SUSPICIOUS: "are used as they are",
            }.get(row, "are used")
            logger.warning(
                "%s: %d objects %s %s: %s%s",
                *(self.data_set, found.objects, reason, fate, named, more),
            )
        left_out = sum(f.objects for (row, _), f in self.rows.items() if row in (DROPPED, CROWD))
        if self.purpose == EVALUATION and self.objects == left_out:
            logger.warning("%s: no object to evaluate: all metrics will be -1", self.data_set)
        if self.unusable:
            errors = self._errors_in_words()
            logger.warning("%s: set aside as unusable: %s", self.data_set, errors)
        if self.filled_in:
            fields = ", ".join(f"{name} ({n})" for name, n in self.filled_in.items())
            logger.info("%s: filled in: %s", self.data_set, fields)

    def as_json(self) -> Dict[str, Any]:
        """The report as the file has it; the numbers of the rows add up to ``objects``."""
        return {
            "data_set": self.data_set,
            "file": self.file,
            "objects": self.objects,
            "rows": [
                {"row": row, "which": reason, "objects": found.objects, "first": found.first}
                for (row, reason), found in self._sorted_rows()
            ],
            "filled_in": dict(self.filled_in),
        }

    def _sorted_rows(self) -> List[Tuple[Tuple[str, str], _Row]]:
        return sorted(self.rows.items(), key=lambda item: (ROWS.index(item[0][0]), item[0][1]))


def write_data_report(output_dir: PathLike, purpose: str, reports: Sequence[DataReport]) -> None:
    """Put reports into ``data_report.json``, in place of those of the same purpose.

    Of several processes, the main one writes.

    Raises:
        OSError: when the folder cannot be written.
    """
    if not comm.is_main_process():
        return
    path = Path(output_dir) / REPORT_FILE
    try:
        content = {k: v for k, v in read_json(path).items() if k in (TRAINING, EVALUATION)}
    except (ValueError, AttributeError):  # there is none yet, or one that is broken
        content = {}
    content[purpose] = [report.as_json() for report in reports]
    write_json(path, content)
