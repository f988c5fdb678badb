"""A CRF as the last step of a model's inference (``TEST.CRF``)."""

import functools
from typing import Any, Callable, Dict, List, Optional

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, SemanticSegmentor
from detectron2.structures import Instances
from torch import nn
from torch.nn import functional
from torchvision.ops import roi_align

from .mask_geometry import EnlargedROIMasks, cells_inside, enlarged
from .mean_field import MeanField

SIDE = 56
"""Cells of a box in each direction; the mask has as many afterwards."""
MARGIN = 14
"""Cells around the box, which are background for sure."""


def with_crf(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """Let the inference of a model end with :class:`MeanField`, where ``TEST.CRF`` says so.

    Args:
        cfg: of the model.
        model: a ``SemanticSegmentor``, or one with the ``inference`` of ``GeneralizedRCNN``;
            changed in place.

    Returns:
        The model.

    Raises:
        ValueError: for a model that has neither masks of boxes nor labels of pixels.
    """
    if not cfg.TEST.CRF:
        return model
    mean_field = MeanField(cfg)
    if isinstance(model, SemanticSegmentor):
        model.register_forward_hook(functools.partial(_refine_labels, mean_field))
    elif cfg.MODEL.MASK_ON and hasattr(model, "inference"):
        model.inference = functools.partial(_refined_inference, mean_field, model.inference)
    else:
        raise ValueError(
            f"TEST.CRF True sharpens masks and labels of pixels, and MODEL.META_ARCHITECTURE "
            f"'{cfg.MODEL.META_ARCHITECTURE}' with MODEL.MASK_ON {cfg.MODEL.MASK_ON} gives neither"
        )
    return model


def _refined_inference(
    mean_field: MeanField,
    inference: Callable[..., List[Instances]],
    batched_inputs: List[Dict[str, Any]],
    detected_instances: Optional[List[Instances]] = None,
    do_postprocess: bool = True,
) -> Any:
    """As ``GeneralizedRCNN.inference``, which is the second argument."""
    found = inference(batched_inputs, detected_instances, do_postprocess=False)
    for x, instances in zip(batched_inputs, found):
        refine_masks(mean_field, x["image"], instances)
    if not do_postprocess:
        return found
    return GeneralizedRCNN._postprocess(found, batched_inputs, [x.image_size for x in found])


def refine_masks(mean_field: MeanField, image: torch.Tensor, instances: Instances) -> None:
    """Refine the masks of an image's instances, in place.

    A mask is seen in its box and a quarter of the box around it, in cells of a 56th of its sides.

    Args:
        mean_field: with lengths in these cells.
        image: (C, H, W), values of 0 to 255, what the model sees.
        instances: before postprocessing, with ``pred_boxes``, and ``pred_masks`` (N, 1, M, M) on
            them or as :class:`EnlargedROIMasks`.  Where they have no masks (test-time augmentation
            looks for boxes first), nothing is done.
    """
    if len(instances) == 0 or not instances.has("pred_masks"):
        return
    masks, boxes, margin = instances.pred_masks, instances.pred_boxes.tensor, MARGIN
    free = isinstance(masks, EnlargedROIMasks)
    if free:  # such masks may leave their boxes, and there is something to see around these
        boxes, masks, margin = enlarged(boxes, masks.scale), masks.tensor[:, None], 0
    masks = functional.interpolate(
        masks.float(), size=(SIDE, SIDE), mode="bilinear", align_corners=False
    )
    masks = functional.pad(masks, (margin,) * 4)
    rois = enlarged(boxes, (SIDE + 2 * margin) / SIDE).float()
    image = image.to(device=rois.device, dtype=torch.float32)[None]
    crops = roi_align(image, [rois], masks.shape[-2:], sampling_ratio=0, aligned=True)
    height, width = image.shape[-2:]
    shown = cells_inside(rois, height, width, masks.shape[-2:])
    refined = mean_field.masks(masks, crops, shown)
    refined = refined[..., margin : margin + SIDE, margin : margin + SIDE]
    instances.pred_masks = (
        EnlargedROIMasks(refined[:, 0], instances.pred_masks.scale) if free else refined
    )


def _refine_labels(
    mean_field: MeanField, model: nn.Module, args: Any, outputs: List[Dict[str, torch.Tensor]]
) -> Any:
    """A forward hook: scores of pixels become log-probabilities that the CRF has refined."""
    if model.training:
        return None
    (batched_inputs,) = args
    refined = []
    for x, output in zip(batched_inputs, outputs):
        scores = output["sem_seg"]
        image = x["image"].to(device=scores.device, dtype=torch.float32)[None]
        image = functional.interpolate(
            image, size=scores.shape[-2:], mode="bilinear", align_corners=False
        )
        refined.append({**output, "sem_seg": mean_field(scores[None], image)[0]})
    return refined
