"""A table of a study, as data."""

from dataclasses import dataclass, field
from typing import Mapping, Tuple

from .rows import Row

Claim = Tuple[str, str, str]
"""(better row, worse row, "B" or "A", or "" for all classes): an ordering to be tested."""


@dataclass(frozen=True)
class Table:
    """A table of the paper: its rows, and what is read off it.

    Attributes:
        title: of the table.
        rows: from top to bottom.
        claims: orderings that the paper reports.
        unharmed: (row, baseline) of which the paper finds that set A does not suffer.
        ours: orderings to test for rows that the paper does not have.
        metrics: where there are no sets A and B: what the table shows, of a single direction.
        claimed: the metric of claims; those on a set add its name.
        gaps: row -> (low, high): the share of the gap between these two that it closes is shown.
        both_directions: names of the rows that are run in both directions; () = all.
        ceilings: strides at which the table shows what the labels themselves are worth.
    """

    title: str
    rows: Tuple[Row, ...]
    claims: Tuple[Claim, ...] = ()
    unharmed: Tuple[Tuple[str, str], ...] = ()
    ours: Tuple[Claim, ...] = ()
    metrics: Tuple[str, ...] = ()
    claimed: str = "segm/AP"
    gaps: Mapping[str, Tuple[str, str]] = field(default_factory=dict)
    both_directions: Tuple[str, ...] = ()
    ceilings: Tuple[int, ...] = ()
