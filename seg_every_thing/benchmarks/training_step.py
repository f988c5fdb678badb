"""One training iteration of a whole model on a made-up batch, to be measured."""

import time
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, ImageList, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from torch import nn

from ..config import load_config
from ..engine.trainer import Trainer
from .measuring import peak_allocated
from .turns import Row

CONFIG = "coco/transfer_R_50_FPN_1x.yaml"
IMAGES, OBJECTS = 2, 8  # a batch, and an image

_BOX = "MODEL.ROI_MASK_HEAD.BOX_LOSS"
KINDS: Dict[str, Sequence[Any]] = {
    "stock": (
        *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
        *("MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead"),
    ),
    "ours": (),
    "ours+boxes": (f"{_BOX}.ENABLED", True, f"{_BOX}.APPLY_TO", "all", f"{_BOX}.WARMUP", 0.0),
}
"""Mask R-CNN, Mask^X R-CNN, and the latter with box losses of every RoI beside its mask loss."""


class PlantedProposals(nn.Module):
    """A proposal generator at work whose proposals are put aside, for others about the objects.

    An untrained one finds few objects, and each model others: all models get the same proposals.
    """

    def __init__(self, generator: nn.Module, per_image: int, near_objects: int) -> None:
        """
        Args:
            generator: detectron2's.
            per_image: proposals of an image.
            near_objects: how many of them overlap an object.
        """
        super().__init__()
        self.generator = generator
        self.per_image, self.near_objects = per_image, near_objects

    def forward(
        self, images: ImageList, features: Dict[str, torch.Tensor], gt_instances: List[Instances]
    ) -> Tuple[List[Instances], Dict[str, torch.Tensor]]:
        _, losses = self.generator(images, features, gt_instances)
        return [self._planted(x) for x in gt_instances], losses

    def _planted(self, objects: Instances) -> Instances:
        boxes = objects.gt_boxes.tensor
        near = boxes[torch.arange(self.near_objects, device=boxes.device) % len(boxes)].clone()
        near += torch.linspace(-3, 3, self.near_objects, device=boxes.device)[:, None]
        far = boxes.new_zeros(self.per_image - self.near_objects, 4)
        far[:, 2:] = torch.linspace(8, 24, len(far), device=boxes.device)[:, None]
        x = Instances(objects.image_size)
        x.proposal_boxes = Boxes(torch.cat([near, far]))
        x.objectness_logits = boxes.new_zeros(self.per_image)
        return x


def training_config(kind: str, rois: int, options: Sequence[Any]) -> CfgNode:
    """The config of a model.

    Args:
        kind: of :data:`KINDS`.
        rois: mask RoIs of the batch.
        options: KEY, VALUE, ... on top.
    """
    cfg = load_config(CONFIG, ["MODEL.WEIGHTS", "", "SOLVER.REFERENCE_WORLD_SIZE", 0])
    cfg.merge_from_list([*KINDS[kind], *options])
    cfg.DATASETS.MASK_CLASSES = "all"
    cfg.SOLVER.BASE_LR = 0.0  # random weights diverge, and each turn is to do the same
    cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION = rois / IMAGES / cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE
    return cfg


class TrainingIteration:
    """Forward, backward and optimiser step of a model on one batch."""

    def __init__(
        self, kind: str, size: Sequence[int], rois: int, device: str, options: Sequence[Any] = ()
    ) -> None:
        """
        Args:
            kind: of :data:`KINDS`.
            size: height and width of the images.
            rois: mask RoIs of the batch of two images.
            device: where.
            options: KEY, VALUE, ... on top.
        """
        cfg = training_config(kind, rois, ["MODEL.DEVICE", device, *options])
        self.device = torch.device(device)
        self.model = Trainer.build_model(cfg).train()
        self.model.proposal_generator = PlantedProposals(
            self.model.proposal_generator,
            cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN,
            rois // IMAGES,
        )
        self.optimizer = Trainer.build_optimizer(cfg, self.model)
        self.batch = made_up_batch(size)
        self.rois = 0

    def run(self) -> float:
        """One iteration; returns the sum of the losses."""
        with EventStorage() as storage:
            losses = self.model(self.batch)
            self.rois = int(IMAGES * storage.latest()["roi_head/num_fg_samples"][0])
        loss = sum(losses.values())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def sizes(self) -> Row:
        """``peak_bytes``: the most that an iteration holds at once on top of weights and momentum,
        counted by PyTorch's allocator; ``mask_rois`` of the batch; ``parameters`` that learn."""
        self.run()  # which makes the momentum
        self.drop_gradients()
        peak = peak_allocated(self.run, self.device)
        self.drop_gradients()
        learning = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return {"peak_bytes": peak, "mask_rois": self.rois, "parameters": learning}

    def seconds(self) -> Tuple[float, float]:
        """Wall and processor time of one iteration."""
        self._synchronize()
        start, cpu_start = time.perf_counter(), time.process_time()
        self.run()
        self._synchronize()
        seconds = time.perf_counter() - start, time.process_time() - cpu_start
        self.drop_gradients()
        return seconds

    def drop_gradients(self) -> None:
        """Free what an iteration leaves, so that waiting for the next turn takes little memory."""
        self.optimizer.zero_grad(set_to_none=True)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def made_up_batch(size: Sequence[int]) -> List[Dict[str, Any]]:
    """Two noise images with eight objects each, whose masks are polygons, as a mapper gives them.

    Args:
        size: height and width, at least 64 pixels.
    """
    rng = np.random.default_rng(0)
    height, width = size
    batch = []
    for _ in range(IMAGES):
        image = torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))
        # Small objects to large ones; none as small as proposals of background.
        side = np.linspace(0.15, 0.6, OBJECTS)[:, None] * [width, height]
        corner = rng.uniform(0.2, 1.0, (OBJECTS, 2)) * ([width, height] - side)
        boxes = np.concatenate([corner, corner + side], axis=1)
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        on_circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        ellipses = (corner + side / 2)[:, None] + side[:, None] / 2 * on_circle
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.from_numpy(boxes).float())
        instances.gt_classes = torch.from_numpy(rng.permutation(80)[:OBJECTS])
        instances.gt_masks = PolygonMasks([[x.ravel()] for x in ellipses])
        batch.append({"image": image, "height": height, "width": width, "instances": instances})
    return batch
