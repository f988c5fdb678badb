"""From dataset dicts to training samples when only some objects have masks."""

from typing import Any, Collection, Dict, List, Optional
from unittest import mock

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.structures import Boxes, Instances

from .annotations import box_as_sizes
from .boxes import read_box
from .images import check_image_size, preparing, read_image
from .partial import set_a_of
from .pseudo_masks import PseudoMasks
from .segmentations import usable_segmentation


class PartialSupervisionMapper(DatasetMapper):
    """detectron2's mapper for images whose objects have boxes, and some of them masks.

    Every object keeps its box.  The instances of a training sample carry, beside ``gt_boxes`` and
    ``gt_classes``, ``gt_masks`` for all N objects (empty where there is none) and ``gt_has_mask``,
    a bool tensor (N,) that says which of them the mask loss may use.  Polygons and RLE may stand
    side by side in an image.  The mask of an object whose class is outside set A is never read.
    With pseudo-masks there are ``gt_pseudo_masks``, uint8 (N, M, M) on ``gt_boxes``, and
    ``gt_has_pseudo``, a bool tensor (N,), too.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        mask_classes: Optional[Collection[int]] = None,
        pseudo_masks: Optional[PseudoMasks] = None,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            is_train: whether for training or inference.
            mask_classes: contiguous ids of the classes that may use their masks; None = all.
            pseudo_masks: of a teacher, for objects without a usable mask.
            kwargs: as for :class:`detectron2.data.DatasetMapper`.
        """
        super().__init__(is_train, **kwargs)
        self.mask_classes = None if mask_classes is None else frozenset(mask_classes)
        self.pseudo_masks = pseudo_masks

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> Dict[str, Any]:
        ret = super().from_config(cfg, is_train)
        if is_train and cfg.MODEL.MASK_ON:
            ret["mask_classes"] = set_a_of(cfg)
            ret["pseudo_masks"] = PseudoMasks.of_config(cfg)
        return ret

    def __call__(self, dataset_dict: Dict[str, Any]) -> Dict[str, Any]:
        """As in :class:`DatasetMapper`.

        Raises:
            FileNotFoundError: when the image is missing; the message names it.
            ValueError: when the image cannot be read, differs in size from its annotation or is too
                thin to be resized, or when a box, or a mask that is to be used, is malformed.
        """
        file_name, stock = dataset_dict["file_name"], utils.read_image

        def read(path: str, format: str) -> np.ndarray:
            # The values of a semantic map are no brightness.
            return (read_image if path == file_name else stock)(path, format)

        # DatasetMapper does not ask which reader to use.
        ours = mock.patch.multiple(utils, read_image=read, check_image_size=check_image_size)
        with preparing(file_name), ours:
            return super().__call__(dataset_dict)

    def _transform_annotations(
        self, dataset_dict: Dict[str, Any], transforms: Any, image_shape: Any
    ) -> None:
        annotations = [
            self._transformed(annotation, dataset_dict, transforms, image_shape)
            for annotation in dataset_dict.pop("annotations")
            if annotation.get("iscrowd", 0) == 0
        ]
        instances = utils.annotations_to_instances(
            annotations, image_shape, mask_format=self._format_for(annotations)
        )
        if self.use_instance_mask and annotations:
            instances.gt_has_mask = instances.gt_masks.nonempty()
            if self.pseudo_masks is not None:
                _add_pseudo_masks(instances, annotations, self.pseudo_masks.side)
            if self.recompute_boxes:
                self._tighten_boxes(instances, annotations)
        dataset_dict["instances"] = utils.filter_empty_instances(instances, by_mask=False)

    def _transformed(
        self,
        annotation: Dict[str, Any],
        dataset_dict: Dict[str, Any],
        transforms: Any,
        image_shape: Any,
    ) -> Dict[str, Any]:
        """The annotation after augmentation, with ``had_mask``: whether it came with a mask.

        And ``pseudo_mask``, where there are any: that of the object, or None.
        """
        box, original = annotation.get("bbox"), dict(annotation)  # the transform replaces it
        try:
            read_box(box_as_sizes(annotation))
            annotation = self._readable(annotation, dataset_dict)
            annotation["had_mask"] = len(annotation.get("segmentation", ())) > 0
            annotation = utils.transform_instance_annotations(
                annotation,
                transforms,
                image_shape,
                keypoint_hflip_indices=self.keypoint_hflip_indices,
            )
            if self.pseudo_masks is not None and not annotation["had_mask"]:
                annotation["pseudo_mask"] = self.pseudo_masks.moved(
                    dataset_dict, original, transforms, annotation["bbox"]
                )
        except (TypeError, ValueError) as e:
            raise ValueError(f"{dataset_dict['file_name']}, object with box {box}: {e}") from e
        if isinstance(annotation.get("segmentation"), np.ndarray):
            # Padding gets 255 from FixedSizeCrop: ignored in semantic maps, but no part of a mask.
            annotation["segmentation"] = annotation["segmentation"] == 1
        return annotation

    def _readable(self, annotation: Dict[str, Any], dataset_dict: Dict[str, Any]) -> Dict[str, Any]:
        """Drop what must not be read; give an object without a mask an empty list of polygons."""
        if not self.use_keypoint:
            annotation.pop("keypoints", None)
        segmentation = annotation.pop("segmentation", None)
        if self.use_instance_mask:
            allowed = self.mask_classes is None or annotation["category_id"] in self.mask_classes
            size = (dataset_dict["height"], dataset_dict["width"])
            annotation["segmentation"] = usable_segmentation(segmentation, size) if allowed else []
        return annotation

    def _format_for(self, annotations: List[Dict[str, Any]]) -> str:
        """Polygons where all masks of the image are polygons, else bit masks for all of them."""
        if any(isinstance(a.get("segmentation"), np.ndarray) for a in annotations):
            return "bitmask"
        return self.instance_mask_format

    @staticmethod
    def _tighten_boxes(instances: Instances, annotations: List[Dict[str, Any]]) -> None:
        """After a crop, objects with a mask get its box; box-only objects keep their clipped box.

        Where nothing of a mask is left, its box has no area, and the object goes.
        """
        had_mask = torch.tensor([a["had_mask"] for a in annotations])
        tight = instances.gt_masks.get_bounding_boxes().tensor
        boxes = torch.where(had_mask[:, None], tight, instances.gt_boxes.tensor)
        instances.gt_boxes = Boxes(boxes)


def _add_pseudo_masks(instances: Instances, annotations: List[Dict[str, Any]], side: int) -> None:
    masks = torch.zeros(len(annotations), side, side, dtype=torch.uint8)
    has_pseudo = torch.zeros(len(annotations), dtype=torch.bool)
    for i, annotation in enumerate(annotations):
        if annotation.get("pseudo_mask") is not None:
            masks[i], has_pseudo[i] = torch.from_numpy(annotation["pseudo_mask"]), True
    instances.gt_pseudo_masks, instances.gt_has_pseudo = masks, has_pseudo
