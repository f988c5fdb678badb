"""Training of semantic segmentation with the conventions of the project's trainer."""

import logging
import os
from typing import Any, List, Optional, Type

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import HookBase
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from ..data.semantic_mapper import SemanticMapper
from ..data.training_stream import build_training_loader
from ..evaluation.semantic import FourMetricEvaluator
from .agreement import check_labels_fit, labels_pixels
from .early_stopping import EarlyStopping, ResumableBestCheckpointer, StopTraining
from .exact_resume import ExactResume
from .trainer import Trainer

logger = logging.getLogger(__name__)


def trainer_class(cfg: CfgNode) -> Type[Trainer]:
    """The trainer for a config: :class:`SemanticTrainer` where the model is a semantic segmentor.

    Raises:
        ValueError: when detectron2 does not know ``MODEL.META_ARCHITECTURE``.
    """
    return SemanticTrainer if labels_pixels(cfg) else Trainer


class SemanticTrainer(Trainer):
    """Trainer for data sets with a label for each pixel.

    Crops and flips of :class:`SemanticMapper`, metrics of :class:`FourMetricEvaluator`, and with
    ``TEST.EVAL_PERIOD`` the best model in ``model_best.pth``, with ``TEST.EARLY_STOPPING`` an end
    as soon as it gets no better.
    """

    @classmethod
    def check_annotations(cls, cfg: CfgNode, training: bool) -> None:
        """Nothing: there are no objects, and labels are checked as they are read."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """A loader of images and labels of the training sets.

        Raises:
            ValueError: when a data set is unknown, or the model does not have its classes.
            FileNotFoundError: when files of a data set are missing.
        """
        if not cfg.DATASETS.TRAIN:
            raise ValueError("DATASETS.TRAIN is empty: name a registered data set to train on")
        for name in cfg.DATASETS.TRAIN:
            check_labels_fit(cfg, name)
        return build_training_loader(cfg, SemanticMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """A loader of ``TEST.IMS_PER_BATCH`` images at a time; errors as above."""
        check_labels_fit(cfg, dataset_name)
        return build_detection_test_loader(
            cfg,
            dataset_name,
            mapper=SemanticMapper(cfg, is_train=False),
            batch_size=cfg.TEST.IMS_PER_BATCH,
        )

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: Optional[str] = None
    ) -> FourMetricEvaluator:
        """Pixel metrics, written below ``OUTPUT_DIR/inference/<data set>``."""
        if output_folder is None:
            output_folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        return FourMetricEvaluator(dataset_name, output_dir=output_folder)

    def build_hooks(self) -> List[Optional[HookBase]]:
        """DefaultTrainer's hooks, the best checkpoint, and early stopping."""
        hooks = super().build_hooks()
        period, stopping = self.cfg.TEST.EVAL_PERIOD, self.cfg.TEST.EARLY_STOPPING
        own: List[HookBase] = []
        if stopping.PATIENCE:
            own.append(EarlyStopping(period, stopping.METRIC, stopping.PATIENCE))
        if period > 0 and comm.is_main_process():
            own.append(ResumableBestCheckpointer(period, self.checkpointer, stopping.METRIC))
        # Before the periodic checkpoint, which keeps their state.
        after = next(i for i, hook in enumerate(hooks) if isinstance(hook, ExactResume)) + 1
        return [*hooks[:after], *own, *hooks[after:]]

    def train(self) -> Any:
        """As in DefaultTrainer; an early stop, too, leaves ``model_final.pth``."""
        try:
            return super().train()
        except StopTraining:
            if comm.is_main_process():
                self.checkpointer.save("model_final", iteration=self.iter)
                if self.cfg.TEST.EXPECTED_RESULTS:
                    verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results
