"""Tables of a study as Markdown: what a reader of the paper recognises."""

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ..definitions.paper import LABEL, paper_rows, paper_values
from ..definitions.rows import Row
from ..definitions.suites import Suite
from ..definitions.table import Table
from .report import COLUMNS, text_table
from .results import METRICS, directions_of, gap_closed, spread

_NAMES = {
    "segm/AP": "mask AP",
    "segm/AP50": "mask AP50",
    "segm/AP75": "mask AP75",
    "bbox/AP": "box AP",
    "sem_seg/pixel_acc": "pixel acc",
    "sem_seg/mean_acc": "mean acc",
    "sem_seg/mean_IU": "mean IU",
    "sem_seg/fw_IU": "f.w. IU",
}


def cell(spread: Mapping[str, Any]) -> str:
    """``mean ± standard deviation``, or the value of a single seed."""
    if spread["std"] is None:
        return f"{spread['mean']:.1f}"
    return f"{spread['mean']:.1f} ± {spread['std']:.1f}"


def seeds_table(
    rows: Sequence[Row], metrics: Sequence[Mapping[str, Mapping[str, float]]]
) -> Tuple[List[str], List[List[str]]]:
    """Headers and cells of the quickstart's table over the metrics (row, name) of several seeds."""
    headers = ["", *(title for _, title in COLUMNS)]
    return headers, [
        [row.title, *(cell(spread([m[row.name][key] for m in metrics])) for key, _ in COLUMNS)]
        for row in rows
    ]


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


_GIVEN_COLUMNS = {
    "mIoU": "given/mIoU",
    "mIoU, fit": "given_fit/mIoU",
    "> .75": "given/IoU75",
    "> .75, fit": "given_fit/IoU75",
    "boundary": "given/boundary_IoU",
}
_FOUND_COLUMNS = {
    f"{s} {kind} AP": f"{task}/AP_{s}"
    for s in "BA"
    for kind, task in (("mask", "segm"), ("box", "bbox"))
}


def given_boxes_table(
    suite: Suite, key: str, table: Table, summary: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> str:
    """Masks at given boxes, a block a direction, and the shares of the gap that are closed.

    Where rows find boxes themselves, also their AP.
    """
    found_columns = _FOUND_COLUMNS if any(row.on_detector for row in table.rows) else {}
    blocks = []
    for direction in suite.directions:
        split = direction.split
        shares = [
            gap_closed(table, summary, split, f"{metric}_B")
            for metric in ("given/mIoU", "given_fit/mIoU", "given/IoU75")
        ]
        rows = []
        for row in table.rows:
            found = summary.get(row.name, {}).get(split)
            if found:
                cells = [_or_dash(found, f"{name}_B") for name in _GIVEN_COLUMNS.values()]
                closed = [
                    f"{share[row.name]:.0f} %" if row.name in share else "" for share in shares
                ]
                on_a = [_or_dash(found, f"given{fit}/mIoU_A") for fit in ("", "_fit")]
                on_a += [_or_dash(found, name) for name in found_columns.values()]
                rows.append([row.title, *cells, " / ".join(closed) if any(closed) else "", *on_a])
        headers = [
            direction.title,
            *(f"B {name}" for name in _GIVEN_COLUMNS),
            "gap closed (mIoU / fit / > .75)",
            *("A mIoU", "A mIoU, fit", *found_columns),
        ]
        blocks.append(text_table(headers, rows))
    return "\n\n".join(blocks)


def plain_table(
    suite: Suite, key: str, table: Table, summary: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> str:
    """Tables without sets A and B, and under them what the paper has."""
    headers, rows = plain_cells(suite, table, summary)
    for title, values in paper_rows(key).items():
        rows.append([title, *(str(values.get(metric, "-")) for metric in table.metrics)])
    return text_table(headers, rows)


def plain_cells(
    suite: Suite, table: Table, summary: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> Tuple[List[str], List[List[str]]]:
    """Headers and cells of the metrics that the table names."""
    split = directions_of(suite, table)[0].split
    rows = [
        [row.title, *(_or_dash(summary.get(row.name, {}).get(split, {}), m) for m in table.metrics)]
        for row in table.rows
    ]
    return ["", *(_NAMES.get(metric, metric) for metric in table.metrics)], rows


def ceilings_table(ceilings: Mapping[int, Mapping[str, float]], metrics: Sequence[str]) -> str:
    """What the labels themselves are worth at each stride."""
    names = [metric.split("/")[1] for metric in metrics]
    rows = [[str(s), *(f"{found[n]:.1f}" for n in names)] for s, found in ceilings.items()]
    headers = ["labels at stride", *(_NAMES.get(metric, metric) for metric in metrics)]
    return text_table(headers, rows)


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
    with_sets = any(x["direction"] for x in found)
    rows = [
        [
            *(x["claim"], x["source"], *([x["direction"]] if with_sets else [])),
            *(_signed(x["difference"]), x["verdict"]),
        ]
        for x in found
    ]
    metrics = {x["metric"] for x in found}
    unit = {"sem_seg": "mean IU", "given": "mean IoU"}.get(min(metrics).split("/")[0], "AP")
    directions = ["direction"] if with_sets else []
    return text_table(["ordering", "of", *directions, f"difference in {unit}", "here"], rows)


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
