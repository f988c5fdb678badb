"""A model as functions of tensors that PyTorch can trace."""

import contextlib
import warnings
from typing import Any, Dict, Iterator, Tuple

import torch
from detectron2.config import CfgNode
from detectron2.export import TracingAdapter
from detectron2.structures import Boxes, Instances
from torch import nn

from ..engine.predictor import build_predictor
from ..modeling.mask_geometry import EnlargedROIMasks
from .layout import graph_names

_SIZE = (128, 160)  # of the image that is traced; the graphs take any


def model_to_export(cfg: CfgNode) -> nn.Module:
    """The model of a config with its weights, in evaluation mode, on the CPU.

    Raises:
        ValueError: when its weights are missing or do not fit.
    """
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"  # what a graph is traced on is in it for ever
    cfg.TEST.FAST = False  # operators of PyTorch on a CPU; other programs have their own
    model = build_predictor(cfg).model
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def graphs_of(cfg: CfgNode, model: nn.Module) -> Dict[str, TracingAdapter]:
    """The graphs of a model by name, each with its ``flattened_inputs`` to be traced with.

    Inputs and outputs are those of :data:`~seg_every_thing.export.layout.GRAPHS`, in this order.
    """
    image = noise(*_SIZE)
    inputs: Dict[str, Tuple[Any, Any]] = {
        "detector": (_detect, (image,)),
        "prompted": (_prompt, (image, *boxes_in(*_SIZE, 3, cfg.MODEL.ROI_HEADS.NUM_CLASSES))),
    }
    graphs = {
        # In evaluation mode itself, or torch.onnx.export leaves the model in that of training.
        name: TracingAdapter(model, inputs[name][1], inputs[name][0]).eval()
        for name in graph_names(cfg)
    }
    if model.roi_heads.weight_transfer is not None:
        model.roi_heads.mask_weights()  # once, so that T is a constant in the graphs
    return graphs


@contextlib.contextmanager
def tracing(cfg: CfgNode) -> Iterator[None]:
    """Trace without detectron2's many warnings, and say in one line what cannot be traced.

    Args:
        cfg: of the model.

    Raises:
        ValueError: naming the backbone, which is what may be of a kind that cannot.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as e:
        reason = (str(e).strip().splitlines() or [type(e).__name__])[-1].strip()
        raise ValueError(
            f"this model cannot be traced ({reason}): choose another MODEL.BACKBONE.NAME than "
            f"{cfg.MODEL.BACKBONE.NAME}, or use the model with seg_every_thing"
        ) from e


def _detect(model: nn.Module, image: torch.Tensor) -> Tuple[torch.Tensor, ...]:
    """Boxes (N, 4), scores (N,), classes (N,) and masks (N, M, M) of an image (3, H, W)."""
    images = model.preprocess_image([{"image": image}])
    features = model.backbone(images.tensor)
    proposals, _ = model.proposal_generator(images, features, None)
    (x,) = model.roi_heads._forward_box(features, proposals)
    masks = _masks(model, features, x.pred_boxes.tensor, x.pred_classes)
    return x.pred_boxes.tensor, x.scores, x.pred_classes, masks


def _prompt(
    model: nn.Module, image: torch.Tensor, boxes: torch.Tensor, classes: torch.Tensor
) -> torch.Tensor:
    """Masks (N, M, M) of boxes (N, 4) of classes (N,) in an image (3, H, W)."""
    images = model.preprocess_image([{"image": image}])
    return _masks(model, model.backbone(images.tensor), boxes, classes)


def _masks(
    model: nn.Module,
    features: Dict[str, torch.Tensor],
    boxes: torch.Tensor,
    classes: torch.Tensor,
) -> torch.Tensor:
    # One box more, which goes afterwards: ONNX Runtime refuses some operators on no box at all.
    given = Instances((1, 1))
    given.pred_boxes = Boxes(torch.cat([boxes, boxes.new_tensor([[0.0, 0.0, 8.0, 8.0]])]))
    given.pred_classes = torch.cat([classes, classes.new_zeros(1)])
    (x,) = model.roi_heads.forward_with_given_boxes(features, [given])
    masks = x.pred_masks
    return (masks.tensor if isinstance(masks, EnlargedROIMasks) else masks[:, 0])[:-1]


def noise(height: int, width: int) -> torch.Tensor:
    """An image (3, height, width) that is the same at each call; float32."""
    generator = torch.Generator().manual_seed(height * width)
    coarse = torch.rand(1, 3, 8, 8, generator=generator) * 255
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]
    return image + torch.rand(3, height, width, generator=generator)


def boxes_in(
    height: int, width: int, count: int, num_classes: int
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Boxes (count, 4) in an image, and classes (count,) that lie evenly among all."""
    generator = torch.Generator().manual_seed(count)
    size = torch.tensor([width, height], dtype=torch.float32)
    corners = torch.rand(count, 2, generator=generator) * size / 2
    sides = size * (0.1 + 0.4 * torch.rand(count, 2, generator=generator))
    classes = torch.linspace(0, num_classes - 1, count).long()
    return torch.cat([corners, corners + sides], dim=1), classes
