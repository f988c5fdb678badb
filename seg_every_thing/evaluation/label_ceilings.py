"""What coarse scores are worth: the labels themselves, made coarse and fine again.

No strict bound: a network chooses its scores, and may place an edge better than averages do.
"""

from typing import Any, Dict, List, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from torch.nn import functional as F

from ..data.labels import read_label
from .semantic import segmentation_metrics


def coarsened(label: torch.Tensor, num_classes: int, void: int, stride: int) -> torch.Tensor:
    """Labels after one-hot coding, averaging over cells, bilinear upsampling and arg max.

    As the FCN paper's upper bounds on mean IU ("Upper bounds on IU", arXiv 1411.4038, appendix A).

    Args:
        label: (H, W) class indices.
        num_classes: K.
        void: label of void pixels, which have no share in any cell.
        stride: side of a cell, in pixels.

    Returns:
        (H, W) class indices.
    """
    height, width = label.shape
    padding = (0, -width % stride, 0, -height % stride)
    classes = torch.where(label == void, num_classes, label)
    classes = F.pad(classes, padding, value=num_classes)
    shares = F.one_hot(classes, num_classes + 1)[..., :num_classes].permute(2, 0, 1).float()[None]
    cells = F.avg_pool2d(shares, stride)
    fine = F.interpolate(cells, scale_factor=stride, mode="bilinear", align_corners=False)
    return fine[0].argmax(0)[:height, :width]


def label_ceilings(cfg: CfgNode, strides: Sequence[int]) -> Dict[int, Dict[str, float]]:
    """Metrics of coarsened labels of ``DATASETS.TEST``, at the size at which the model sees images.

    Args:
        cfg: names a data set with semantic labels, and the size of test images.
        strides: in pixels of the model's input.

    Returns:
        Stride -> :func:`segmentation_metrics`.
    """
    (name,) = cfg.DATASETS.TEST
    metadata = MetadataCatalog.get(name)
    num_classes, void = len(metadata.stuff_classes), metadata.ignore_label
    resize = T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    confusions: List[Any] = [np.zeros((num_classes, num_classes), np.int64) for _ in strides]
    for record in DatasetCatalog.get(name):
        label = read_label(record["sem_seg_file_name"])
        label = resize.get_transform(label).apply_segmentation(label)
        truth = torch.from_numpy(label.astype(np.int64))
        valid = truth != void
        for stride, confusion in zip(strides, confusions):
            found = coarsened(truth, num_classes, void, stride)
            pairs = truth[valid] * num_classes + found[valid]
            counts = torch.bincount(pairs, minlength=num_classes**2)
            confusion += counts.reshape(num_classes, num_classes).numpy()
    return {s: segmentation_metrics(c) for s, c in zip(strides, confusions)}
