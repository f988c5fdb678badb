"""RoI heads on tiny features, in float64, and the definition of their masks for all classes."""

from typing import Any, Dict, List, Optional

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import FastRCNNOutputLayers
from detectron2.structures import BitMasks, Boxes, Instances
from torch import nn
from torch.nn import functional

from seg_every_thing import MaskXHead, PartiallySupervisedROIHeads, WeightTransfer
from seg_every_thing.modeling.mask_heads import MaskMLP

K, C, F, D = 7, 4, 3, 5  # classes, channels, box features, embedding width
SIDE = 6  # of the mask; the pooled features have half
WIDTHS = {"cls": F, "box": 4 * F, "cls+box": 5 * F, "embedding": D}


def make_heads(
    predictor: str = "transfer",
    mlp_input: Optional[str] = None,
    transfer_input: str = "cls+box",
    num_classes: int = K,
    **kwargs: Any,
) -> PartiallySupervisedROIHeads:
    """From explicit arguments alone, all weights large and random, in float64."""
    pooler = ROIPooler(SIDE // 2, scales=(0.25,), sampling_ratio=2, pooler_type="ROIAlignV2")
    size = C * (SIDE // 2) ** 2 if mlp_input == "pooled" else C * SIDE**2
    mask_head = MaskXHead(
        ShapeSpec(channels=C, height=SIDE // 2, width=SIDE // 2),
        num_classes=num_classes,
        conv_dims=[C] * 2,
        predictor=predictor,
        mlp=None if mlp_input is None else MaskMLP(size, SIDE),
        mlp_input=mlp_input or "upsampled",
    )
    if predictor == "transfer":
        kwargs.update(
            weight_transfer=WeightTransfer(input_dim=WIDTHS[transfer_input], output_dim=C),
            transfer_input=transfer_input,
        )
        if transfer_input == "embedding":
            kwargs["class_vectors"] = torch.randn(num_classes, D)
    box_head = nn.Sequential(nn.Flatten(), nn.Linear(C * (SIDE // 2) ** 2, F), nn.ReLU())
    heads = PartiallySupervisedROIHeads(
        num_classes=num_classes,
        batch_size_per_image=64,  # more than there are: all are sampled
        positive_fraction=0.5,
        proposal_matcher=Matcher([0.5], [0, 1]),
        box_in_features=["p2"],
        box_pooler=pooler,
        box_head=box_head,
        box_predictor=FastRCNNOutputLayers(
            ShapeSpec(channels=F),
            box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
            num_classes=num_classes,
            test_score_thresh=0.0,
            test_topk_per_image=8,
        ),
        mask_in_features=["p2"],
        mask_pooler=pooler,
        mask_head=mask_head,
        **kwargs,
    ).double()
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=0.5)
    return heads


def make_features(images: int = 2) -> Dict[str, torch.Tensor]:
    return {"p2": torch.randn(images, C, 16, 16, dtype=torch.float64)}


def make_image(
    classes: List[int], has_mask: Optional[List[bool]] = None, num_classes: int = K
) -> Instances:
    """Sampled proposals: as many foreground ones, in a row of separate boxes, and a background one.

    The mask of object i is the upper part of the image down to line 16 + i.
    """
    n = len(classes) + 1
    x = Instances((64, 64))
    left = torch.arange(n) * 9.0
    x.proposal_boxes = Boxes(torch.stack([left, left * 0 + 8, left + 8, left * 0 + 30], dim=1))
    x.objectness_logits = torch.zeros(n)
    x.gt_classes = torch.tensor([*classes, num_classes])
    x.gt_boxes = x.proposal_boxes.clone()
    lines = torch.arange(64)[None, :, None].expand(n, 64, 64)
    x.gt_masks = BitMasks(lines < 16 + torch.arange(n)[:, None, None])
    if has_mask is not None:
        x.gt_has_mask = torch.tensor([*has_mask, False])
    return x


def as_predictions(image: Instances) -> Instances:
    x = Instances(image.image_size)
    x.pred_boxes, x.pred_classes = image.proposal_boxes[:-1], image.gt_classes[:-1]
    x.scores = torch.ones(len(x))
    return x


def mask_parameters(heads: PartiallySupervisedROIHeads) -> Dict[str, nn.Parameter]:
    names = ("mask_head.", "weight_transfer.")
    return {n: p for n, p in heads.named_parameters() if n.startswith(names)}


def plain_logits(
    heads: PartiallySupervisedROIHeads, features: torch.Tensor, boxes: Any, classes: torch.Tensor
) -> torch.Tensor:
    """Masks of all classes for all RoIs, then the one of the wanted class: what the paper says."""
    state = dict(heads.named_parameters())
    pooled = heads.mask_pooler([features], boxes)
    x = pooled
    if "mask_head.deconv.weight" in state:
        x = functional.conv2d(
            x, state["mask_head.mask_fcn1.weight"], state["mask_head.mask_fcn1.bias"], padding=1
        ).relu()
        x = functional.conv_transpose2d(
            x, state["mask_head.deconv.weight"], state["mask_head.deconv.bias"], stride=2
        ).relu()
    kind, rois = heads.mask_head.predictor_kind, torch.arange(len(classes))
    logits = torch.zeros(len(classes), SIDE, SIDE, dtype=torch.float64)
    if kind == "transfer":
        cls = state["box_predictor.cls_score.weight"][:-1].detach()
        box = state["box_predictor.bbox_pred.weight"].detach()
        box = torch.cat([box[o::4] for o in range(4)], dim=1)  # dx of all classes, then dy, ...
        vectors = {"cls": cls, "box": box, "cls+box": torch.cat([cls, box], 1)}.get(
            heads.transfer_input, heads.class_vectors
        )
        w1, b1, w2, b2 = heads.weight_transfer.parameters()
        hidden = vectors @ w1.T + b1
        kernels = torch.where(hidden > 0, hidden, 0.1 * hidden) @ w2.T + b2
        logits = functional.conv2d(x, kernels[:, :, None, None])[rois, classes]
    elif kind != "none":
        weight, bias = state["mask_head.predictor.weight"], state["mask_head.predictor.bias"]
        logits = functional.conv2d(x, weight, bias)
        logits = logits[rois, classes] if kind == "class_specific" else logits[:, 0]
    if heads.mask_head.mlp is not None:
        source = pooled if heads.mask_head.mlp_input == "pooled" else x
        weight, bias = heads.mask_head.mlp.parameters()
        logits = logits + (source.flatten(1) @ weight.T + bias).view(-1, SIDE, SIDE)
    return logits
