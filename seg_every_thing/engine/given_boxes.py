"""Evaluating the masks of a model at ground-truth boxes (``TEST.GIVEN_BOXES``)."""

import os
from typing import Any, Dict, Iterable, List

from detectron2.config import CfgNode
from detectron2.evaluation import inference_on_dataset
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Instances
from torch import nn

from ..evaluation.given_boxes import GivenBoxEvaluator, ImageObjects, objects_with_masks
from ..modeling.mask_geometry import EnlargedROIMasks, cropped_to_box
from ..modeling.mask_threshold import fitted_thresholds, moved_to_half


class GivenBoxModel(nn.Module):
    """A model that predicts the masks of ground-truth boxes instead of what it would find.

    It looks the boxes up by image, so any test loader will do whose augmentation only resizes.
    """

    def __init__(
        self, model: nn.Module, objects: Dict[Any, ImageObjects], *, fit: bool = False
    ) -> None:
        """
        Args:
            model: with the ``inference(inputs, detected_instances, do_postprocess)`` of
                ``GeneralizedRCNN``, as ``BoxToMask`` has it, too; possibly wrapped for DDP.
            objects: of :func:`objects_with_masks`.
            fit: also give the masks for ``TEST.MASK_THRESHOLD`` "fit", without another forward
                pass; for models whose own threshold is 0.5.
        """
        super().__init__()
        self.model = getattr(model, "module", model)
        self.objects = objects
        self.fit = fit
        # What an evaluation brings it back to; an accelerated model refuses to train.
        self.training = self.model.training

    def forward(self, inputs: List[Dict[str, Any]]) -> List[Dict[str, Instances]]:
        """
        Args:
            inputs: of a test loader, with "image", "image_id", "height" and "width".

        Returns:
            For each image "instances" with ``pred_masks`` as large as the image file, and with
            ``fit`` "instances_fit".
        """
        given = [
            self.objects[x["image_id"]].as_detections(
                (x["height"], x["width"]), x["image"].shape[-2:]
            )
            for x in inputs
        ]
        found = self.model.inference(inputs, detected_instances=given, do_postprocess=False)
        outputs = []
        for x, instances in zip(inputs, found):
            output = {"instances": instances}
            if self.fit:
                output["instances_fit"] = fitted(instances)
            outputs.append(
                {k: detector_postprocess(v, x["height"], x["width"]) for k, v in output.items()}
            )
        return outputs


def fitted(instances: Instances) -> Instances:
    """Instances before postprocessing, with masks that are cut where they fit their boxes.

    Args:
        instances: with ``pred_masks`` (N, 1, M, M) on the boxes or as :class:`EnlargedROIMasks`,
            that 0.5 is the threshold of.

    Returns:
        Others with masks of the same kind; 0.5 is the threshold that was fitted to each.
    """
    masks = instances.pred_masks
    if isinstance(masks, EnlargedROIMasks):
        on_rois = masks.tensor[:, None]
        thresholds = fitted_thresholds(cropped_to_box(on_rois, masks.scale))
        moved = EnlargedROIMasks(moved_to_half(on_rois, thresholds)[:, 0], masks.scale)
    else:
        moved = moved_to_half(masks, fitted_thresholds(masks))
    fields = {**instances.get_fields(), "pred_masks": moved}
    fields["pred_boxes"] = instances.pred_boxes.clone()  # postprocessing scales boxes in place
    return Instances(instances.image_size, **fields)


def evaluate_given_boxes(
    cfg: CfgNode, model: nn.Module, dataset_name: str, loader: Iterable[Any]
) -> Dict[str, Dict[str, float]]:
    """Metrics of :class:`GivenBoxEvaluator` for a model, also written below ``OUTPUT_DIR``.

    Args:
        cfg: of the model.
        model: see :class:`GivenBoxModel`.
        dataset_name: a registered data set in COCO format.
        loader: a test loader of it.

    Returns:
        ``{"given": metrics}``; ``TEST.MASK_THRESHOLD`` decides where masks are cut.  Where that is
        the default there is ``"given_fit"``, too: the same for the threshold "fit".  ``{}`` on all
        processes but the main one.
    """
    objects = objects_with_masks(dataset_name, cfg.DATASETS.ON_BAD_ANNOTATION)
    columns = {"given": "instances"}
    if cfg.TEST.MASK_THRESHOLD in (None, 0.5):
        columns["given_fit"] = "instances_fit"
    folder = os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    evaluators = [
        GivenBoxEvaluator(
            dataset_name,
            class_split=cfg.TEST.CLASS_SPLIT or cfg.DATASETS.MASK_CLASSES,
            output_dir=os.path.join(folder, name),
            name=name,
            key=key,
            objects=objects,
            on_bad_annotation=cfg.DATASETS.ON_BAD_ANNOTATION,
        )
        for name, key in columns.items()
    ]
    given = GivenBoxModel(model, objects, fit="given_fit" in columns)
    return inference_on_dataset(given, loader, evaluators)
