"""Images and labels for semantic segmentation."""

import copy
from typing import Any, Dict, List, Union

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils
from detectron2.data import transforms as T

from .images import check_image_size, preparing, read_image
from .labels import check_label_size, check_values, read_label


class SemanticMapper:
    """From a dataset dict with ``file_name`` and ``sem_seg_file_name`` to what the model takes.

    Unlike detectron2's ``DatasetMapper`` it reads labels as indices, also from palette pictures and
    ``.mat`` files, and crops after resizing, so that a crop has the size that the model gets.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: List[Union[T.Augmentation, T.Transform]],
        image_format: str,
        num_classes: int,
        ignore_value: int = 255,
    ) -> None:
        """
        Args:
            is_train: labels are read and transformed in training only; evaluators read their own.
            augmentations: applied in this order to image and labels.
            image_format: of the image, as in detectron2: "BGR" or "RGB".
            num_classes: number of classes, to check the labels.
            ignore_value: label of void pixels.
        """
        self.is_train = is_train
        self.augmentations = T.AugmentationList(augmentations)
        self.image_format = image_format
        self.num_classes = num_classes
        self.ignore_value = ignore_value

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> Dict[str, Any]:
        augmentations = detection_utils.build_augmentation(cfg, is_train)
        if is_train and cfg.INPUT.CROP.ENABLED:
            augmentations.insert(1, T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE))
        return {
            "is_train": is_train,
            "augmentations": augmentations,
            "image_format": cfg.INPUT.FORMAT,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    def __call__(self, dataset_dict: Dict[str, Any]) -> Dict[str, Any]:
        """
        Args:
            dataset_dict: of a semantic segmentation data set.

        Returns:
            A copy with "image", (C, H, W) uint8, "height" and "width" of the file, and in training
            "sem_seg", (H, W) int64.

        Raises:
            FileNotFoundError: when a file is missing.
            ValueError: for an image that cannot be read, or a label that cannot be read, is not as
                large as the image, or holds other values than the model's classes and void.
        """
        with preparing(dataset_dict["file_name"]):
            return self._sample(copy.deepcopy(dataset_dict))

    def _sample(self, result: Dict[str, Any]) -> Dict[str, Any]:
        image = read_image(result["file_name"], self.image_format)
        check_image_size(result, image)
        label = None
        if self.is_train:
            label_file = result.pop("sem_seg_file_name")
            label = read_label(label_file)
            check_values(label, label_file, self.num_classes, self.ignore_value)
            check_label_size(label, label_file, result["file_name"], image.shape[:2])
        pair = T.AugInput(image, sem_seg=label)
        self.augmentations(pair)
        result["image"] = torch.as_tensor(np.ascontiguousarray(pair.image.transpose(2, 0, 1)))
        if label is not None:
            result["sem_seg"] = torch.as_tensor(pair.sem_seg.astype(np.int64))
        return result
