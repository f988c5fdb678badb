"""Graphs of tensors behind the interface of detectron2's models."""

import abc
from typing import Any, Dict, List, Optional, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from torch import nn

from ..modeling.box_to_mask import boxes_of
from ..modeling.mask_geometry import EnlargedROIMasks
from .checks import finds_boxes


class ExportedModel(nn.Module, abc.ABC):
    """What ``inference`` of :class:`GeneralizedRCNN` gives, image by image, from other programs.

    A subclass says how to find objects, and masks of boxes, in an image.
    """

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: of the model that was exported.
        """
        super().__init__()
        self.finds_boxes = finds_boxes(cfg)
        self.device = torch.device("cpu")
        head = cfg.MODEL.ROI_MASK_HEAD
        self._scale = 1.0 if head.CLIP_TO_BOX else head.BOX_SCALE

    @abc.abstractmethod
    def detected(self, image: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """Boxes (N, 4), scores (N,), classes (N,), masks (N, M, M) of a float image (3, H, W)."""

    @abc.abstractmethod
    def prompted(
        self, image: torch.Tensor, boxes: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        """Masks (N, M, M) of boxes (N, 4) of classes (N,) in a float image (3, H, W)."""

    def forward(self, batched_inputs: List[Dict[str, Any]]) -> Any:
        """As in ``GeneralizedRCNN``."""
        return self.inference(batched_inputs)

    @torch.no_grad()
    def inference(
        self,
        batched_inputs: List[Dict[str, Any]],
        detected_instances: Optional[List[Instances]] = None,
        do_postprocess: bool = True,
    ) -> Any:
        """As in ``GeneralizedRCNN``, and in :class:`~seg_every_thing.BoxToMask` for its exports.

        Raises:
            ValueError: where a model that finds no boxes gets none.
        """
        if detected_instances is None and not self.finds_boxes:
            detected_instances = [boxes_of(x) for x in batched_inputs]
        found = []
        for i, x in enumerate(batched_inputs):
            image = x["image"].to(self.device, torch.float32)
            given = None if detected_instances is None else detected_instances[i]
            found.append(self._of_image(image, given))
        if not do_postprocess:
            return found
        return GeneralizedRCNN._postprocess(found, batched_inputs, [x.image_size for x in found])

    def _of_image(self, image: torch.Tensor, given: Optional[Instances]) -> Instances:
        if given is None:
            boxes, scores, classes, masks = self.detected(image)
            found = Instances((image.shape[1], image.shape[2]), scores=scores, pred_classes=classes)
            found.pred_boxes = Boxes(boxes)
        else:
            found = given.to(self.device)
            masks = self.prompted(image, found.pred_boxes.tensor, found.pred_classes)
        free = self._scale > 1
        found.pred_masks = EnlargedROIMasks(masks, self._scale) if free else masks[:, None]
        return found
