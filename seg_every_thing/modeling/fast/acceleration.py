"""A copy of a model that finds the same in less time."""

import copy
import functools
import logging

import torch
from detectron2.config import CfgNode
from detectron2.layers import ROIAlign
from detectron2.modeling import GeneralizedRCNN
from torch import nn

from ...processes import keep_freed_memory
from ..timm_backbone import TimmBackbone
from .convolution import fold_neighbours, speed_up_convolution, speed_up_deconvolution
from .pasting import inference_with_fast_pasting
from .roi_align import FastROIAlign

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-3  # relative, of features after folding


def accelerate(model: nn.Module) -> nn.Module:
    """A copy of a trained model for inference alone, which finds the same faster.

    Batch normalisation is folded into convolutions, 3x3 convolutions take Winograd's algorithm,
    RoIAlign takes all threads, masks are pasted inside their boxes alone, and the process keeps the
    memory that it frees.  Probabilities and scores stay equal within 1e-3.  Later changes to the
    model do not reach the copy, and it refuses to train.

    Args:
        model: any of this project's or detectron2's; it stays as it is.

    Returns:
        The copy, in evaluation mode.
    """
    fast = copy.deepcopy(getattr(model, "module", model)).eval()
    fast.requires_grad_(False)
    for module in list(fast.modules()):
        if isinstance(module, TimmBackbone):
            module.body = _folded(module.body)
    for module in list(fast.modules()):
        if isinstance(module, nn.Conv2d):
            speed_up_convolution(module)
        elif isinstance(module, nn.ConvTranspose2d):
            speed_up_deconvolution(module)
        for name, child in module.named_children():
            if type(child) is ROIAlign:
                setattr(module, name, FastROIAlign(child))
    keep_freed_memory()  # also for a GPU: its masks end in the memory of the processor
    if any(p.device.type == "cpu" for p in fast.parameters()):
        torch.set_num_threads(torch.get_num_threads())  # NNPACK's threads, too
    if isinstance(fast, GeneralizedRCNN):
        fast.inference = functools.partial(inference_with_fast_pasting, fast.inference)
    fast.train = functools.partial(_only_evaluate, fast)
    return fast


def accelerated(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model, or where ``TEST.FAST`` says so the copy of :func:`accelerate`."""
    return accelerate(model) if cfg.TEST.FAST else model


@torch.no_grad()
def _folded(body: nn.Module) -> nn.Module:
    """A timm model with its norms folded; as it is where its layers run in another order."""
    folded = copy.deepcopy(body)
    fold_neighbours(folded)
    first = next(body.parameters())
    channels = next(m.in_channels for m in body.modules() if isinstance(m, nn.Conv2d))
    noise = torch.randn(1, channels, 96, 96, generator=torch.Generator().manual_seed(0)).to(first)
    for before, after in zip(body(noise), folded(noise)):
        if (before - after).abs().max() > _TOLERANCE * before.abs().max():
            logger.warning("the batch normalisation of the timm model cannot be folded")
            return body
    return folded


def _only_evaluate(model: nn.Module, mode: bool = True) -> nn.Module:
    if mode:
        raise RuntimeError(
            "an accelerated model has folded weights and cannot be trained: train the model that "
            "accelerate() was given"
        )
    return nn.Module.train(model, False)
