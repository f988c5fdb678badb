"""What was decided on a review page: the file that it downloads."""

from typing import Any, Dict, Optional, Union

from ..data.segmentations import shortened
from ..files import PathLike, printable, read_json
from .tables_on_disk import id_key

ACCEPT = "accept"
REJECT = "reject"


def read_decisions(path: PathLike, source: Optional[str] = None) -> Dict[str, str]:
    """Read a file of decisions.

    Args:
        path: JSON: {"version": 1, "source": digest, "decisions": {annotation id: decision}}.
        source: digest of the run that the decisions must be of, as :func:`write_review` got it;
            None = any.

    Returns:
        Annotation id, as text, -> ACCEPT or REJECT, in the order of the file.

    Raises:
        ValueError: for anything else; the message names the file.
    """
    content = read_json(path)
    name = f"'{printable(path)}'"
    decisions: Any = content.get("decisions") if isinstance(content, dict) else None
    if not isinstance(decisions, dict) or content.get("version") != 1:
        raise ValueError(
            f"{name} is no file of decisions of version 1: download it from the review page"
        )
    if source is not None and content.get("source") != source:
        raise ValueError(
            f"the decisions in {name} are of another run: review the page of this one, or apply "
            f"them to the file they were made for"
        )
    for key, decision in decisions.items():
        if decision not in (ACCEPT, REJECT):
            raise ValueError(
                f"{name}: the decision on object {shortened(key)} is {shortened(decision)}: write "
                f"'{ACCEPT}' or '{REJECT}'"
            )
    return decisions


def decision_key(own_id: Union[int, float, str]) -> str:
    """What decisions call an object: its id as the page's JavaScript writes it, 1 for 1.0."""
    return own_id if isinstance(own_id, str) else id_key(own_id)
