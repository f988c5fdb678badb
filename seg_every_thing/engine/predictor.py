"""A model that predicts, with its weights."""

import logging

from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from ..checkpoint.safe_checkpointer import SafeCheckpointer
from .trainer import readable_checkpoint

logger = logging.getLogger(__name__)


def build_predictor(cfg: CfgNode) -> DefaultPredictor:
    """detectron2's predictor with the weights of ``MODEL.WEIGHTS``; "" = random weights.

    Raises:
        ValueError: when the config does not fit or the checkpoint cannot be read.
    """
    without_weights = cfg.clone()
    without_weights.MODEL.WEIGHTS = ""
    # In two steps, so that a mistake in the config is not taken for a broken checkpoint.
    predictor = DefaultPredictor(without_weights)
    if not cfg.MODEL.WEIGHTS:
        logger.warning("MODEL.WEIGHTS is empty: the weights are random, the predictions noise")
        return predictor
    with readable_checkpoint(cfg.MODEL.WEIGHTS):
        SafeCheckpointer(predictor.model).load(cfg.MODEL.WEIGHTS)
    return predictor
