"""Models with random weights that find as much as trained ones do, and images for them."""

from pathlib import Path
from typing import Any, Dict, List, Sequence

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn

from ..engine.predictor import build_predictor
from ..files import written_atomically

_NOISE = 32  # pixels of the image between the points of its noise


def noise_photographs(number: int, height: int, width: int, seed: int = 0) -> List[np.ndarray]:
    """Smooth coloured noise with a little grain: (height, width, 3) uint8 each."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(number):
        coarse = rng.uniform(0, 255, (height // _NOISE + 1, width // _NOISE + 1, 3))
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        grain = rng.normal(0, 8, (height, width, 3))
        images.append((smooth + grain).clip(0, 255).astype(np.uint8))
    return images


def some_boxes(number: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """(number, 4) x0, y0, x1, y1 inside an image; sides from a twentieth to a half of it."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(0.05), np.log(0.5), (number, 2))) * [width, height]
    start = rng.uniform(0, 1, (number, 2)) * ([width, height] - sides)
    return np.concatenate([start, start + sides], axis=1)


@torch.no_grad()
def write_untrained(cfg: CfgNode, image: np.ndarray, path: Path) -> None:
    """Write a checkpoint of random weights with which a detector finds objects in an image.

    The last layers are scaled, so that scores, boxes and masks spread as those of a trained model;
    untrained, all scores would be one number, and rounding would decide which objects there are.

    Args:
        cfg: of a detector with our RoI heads, without ``MODEL.WEIGHTS``.
        image: (H, W, 3) uint8.
        path: of the checkpoint.
    """
    torch.manual_seed(0)
    predictor = build_predictor(cfg)
    model, heads = predictor.model, predictor.model.roi_heads
    rpn = model.proposal_generator.rpn_head
    # Deltas of the box head are tenths and fifths of a box's sides, those of the RPN whole ones.
    spreads = [(rpn.objectness_logits, 2.0), (rpn.anchor_deltas, 0.2)]
    spreads += [(heads.box_predictor.cls_score, 4.0), (heads.box_predictor.bbox_pred, 0.5)]
    for layer, spread in spreads:
        outputs: List[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda _m, _i, out, to=outputs: to.append(out.detach()))
        predictor(image)
        hook.remove()
        # One row for each output of the layer: (classes, places).
        rows = torch.cat([x.transpose(0, 1).flatten(1) for x in outputs], dim=1)
        _scale(layer, rows, spread)
    logits: List[torch.Tensor] = []
    head_logits = heads.mask_head.logits

    def noted(*arguments: Any) -> torch.Tensor:
        logits.append(head_logits(*arguments))
        return logits[-1]

    heads.mask_head.logits = noted
    predictor(image)
    del heads.mask_head.logits
    parts = [heads.weight_transfer, heads.mask_head.mlp]
    factor = 2.0 / float(torch.cat(logits).std())
    for part in (x for x in parts if x is not None):
        last = [m for m in part.modules() if isinstance(m, nn.Linear)][-1]
        last.weight.mul_(factor)
        if last.bias is not None:
            last.bias.mul_(factor)
    with written_atomically(path, "wb") as f:
        torch.save({"model": model.state_dict()}, f)


def _scale(layer: nn.Module, rows: torch.Tensor, spread: float) -> None:
    """Give a linear layer outputs of mean 0, and of a standard deviation on the whole."""
    rows = rows - layer.bias[:, None]
    factor = spread / float(rows.std(dim=1).mean())
    layer.weight.mul_(factor)
    layer.bias.copy_(-rows.mean(dim=1) * factor)


def found_by(model: nn.Module, inputs: Dict[str, Any], given: Any = None) -> Dict[str, Any]:
    """What a model finds in an input, or makes of boxes: arrays before postprocessing."""
    given = None if given is None else [given]
    with torch.no_grad():
        (found,) = model.inference([inputs], given, do_postprocess=False)
    found = found.to("cpu")
    return {
        "boxes": found.pred_boxes.tensor.numpy(),
        "classes": found.pred_classes.numpy(),
        "scores": found.scores.numpy(),
        "size": tuple(inputs["image"].shape[-2:]),
        "masks": found.pred_masks.float().numpy()[:, 0],
    }


def largest_differences(mine: Sequence[Any], others: Sequence[Any]) -> Dict[str, float]:
    """How far what a model found is from what another one found in the same images.

    Args:
        mine, others: of :func:`found_by`, an image each.

    Returns:
        ``matched``: share of the others' objects that have one of the same class here whose box
        overlaps it by 0.9 and more (IoU); ``score_difference`` and ``mask_difference``: the largest
        of the scores and of the probabilities of masks of these.
    """
    count, matched, score, mask = 0, 0, 0.0, 0.0
    for a, b in zip(mine, others):
        count += len(b["boxes"])
        if not len(a["boxes"]) or not len(b["boxes"]):
            continue
        low = np.maximum(a["boxes"][None, :, :2], b["boxes"][:, None, :2])
        high = np.minimum(a["boxes"][None, :, 2:], b["boxes"][:, None, 2:])
        inside = (high - low).clip(min=0).prod(2)
        areas = [(x["boxes"][:, 2:] - x["boxes"][:, :2]).prod(1) for x in (a, b)]
        iou = inside / np.maximum(areas[0][None] + areas[1][:, None] - inside, 1e-9)
        iou = iou * (a["classes"][None] == b["classes"][:, None])
        best = iou.argmax(axis=1)
        same = np.flatnonzero(iou.max(axis=1) >= 0.9)
        matched += len(same)
        if len(same):
            score = max(score, float(abs(a["scores"][best[same]] - b["scores"][same]).max()))
            mask = max(mask, float(abs(a["masks"][best[same]] - b["masks"][same]).max()))
    share = matched / max(count, 1)
    return {"matched": share, "score_difference": score, "mask_difference": mask}
