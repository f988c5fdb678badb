"""Inputs of the losses of masks from boxes."""

from typing import Any, Dict, List

import torch
from detectron2.structures import ImageList


def boxes_of(*boxes: Any) -> torch.Tensor:
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)


def enlarged(boxes: torch.Tensor, scale: float) -> torch.Tensor:
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    return torch.cat([centre - scale * half, centre + scale * half], dim=1)


def batch(num_rois: int = 5, seed: int = 0, side: int = 8, scale: float = 1.25) -> Dict[str, Any]:
    """Two images of different sizes; the RoIs reach over the border and the padding."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> torch.Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    sizes = [(40, 52), (48, 36)]
    # Flat colours with steps between them: some neighbours are alike and some are not.
    blocks = (rand(2, 3, 12, 13) * 40 + 100).repeat_interleave(4, 2).repeat_interleave(4, 3)
    image_index = (torch.arange(num_rois) >= (num_rois + 1) // 2).long()
    limit = torch.tensor([[52.0, 40.0], [36.0, 48.0]], dtype=torch.float64)[image_index]
    first = rand(num_rois, 2) * limit * 0.5
    boxes = torch.cat([first, first + 6 + rand(num_rois, 2) * (limit - first - 6)], dim=1)
    classes = torch.arange(num_rois) % 3

    def by_image(x: torch.Tensor) -> List[torch.Tensor]:
        return [x[image_index == i] for i in range(2)]

    return {
        "logits": 3 * torch.randn(num_rois, 1, side, side, generator=generator).double(),
        "rois": by_image(enlarged(boxes, scale)),
        "boxes": by_image(boxes),
        "classes": by_image(classes),
        "images": ImageList(blocks, sizes),
        "gt_boxes": by_image(boxes),
        "gt_classes": by_image(classes),
        "progress": 1.0,
    }


def mirrored(inputs: Dict[str, Any]) -> Dict[str, Any]:
    """Each image, without its padding, from left to right."""
    images = inputs["images"]
    tensor = torch.full_like(images.tensor, 77.0)
    for i, (height, width) in enumerate(images.image_sizes):
        tensor[i, :, :height, :width] = images.tensor[i, :, :height, :width].flip(2)
    widths = torch.tensor([float(w) for _, w in images.image_sizes], dtype=torch.float64)

    def flip(of_images: List[torch.Tensor]) -> List[torch.Tensor]:
        return [
            torch.stack([w - b[:, 2], b[:, 1], w - b[:, 0], b[:, 3]], 1)
            for b, w in zip(of_images, widths)
        ]

    return {
        **inputs,
        "logits": inputs["logits"].flip(3),
        "images": ImageList(tensor, images.image_sizes),
        **{name: flip(inputs[name]) for name in ("rois", "boxes", "gt_boxes")},
    }
