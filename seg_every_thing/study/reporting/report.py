"""What a person and a program get from the quickstart: a table, a gallery, results.json."""

import logging
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from tabulate import tabulate

from ...data.images import read_image
from ...data.picture_files import save_picture
from ...data.splits import resolve_class_split
from ...files import read_json
from ...visualization.drawing import draw_ground_truth, draw_instances
from ...visualization.gallery import GalleryItem, write_gallery
from ...visualization.panels import side_by_side
from ..definitions.rows import Row

logger = logging.getLogger(__name__)

COLUMNS: Sequence[Tuple[str, str]] = (
    ("segm/AP_B", "mask AP, B"),
    ("segm/AP_A", "mask AP, A"),
    ("segm/AP", "mask AP, all"),
    ("segm/AP_shared_B", "mask AP, B, shared boxes"),
    ("bbox/AP", "box AP, all"),
)


def recovery(
    rows: Dict[str, Dict[str, float]], name: str = "maskx", metric: str = "segm/AP_B"
) -> Optional[float]:
    """Share of the gap between class-agnostic and oracle that a row closes; None without a gap."""
    low, high = rows["class_agnostic"][metric], rows["oracle"][metric]
    return (rows[name][metric] - low) / (high - low) if high > low else None


def percent(share: Optional[float]) -> str:
    """A share of the gap for a reader."""
    return "(there is no gap)" if share is None else f"{100 * share:.0f} %"


def table_rows(
    rows: Sequence[Row], metrics: Dict[str, Dict[str, float]]
) -> Tuple[List[str], List[List[str]]]:
    """Headers and cells of the results table."""
    headers = ["", *(title for _, title in COLUMNS)]
    cells = [[r.title, *(f"{metrics[r.name][key]:.1f}" for key, _ in COLUMNS)] for r in rows]
    return headers, cells


def text_table(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """The table as Markdown, which a terminal shows well, too."""
    return tabulate(cells, headers=headers, tablefmt="pipe", disable_numparse=True)


def write_comparison_gallery(
    output: Path,
    dataset_name: str,
    split_name: str,
    rows: Sequence[Tuple[Row, Path]],
    intro: str,
    table: Tuple[List[str], List[List[str]]],
    num_images: int = 16,
    threshold: float = 0.5,
) -> Path:
    """Draw ground truth and the rows' predictions side by side.

    Args:
        output: folder; ``index.html`` and the pictures go there.
        dataset_name: evaluated data set.
        split_name: tells set A from set B.
        rows: with the COCO results file of each.
        intro: text over the table.
        table: headers and cells.
        num_images: pictures to draw, the first of the data set.
        threshold: lowest score to draw.

    Returns:
        The path of the page.
    """
    metadata = MetadataCatalog.get(dataset_name)
    names = metadata.thing_classes
    set_a = resolve_class_split(split_name, names).set_a
    ids = metadata.thing_dataset_id_to_contiguous_id
    predictions = [(row, results_by("image_id", results)) for row, results in rows]
    items = []
    output.mkdir(parents=True, exist_ok=True)
    for record in DatasetCatalog.get(dataset_name)[:num_images]:
        image = read_image(record["file_name"])
        panels = [("ground truth", draw_ground_truth(image, record, names, set_a))]
        for row, by_image in predictions:
            found = _instances(by_image[record["image_id"]], ids, image.shape[:2])
            drawn = draw_instances(image, found, names, set_a, threshold)
            panels.append((row.title, drawn))
        name = f"{record['image_id']:06d}.png"
        save_picture(output / name, side_by_side(panels))
        items.append(GalleryItem(name, f"image {record['image_id']}"))
    page = output / "index.html"
    write_gallery(page, "Mask^X R-CNN on Shapes", intro, items, table, with_sets=True)
    return page


def results_by(key: str, path: Path) -> Dict[Any, List[Dict[str, Any]]]:
    """The results of a JSON file by what names their image; an image without results has none."""
    grouped: Dict[Any, List[Dict[str, Any]]] = defaultdict(list)
    for result in read_json(path):
        grouped[result[key]].append(result)
    return grouped


def _instances(
    results: List[Dict[str, Any]], ids: Dict[int, int], size: Tuple[int, int]
) -> Instances:
    instances = Instances(size)
    boxes = torch.tensor([r["bbox"] for r in results]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.tensor([r["score"] for r in results])
    instances.pred_classes = torch.tensor([ids[r["category_id"]] for r in results]).long()
    masks = [mask_util.decode(r["segmentation"]).astype(bool) for r in results]
    instances.pred_masks = torch.from_numpy(np.stack(masks) if masks else np.zeros((0, *size)))
    return instances
