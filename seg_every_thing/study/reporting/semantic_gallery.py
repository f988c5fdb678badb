"""Pictures of what the rows of a semantic table predict, beside the image and its labels."""

from pathlib import Path
from typing import Sequence, Tuple

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog

from ...data.images import read_image
from ...data.labels import read_label
from ...data.picture_files import save_picture
from ...files import make_output_dir
from ...visualization.gallery import GalleryItem, write_gallery
from ...visualization.label_maps import class_colors_of, color_map, enlarged
from ...visualization.panels import side_by_side
from .report import results_by


def write_semantic_gallery(
    output: Path,
    title: str,
    dataset_name: str,
    rows: Sequence[Tuple[str, Path]],
    table: Tuple[Sequence[str], Sequence[Sequence[str]]],
    num_images: int = 12,
) -> Path:
    """Draw image, labels and each row's prediction side by side.

    Args:
        output: folder; ``index.html`` and the pictures go there.
        title: of the page.
        dataset_name: evaluated data set, with semantic labels.
        rows: what a reader calls each row, and its ``sem_seg_predictions.json``.
        table: headers and cells, to stand over the pictures.
        num_images: pictures to draw, evenly spread over the data set.

    Returns:
        The path of the page.
    """
    metadata = MetadataCatalog.get(dataset_name)
    void = metadata.ignore_label
    named = class_colors_of(dataset_name, len(metadata.stuff_classes))
    colors = list(named.values())
    predictions = [(name, results_by("file_name", path)) for name, path in rows]
    records = DatasetCatalog.get(dataset_name)
    chosen = np.linspace(0, len(records) - 1, min(num_images, len(records))).round().astype(int)
    make_output_dir(output)
    items = []
    for k in chosen:
        record = records[k]
        image, label = read_image(record["file_name"]), read_label(record["sem_seg_file_name"])
        panels = [("image", enlarged(image)), ("labels", enlarged(color_map(label, colors)))]
        for name, by_image in predictions:
            found = np.full(label.shape, void, np.uint8)
            for segment in by_image[record["file_name"]]:
                mask = mask_util.decode(segment["segmentation"]).astype(bool)
                found[mask] = segment["category_id"]
            panels.append((name, enlarged(color_map(found, colors))))
        file = f"{k:05d}.png"
        save_picture(output / file, side_by_side(panels))
        items.append(GalleryItem(file, str(record["image_id"])))
    page = output / "index.html"
    write_gallery(
        *(page, title, f"Predictions on {dataset_name}.", items, table),
        colors={**named, "void": (0, 0, 0)},
    )
    return page
