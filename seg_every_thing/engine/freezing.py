"""A frozen detector: stage two of stage-wise training."""

from typing import Any, List

from torch import nn

_MASK_BRANCH = ("roi_heads.mask_pooler.", "roi_heads.mask_head.", "roi_heads.weight_transfer.")


def freeze_detector(model: nn.Module) -> None:
    """Leave only the mask branch trainable: stage two of stage-wise training (paper, section 3.3).

    Everything outside the mask head and T gets no gradient, and runs in evaluation mode even while
    the model as a whole trains, so that not even running statistics move.

    Args:
        model: a ``GeneralizedRCNN`` with :class:`PartiallySupervisedROIHeads`, or a ``BoxToMask``.

    Raises:
        ValueError: when the model has no mask branch.
    """
    if not any(name.startswith(_MASK_BRANCH) for name, _ in model.named_parameters()):
        raise ValueError("MODEL.FREEZE_DETECTOR: the model has no mask branch to train")
    for name, parameter in model.named_parameters():
        if not name.startswith(_MASK_BRANCH):
            parameter.requires_grad_(False)
    # model.train() would switch every part back; a hook that gets the model as its argument, rather
    # than holding on to one, stays right in copies of the model.
    model.register_forward_pre_hook(_keep_detector_in_eval)
    _keep_detector_in_eval(model)


def _keep_detector_in_eval(model: nn.Module, _: Any = None) -> None:
    for part in _detector_parts(model):
        part.eval()


def _detector_parts(model: nn.Module) -> List[nn.Module]:
    names = ("box_pooler", "box_head", "box_predictor", "keypoint_pooler", "keypoint_head")
    heads = [getattr(model.roi_heads, name, None) for name in names]
    parts = [model.backbone, model.proposal_generator, *heads]
    return [part for part in parts if part is not None]  # BoxToMask has but the first
