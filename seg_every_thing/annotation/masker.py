"""A model as what makes masks of boxes: each in its window, with what says how sure it is."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.layers.mask_ops import paste_masks_in_image
from detectron2.structures import Boxes

from ..data.vocabulary import Vocabulary, vocabulary_of
from ..engine.box_prompts import model_inputs
from ..modeling.mask_geometry import EnlargedROIMasks, cropped_to_box
from .encoding import CutMask, window_of
from .features import features_of

_MOST_BOXES = 256  # in one pass, as memory grows with them


class MadeMask(NamedTuple):
    """A mask that a model made of a box."""

    mask: CutMask
    features: Tuple[float, ...]  # of features.features_of


class BoxMasker:
    """Makes masks of boxes with a trained model."""

    def __init__(self, predictor: DefaultPredictor, classes: Dict[Any, int]) -> None:
        """
        Args:
            predictor: of a ``BoxToMask`` or a detector with masks.
            classes: class index of the model by category id of the data set.
        """
        self._predictor = predictor
        self._classes = classes

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, categories: Sequence[Any]
    ) -> List[MadeMask]:
        """
        Args:
            image: (H, W, 3) uint8, BGR.
            boxes: (n, 4) x, y, width, height in pixels, each at least in part inside the image.
            categories: category id of each.
        """
        made: List[MadeMask] = []
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        for start in range(0, len(boxes), _MOST_BOXES):
            part = slice(start, start + _MOST_BOXES)
            classes = [self._classes[category] for category in categories[part]]
            made += self._some(image, corners[part], classes)
        return made

    def _some(
        self, image: np.ndarray, corners: np.ndarray, classes: Sequence[int]
    ) -> List[MadeMask]:
        height, width = image.shape[:2]
        inside = corners.clip(min=0, max=[width, height, width, height])
        inputs, given = model_inputs(self._predictor, image, inside, classes)
        with torch.no_grad():
            (found,) = self._predictor.model.inference(
                [inputs], detected_instances=[given], do_postprocess=False
            )
        masks = found.pred_masks
        if isinstance(masks, EnlargedROIMasks):
            masks = cropped_to_box(masks.tensor[:, None], masks.scale)
        probabilities = masks[:, 0].float().cpu()
        made = []
        for p, box in zip(probabilities, inside):
            size = box[2:] - box[:2]
            left, top, right, bottom = window_of([*box[:2], *size], height, width)
            shifted = Boxes(torch.from_numpy(box - [left, top, left, top]).float()[None])
            pasted = paste_masks_in_image(p[None], shifted, (bottom - top, right - left), 0.5)
            cut = CutMask(pasted[0].numpy(), left, top)
            made.append(MadeMask(cut, features_of(p.numpy(), float(size[0]), float(size[1]))))
        return made


def model_classes(
    cfg: CfgNode,
    categories: Dict[Any, str],
    source: str,
    vocabulary: Optional[Vocabulary] = None,
) -> Dict[Any, int]:
    """Which class of a model each category of a data set is, by its name.

    Args:
        cfg: of the model.
        categories: names by id.
        source: of them, for messages.
        vocabulary: of the model; None = that of the config's data set.

    Raises:
        ValueError: when the model's masks depend on the class and it has no such class, or several.
    """
    head = cfg.MODEL.ROI_MASK_HEAD
    by_class = not head.CLS_AGNOSTIC_MASK
    if head.NAME == "MaskXHead":
        by_class = head.PREDICTOR in ("transfer", "class_specific")
    if not by_class:
        return dict.fromkeys(categories, 0)
    vocabulary = vocabulary or vocabulary_of(cfg)
    vocabulary.find_all(list(categories.values()), source)
    classes = {}
    for category, name in categories.items():
        found = vocabulary.find(name)
        if len(found) > 1:
            names = ", ".join(vocabulary.names[i] for i in found[:5])
            raise ValueError(f"{source}: the category '{name}' can be any of {names}: rename it")
        classes[category] = found[0]
    return classes
