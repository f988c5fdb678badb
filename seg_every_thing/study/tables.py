"""Tables of a study as Markdown: what a reader of the paper recognises."""

from typing import Any, Dict, List, Mapping, Sequence

from .paper import LABEL, paper_values
from .report import text_table
from .results import METRICS, spread
from .suites import Suite
from .table import Table


def cell(spread: Mapping[str, Any]) -> str:
    """``mean ± standard deviation``, or the value of a single seed."""
    if spread["std"] is None:
        return f"{spread['mean']:.1f}"
    return f"{spread['mean']:.1f} ± {spread['std']:.1f}"


def ablation_table(
    suite: Suite, key: str, table: Table, summary: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> str:
    """Tables 1a to 1d: mask AP on set B and set A, in both directions."""
    headers = ["mask AP"]
    for direction in suite.directions:
        headers += [f"{direction.title}: B", f"{direction.title}: A"]
        if suite.name == "coco":
            headers.append(f"B | A, {LABEL}")
    rows = []
    for row in table.rows:
        cells = [row.title]
        for i, direction in enumerate(suite.directions):
            found = summary.get(row.name, {}).get(direction.split, {})
            cells += [_or_dash(found, f"segm/AP_{s}") for s in "BA"]
            if suite.name == "coco":
                values = paper_values(key, row.name, i)
                pair = (values.get("segm/AP_B"), values.get("segm/AP_A"))
                cells.append(f"{pair[0]} | {pair[1]}".replace("|", "\\|") if values else "-")
        rows.append(cells)
    return text_table(headers, rows)


def plain_table(
    suite: Suite, key: str, table: Table, summary: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> str:
    """Tables without sets A and B: the metrics that the table names."""
    split = suite.directions[0].split
    rows = [
        [row.title, *(_or_dash(summary.get(row.name, {}).get(split, {}), m) for m in table.metrics)]
        for row in table.rows
    ]
    return text_table(["", *table.metrics], rows)


def metrics_table(
    suite: Suite, key: str, table: Table, summary: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> str:
    """Table 2: every metric on set B, and AP on set A and of boxes, for one direction a block."""
    headers = ["direction", "mask AP on B", *METRICS, "AP on A", "box AP"]
    rows: List[List[str]] = []
    for i, direction in enumerate(suite.directions):
        for row in table.rows:
            found = summary.get(row.name, {}).get(direction.split, {})
            names = [*(f"segm/{m}_B" for m in METRICS), "segm/AP_A", "bbox/AP"]
            rows.append([direction.title, row.title, *(_or_dash(found, n) for n in names)])
            values = paper_values(key, row.name, i) if suite.name == "coco" else {}
            if values:
                cells = [str(values.get(n, "-")) for n in names]
                rows.append([direction.title, f"{row.title}, {LABEL}", *cells])
    return text_table(headers, rows)


def _or_dash(found: Mapping[str, Mapping[str, Any]], name: str) -> str:
    return cell(found[name]) if name in found else "-"


def orderings_table(found: Sequence[Mapping[str, Any]]) -> str:
    """Each ordering, who reports it, the measured difference, and whether it holds."""
    rows = [
        [x["claim"], x["source"], x["direction"], _signed(x["difference"]), x["verdict"]]
        for x in found
    ]
    return text_table(["ordering", "of", "direction", "difference in AP", "here"], rows)


def _signed(spread: Mapping[str, Any]) -> str:
    text = f"{spread['mean']:+.1f}"
    return text if spread["std"] is None else f"{text} ± {spread['std']:.1f}"


def figure_3_table(points: Sequence[Mapping[str, Any]]) -> str:
    """Figure 3 in numbers: one line a size of set A."""
    by_size: Dict[int, List[Mapping[str, Any]]] = {}
    for point in points:
        by_size.setdefault(point["num_classes"], []).append(point)
    rows = []
    for size, group in sorted(by_size.items()):
        gains = [p["relative_gain"] for p in group if p["relative_gain"] is not None]
        columns = [
            [p["masks_per_class"] for p in group],
            [p["class_agnostic"] for p in group],
            [p["transfer"] for p in group],
            gains,
        ]
        rows.append([str(size), str(len(group)), *(cell(spread(c)) if c else "-" for c in columns)])
    headers = ["classes in A", "runs", "masks a class", "class-agnostic, B", "transfer, B"]
    return text_table([*headers, "relative gain in %"], rows)


def diagnostics_table(found: Mapping[str, Any]) -> str:
    """Set B classes, the largest gain first."""
    rows = [
        [
            x["class"],
            ", ".join(f"{name} ({similarity:.2f})" for name, similarity in x["neighbours"]),
            *(f"{x[k]:.1f}" for k in ("class_agnostic", "transfer")),
            f"{x['gain']:+.1f}",
        ]
        for x in sorted(found["classes"], key=lambda x: -x["gain"])
    ]
    headers = ["class of B", "nearest of A (cosine)", "class-agnostic", "transfer", "gain"]
    return text_table(headers, rows)
