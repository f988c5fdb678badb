"""Is a comparison fair?  In which keys do two rows differ, and in no others."""

from typing import Any, Dict, List

from detectron2.config import CfgNode

from ...config_words import flatten
from .rows import Row

# Of the run, not of the row.
_NOT_OF_THE_ROW = ("OUTPUT_DIR", "SEED")


def differences(cfg: CfgNode, baseline: CfgNode) -> Dict[str, List[Any]]:
    """Dotted key -> [value of the baseline, value of the row], where the two differ."""
    one, other = flatten(cfg), flatten(baseline)
    return {
        key: [other[key], one[key]]
        for key in one
        if one[key] != other[key] and key not in _NOT_OF_THE_ROW
    }


def check_changes(row: Row, cfg: CfgNode, baseline: CfgNode) -> Dict[str, List[Any]]:
    """The differences of a row to its baseline, which must be those that the row declares.

    Raises:
        ValueError: naming the keys that differ undeclared, or are declared and do not differ.
    """
    found = differences(cfg, baseline)
    undeclared = sorted(set(found) - set(row.changes))
    missing = sorted(set(row.changes) - set(found))
    if undeclared or missing:
        parts = [f"differs in {', '.join(undeclared)}"] if undeclared else []
        parts += [f"does not differ in {', '.join(missing)}"] if missing else []
        raise ValueError(
            f"row '{row.name}' is no fair comparison with '{row.baseline}': it "
            f"{' and '.join(parts)}; is one of these keys among the overrides for every row?"
        )
    return found
