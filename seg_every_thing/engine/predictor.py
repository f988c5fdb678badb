"""A model that predicts, with its weights."""

import logging

from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from ..checkpoint.loading import load_for_inference
from ..modeling.crf_refinement import with_crf
from ..modeling.fast.acceleration import accelerated
from .agreement import check_class_count
from .config_names import check_image_format, explaining_names

logger = logging.getLogger(__name__)


def build_predictor(cfg: CfgNode, allow_partial: bool = False) -> DefaultPredictor:
    """detectron2's predictor with the weights of ``MODEL.WEIGHTS``; "" = random weights.

    With ``TEST.FAST`` its model is an accelerated copy.

    Args:
        cfg: of the model.
        allow_partial: go on with what fits where the checkpoint is not of this very model.

    Raises:
        ValueError: when the config does not fit, or the checkpoint cannot be read or is not of
            this model.
    """
    check_class_count(cfg)
    check_image_format(cfg)
    without_weights = cfg.clone()
    without_weights.MODEL.WEIGHTS = ""
    # In two steps, so that a mistake in the config is not taken for a broken checkpoint.
    predictor = explaining_names(DefaultPredictor, without_weights)
    with_crf(cfg, predictor.model)
    if not cfg.MODEL.WEIGHTS:
        logger.warning("MODEL.WEIGHTS is empty: the weights are random, the predictions noise")
    else:
        load_for_inference(predictor.model, cfg.MODEL.WEIGHTS, allow_partial)
    predictor.model = accelerated(cfg, predictor.model)
    return predictor
