"""Whether an output is there already, and whose it is."""

import logging
from typing import Any, Dict, Optional

from ..files import file_digest, printable, read_json
from .options import Options

logger = logging.getLogger(__name__)


def finished_report(options: Options, fingerprint: str) -> Optional[Dict[str, Any]]:
    """The report of an output that is what a run would write; None where it is to be written.

    Args:
        options: of the run.
        fingerprint: of what the run is.

    Raises:
        ValueError: when there is an output that is not this program's, or was changed.
    """
    if not options.output.exists():
        return None
    report = read_json(options.report_file) if options.report_file.exists() else {}
    digest = file_digest(options.output)
    known = (report.get("sha256"), report.get("replaces")) if isinstance(report, dict) else ()
    if digest not in known:
        raise ValueError(
            f"'{printable(options.output)}' exists, and was not written by annotate or was changed "
            f"since: give another --output, or remove it"
        )
    if report.get("fingerprint") == fingerprint and digest == report["sha256"]:
        return report
    logger.info("'%s' is of another run: it is replaced", printable(options.output))
    return None


def replaced_digest(options: Options) -> Optional[str]:
    """Digest of the output that is about to be replaced; the report keeps it.

    The report is written before the output, and a run may be killed in between.
    """
    return file_digest(options.output) if options.output.exists() else None
