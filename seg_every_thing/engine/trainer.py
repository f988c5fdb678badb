"""Training: detectron2's DefaultTrainer with our mapper, our evaluator, and a frozen detector."""

import contextlib
import logging
import os
from functools import partial
from typing import Any, Dict, List, Optional
from unittest import mock

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, defaults
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNNWithTTA
from torch import nn

from ..checkpoint.compatibility import UnfitCheckpointError
from ..checkpoint.loading import last_checkpoint, readable_checkpoint
from ..checkpoint.safe_checkpointer import SafeCheckpointer
from ..data.catalog import check_data_set, checked_loading, evaluation_use, valid_annotations
from ..data.data_report import TRAINING, DataReport, write_data_report
from ..data.dataset_mapper import PartialSupervisionMapper
from ..data.partial import load_training_dicts, set_a_of
from ..data.pseudo_masks import PseudoMasks
from ..data.training_stream import build_training_loader
from ..evaluation.coco import PartialCOCOEvaluator, counted_results
from ..modeling.crf_refinement import with_crf
from ..modeling.fast.acceleration import accelerated
from .agreement import (
    check_class_count,
    check_classes,
    check_classes_of_training,
    check_settings,
    check_test_files,
)
from .annotation_check import check_annotations
from .config_names import explaining_names
from .ddp import ddp_fit_for, same_in_all_processes
from .divergence import FiniteWeights, divergence_explained, errors_told_once
from .exact_resume import ExactResume
from .freezing import freeze_detector
from .given_boxes import evaluate_given_boxes
from .optimizers import build_lr_scheduler, build_optimizer

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """DefaultTrainer for partial supervision.

    Loads every box of the training sets and the masks that ``DATASETS.MASK_CLASSES`` allows,
    reports AP for set A and set B, and with ``MODEL.FREEZE_DETECTOR`` trains the mask branch alone.
    """

    max_iter: int

    def __init__(self, cfg: CfgNode) -> None:
        """
        Args:
            cfg: a detectron2 config with :func:`add_seg_every_thing_config`.

        Raises:
            ValueError: as :func:`check_settings`, or when annotations are unusable.
            FileNotFoundError: when files of a data set are missing.
        """
        check_settings(cfg, training=True)
        self.check_annotations(cfg, training=True)
        checkpointer = partial(SafeCheckpointer, require="some")
        safe = mock.patch.object(defaults, "DetectionCheckpointer", checkpointer)
        with ddp_fit_for(cfg.MODEL.DEVICE), safe:
            super().__init__(cfg)

    def resume_or_load(self, resume: bool = True) -> None:
        """As in DefaultTrainer.  What ``MODEL.WEIGHTS`` does not bring is a table in the log.

        Raises:
            ValueError: when a checkpoint cannot be read, nothing in it fits the model, or the
                training that is to be resumed is of another model, or longer than
                ``SOLVER.MAX_ITER``; the message names the file.
        """
        last = last_checkpoint(self.cfg.OUTPUT_DIR) if resume else None
        if resume and last is None:
            logger.warning(
                "There is no checkpoint in '%s' to resume: training starts at iteration 0, %s",
                self.cfg.OUTPUT_DIR,
                f"from '{self.cfg.MODEL.WEIGHTS}'" if self.cfg.MODEL.WEIGHTS else "at random",
            )
        with readable_checkpoint(last or self.cfg.MODEL.WEIGHTS, self.cfg.OUTPUT_DIR * bool(last)):
            super().resume_or_load(resume)
        if self.start_iter > self.max_iter:
            raise ValueError(
                f"cannot resume: '{last}' has {self.start_iter} iterations, more than "
                f"SOLVER.MAX_ITER {self.max_iter}: raise it, or evaluate with --eval-only"
            )
        if self.start_iter == self.max_iter:
            logger.warning(
                "'%s' has all %d iterations of SOLVER.MAX_ITER: nothing is left to train",
                *(last, self.max_iter),
            )

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """As in DefaultTrainer.

        Raises:
            UnfitCheckpointError: when the state is that of another optimizer.
        """
        try:
            super().load_state_dict(state_dict)
        except (ValueError, KeyError) as e:
            raise UnfitCheckpointError(
                f"cannot resume: the optimizer of the checkpoint is another one ({e}): SOLVER and "
                f"MODEL.FREEZE_DETECTOR must be as they were, or train without --resume"
            ) from e

    def build_hooks(self) -> List[Optional[HookBase]]:
        """DefaultTrainer's hooks, and what makes a resumed training exact.

        Checkpoints come after an evaluation of the same iteration, unlike in DefaultTrainer: a
        training that goes on from one would miss what the evaluation draws and decides.
        """
        hooks = super().build_hooks()
        savers = [hook for hook in hooks if isinstance(hook, PeriodicCheckpointer)]
        others = [hook for hook in hooks if hook not in savers]
        after = next(i for i, hook in enumerate(others) if isinstance(hook, EvalHook)) + 1
        periods = (self.cfg.SOLVER.CHECKPOINT_PERIOD, self.cfg.TEST.EVAL_PERIOD)
        finite, exact = FiniteWeights(*periods), ExactResume(*periods)
        more: List[HookBase] = []
        if self.cfg.TEST.AUG.ENABLED:  # once, in the end, as it takes many times as long
            more.append(EvalHook(0, lambda: self.test_augmented(self.cfg, self.model)))
        return [
            *(*others[: after - 1], finite, others[after - 1]),
            *(exact, *savers, *more, *others[after:]),
        ]

    def train(self) -> Any:
        """As in DefaultTrainer.

        Raises:
            ValueError: before the first iteration, when model, data sets and split do not mean the
                same classes, or a test set cannot be evaluated.
            FileNotFoundError: likewise, when files of a test set are missing.
            FloatingPointError: when training diverges; the message says what to do.
        """
        check_classes(self.cfg)
        for name in self.cfg.DATASETS.TEST:
            check_test_files(self.cfg, name)
            with contextlib.suppress(NotImplementedError):  # a subclass may evaluate elsewhere
                self.build_evaluator(self.cfg, name)  # else it would complain after training
        with errors_told_once():
            return super().train()

    def run_step(self) -> None:
        """One iteration."""
        with divergence_explained(self):
            super().run_step()

    def after_train(self) -> None:
        """As in DefaultTrainer, but nothing is evaluated when the last iteration has failed."""
        goal = self.max_iter
        self.max_iter = goal + int(self.iter < goal)
        super().after_train()
        self.max_iter = goal

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the model, with a frozen detector if the config says so.

        Raises:
            ValueError: for no classes, a frozen detector without a mask branch, or a CRF for a
                model that has no masks and no labels of pixels.
        """
        check_class_count(cfg)
        model = explaining_names(super().build_model, cfg)
        if cfg.MODEL.FREEZE_DETECTOR:
            freeze_detector(model)
        return with_crf(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """A loader of every box and every usable mask of the training sets."""
        reports: List[DataReport] = []
        try:
            dicts = load_training_dicts(cfg, reports)
        except ValueError:
            check_classes_of_training(cfg)  # detectron2 does not say in which class they differ
            raise
        write_data_report(cfg.OUTPUT_DIR, TRAINING, reports)
        pseudo_masks = PseudoMasks.of_config(cfg)
        if pseudo_masks is not None:
            pseudo_masks.log_cover(dicts, set_a_of(cfg))
        return build_training_loader(cfg, cls.build_mapper(cfg), dicts)

    @classmethod
    def build_mapper(cls, cfg: CfgNode) -> Any:
        """The mapper of the training loader; a subclass may return its own."""
        return PartialSupervisionMapper(cfg, is_train=True)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """As in DefaultTrainer, of ``TEST.IMS_PER_BATCH`` images at a time.

        Raises:
            ValueError: when the data set is not registered or its annotation file is broken.
            FileNotFoundError: when the annotation file is missing.
        """
        check_data_set(dataset_name)
        with valid_annotations([dataset_name]), checked_loading(evaluation_use(cfg)):
            return build_detection_test_loader(
                cfg,
                dataset_name,
                mapper=PartialSupervisionMapper(cfg, is_train=False),
                batch_size=cfg.TEST.IMS_PER_BATCH,
            )

    @classmethod
    def check_annotations(cls, cfg: CfgNode, training: bool) -> None:
        """As :func:`annotation_check.check_annotations`; a subclass may check others."""
        check_annotations(cfg, training)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Dict[str, Any]:
        """As in DefaultTrainer; with ``TEST.GIVEN_BOXES`` also of masks at ground-truth boxes.

        That alone for a ``BoxToMask``, which finds no boxes itself.  With ``TEST.FAST`` of an
        accelerated copy of the model.  Of several processes, all evaluate that of the main one.

        Raises:
            ValueError: as :func:`check_classes`.
        """
        check_classes(cfg)
        cls.check_annotations(cfg, training=False)
        detects = cfg.MODEL.META_ARCHITECTURE != "BoxToMask"
        model = accelerated(cfg, same_in_all_processes(model))
        results = super().test(cfg, model, evaluators) if detects else {}
        for name in cfg.DATASETS.TEST if cfg.TEST.GIVEN_BOXES or not detects else ():
            metrics = evaluate_given_boxes(cfg, model, name, cls.build_test_loader(cfg, name))
            # With a single data set, the parent leaves out its name.
            single = len(cfg.DATASETS.TEST) == 1
            (results if single else results.setdefault(name, {})).update(metrics)
        return results

    @classmethod
    def test_augmented(cls, cfg: CfgNode, model: nn.Module) -> Dict[str, Any]:
        """As in DefaultTrainer's ``test``, but with the augmentations of ``TEST.AUG``.

        Returns:
            Metrics under "bbox_TTA" and "segm_TTA"; written below ``OUTPUT_DIR/inference_TTA``.
        """
        folder = os.path.join(cfg.OUTPUT_DIR, "inference_TTA")
        evaluators = [
            cls.build_evaluator(cfg, name, os.path.join(folder, name)) for name in cfg.DATASETS.TEST
        ]
        model = GeneralizedRCNNWithTTA(cfg, same_in_all_processes(model))
        results = super().test(cfg, model, evaluators)
        return {f"{name}_TTA": metrics for name, metrics in results.items()}

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer that ``SOLVER.OPTIMIZER`` names."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """The schedule that ``SOLVER.LR_SCHEDULER_NAME`` names."""
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: Optional[str] = None
    ) -> DatasetEvaluator:
        """COCO metrics of sets A, B and all, written below ``OUTPUT_DIR/inference/<data set>``."""
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
        if kind != "coco":
            raise ValueError(
                f"no evaluator for the data set '{dataset_name}' (evaluator_type '{kind}'): "
                f"only COCO-format data sets are evaluated"
            )
        if output_folder is None:
            output_folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
        tasks = {"bbox": True, "segm": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
        return PartialCOCOEvaluator(
            dataset_name,
            class_split=cfg.TEST.CLASS_SPLIT or cfg.DATASETS.MASK_CLASSES,
            tasks=tuple(task for task, on in tasks.items() if on),
            on_bad_annotation=cfg.DATASETS.ON_BAD_ANNOTATION,
            output_dir=output_folder,
            max_dets_per_image=counted_results(cfg.TEST.DETECTIONS_PER_IMAGE),
            kpt_oks_sigmas=tuple(cfg.TEST.KEYPOINT_OKS_SIGMAS),
        )
