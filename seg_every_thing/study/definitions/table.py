"""A table of a study, as data."""

from dataclasses import dataclass
from typing import Tuple

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
        claimed: the metric of claims without a set.
        ceilings: strides at which the table shows what the labels themselves are worth.
    """

    title: str
    rows: Tuple[Row, ...]
    claims: Tuple[Claim, ...] = ()
    unharmed: Tuple[Tuple[str, str], ...] = ()
    ours: Tuple[Claim, ...] = ()
    metrics: Tuple[str, ...] = ()
    claimed: str = "segm/AP"
    ceilings: Tuple[int, ...] = ()
