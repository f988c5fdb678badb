"""Whether an exported model gives what the model gives: seen before its files are in place."""

import logging
from typing import Any, Dict, List, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import nn

from ..modeling.mask_geometry import EnlargedROIMasks
from .checks import finds_boxes
from .graphs import boxes_in, noise

logger = logging.getLogger(__name__)

_SIZES = ((96, 131), (160, 112))  # of two images, neither as large as the one that is traced
_COUNTS = (0, 1, 8)  # of boxes
_SAME = 0.99  # IoU of boxes that are the same
_LOST = 0.05  # share of detections at the brink of a threshold: NMS decides otherwise for a ulp


@torch.no_grad()
def check_parity(cfg: CfgNode, model: nn.Module, exported: nn.Module, tolerance: float) -> None:
    """Compare masks of given boxes, and what a detector finds, in images of noise of two sizes.

    Args:
        cfg: of both.
        model: what was exported.
        exported: with the ``inference`` of ``GeneralizedRCNN``.
        tolerance: of scores and of probabilities of masks.

    Raises:
        RuntimeError: when they differ.
    """
    largest: Dict[str, float] = {}
    for size in _SIZES:
        image = noise(*size)
        for count in _COUNTS:
            given = boxes_in(*size, count, cfg.MODEL.ROI_HEADS.NUM_CLASSES)
            masks = [_prompted(each, image, *given) for each in (model, exported)]
            _check_near("masks of given boxes", masks, tolerance, largest)
        if finds_boxes(cfg):
            _check_detections(model, exported, image, tolerance, largest)
    logger.info(
        "On noise of two sizes it differs from the model by at most: %s",
        ", ".join(f"{what} {x:.1g}" for what, x in largest.items()),
    )


def _check_detections(
    model: nn.Module,
    exported: nn.Module,
    image: torch.Tensor,
    tolerance: float,
    largest: Dict[str, float],
) -> None:
    ours, theirs = _detected(model, image), _detected(exported, image)
    boxes, scores, classes, masks = ours
    same = pairwise_iou(Boxes(boxes), Boxes(theirs[0])) * (classes[:, None] == theirs[2])
    best, partner = same.max(dim=1) if same.shape[1] else (boxes.new_zeros(len(boxes)), None)
    found = best > _SAME
    most = max(len(boxes), len(theirs[0]))
    if most - int(found.sum()) > max(_LOST * most, 1):
        raise RuntimeError(
            f"the exported model finds {int(found.sum())} of {len(boxes)} boxes, "
            f"and {len(theirs[0])} in all"
        )
    if partner is not None:
        partner = partner[found]
        _check_near("scores", [scores[found], theirs[1][partner]], tolerance, largest)
        # Of boxes that differ in their last digits, at a level of features that may be another.
        pair = [masks[found], theirs[3][partner]]
        _check_near("masks of detections", pair, 10 * tolerance, largest)


def _detected(model: nn.Module, image: torch.Tensor) -> Tuple[torch.Tensor, ...]:
    (x,) = model.inference([{"image": image}], do_postprocess=False)
    return x.pred_boxes.tensor, x.scores, x.pred_classes, _plain(x.pred_masks)


def _prompted(
    model: nn.Module, image: torch.Tensor, boxes: torch.Tensor, classes: torch.Tensor
) -> torch.Tensor:
    given = Instances((image.shape[1], image.shape[2]), pred_classes=classes)
    given.pred_boxes = Boxes(boxes)
    (x,) = model.inference([{"image": image}], [given], do_postprocess=False)
    return _plain(x.pred_masks)


def _plain(masks: Any) -> torch.Tensor:
    return masks.tensor if isinstance(masks, EnlargedROIMasks) else masks[:, 0]


def _check_near(
    what: str, values: List[torch.Tensor], tolerance: float, largest: Dict[str, float]
) -> None:
    ours, theirs = values
    if ours.shape != theirs.shape:
        raise RuntimeError(
            f"the {what} of the exported model are {tuple(theirs.shape)}, not {tuple(ours.shape)}"
        )
    difference = (ours - theirs).abs().max().item() if ours.numel() else 0.0
    largest[what] = max(difference, largest.get(what, 0.0))
    if not difference <= tolerance:
        raise RuntimeError(
            f"the {what} of the exported model differ by up to {difference:.2g}: the format cannot "
            f"hold this model"
        )
