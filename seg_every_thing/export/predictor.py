"""One predictor for trained models and for their exports in every format."""

import functools
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from torch import nn

from ..checkpoint.loading import last_checkpoint
from ..config import load_config
from ..data.vocabulary import Vocabulary, vocabulary_of
from ..engine.box_prompts import predict_masks
from ..engine.predictor import build_predictor
from ..files import PathLike, printable
from .checks import finds_boxes
from .layout import CONFIG, ENDINGS, MANIFEST, read_manifest, vocabulary_in
from .onnx_model import OnnxModel
from .openvino_model import OpenVinoModel
from .torchscript_model import TorchScriptModel

_MODELS: Dict[str, Any] = {
    "torchscript": TorchScriptModel,
    "onnx": OnnxModel,
    "openvino": OpenVinoModel,
}
_CHECKPOINTS = ("model_final.pth", "model.pth")


class Predictor(DefaultPredictor):
    """detectron2's predictor, whatever runs the model: image in, objects out.

    ``predictor(image)`` takes an image (H, W, 3) uint8, BGR, and returns ``{"instances":
    Instances}`` with ``pred_boxes``, ``pred_classes``, ``scores`` and ``pred_masks`` (N, H, W).
    """

    def __init__(
        self, cfg: CfgNode, model: nn.Module, vocabulary: Optional[Vocabulary] = None
    ) -> None:
        """
        Args:
            cfg: of the model.
            model: has the ``inference`` of ``GeneralizedRCNN``, and its weights.
            vocabulary: names of its classes; None = those of the config's data set.
        """
        # Without that of the parent, which builds a model from the config.
        self.cfg = cfg.clone()
        self.model = model.eval()
        if len(cfg.DATASETS.TEST):
            self.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        shortest, longest = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        self.aug = T.ResizeShortestEdge([shortest, shortest], longest)
        self.input_format = cfg.INPUT.FORMAT
        if vocabulary is not None:
            self.vocabulary = vocabulary

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Names of the classes.

        Raises:
            ValueError: when the config's split does not fit its classes.
        """
        return vocabulary_of(self.cfg)

    def __call__(self, original_image: np.ndarray) -> Dict[str, Any]:
        """As in the parent.

        Raises:
            ValueError: for a model that finds no boxes by itself.
        """
        if not finds_boxes(self.cfg):
            raise ValueError(
                "this model (MODEL.META_ARCHITECTURE 'BoxToMask') finds no boxes: give them with "
                "masks_of(image, boxes, classes)"
            )
        return super().__call__(original_image)

    def masks_of(
        self, image: np.ndarray, boxes_xyxy: np.ndarray, classes: Sequence[int]
    ) -> Instances:
        """Masks of boxes that are known.

        Args:
            image: (H, W, 3) uint8, BGR.
            boxes_xyxy: (n, 4) x0, y0, x1, y1 in pixels.
            classes: class index of each.

        Returns:
            n instances on the CPU with ``pred_boxes`` as given, ``pred_classes``, ``scores`` (1)
            and ``pred_masks`` (n, H, W).

        Raises:
            ValueError: for boxes or classes that cannot be, or a model without masks.
        """
        height, width = image.shape[:2]
        boxes = np.asarray(boxes_xyxy, dtype=float).reshape(-1, 4)
        classes = [int(c) for c in classes]
        if not self.cfg.MODEL.MASK_ON or not hasattr(self.model, "inference"):
            raise ValueError(
                f"the model of MODEL.META_ARCHITECTURE '{self.cfg.MODEL.META_ARCHITECTURE}' gives "
                f"no masks of boxes"
            )
        if len(boxes) != len(classes):
            raise ValueError(f"{len(boxes)} boxes need as many classes, got {len(classes)}")
        for i, ((x0, y0, x1, y1), c) in enumerate(zip(boxes.tolist(), classes)):
            if not (max(x0, 0) < min(x1, width) and max(y0, 0) < min(y1, height)):
                raise ValueError(
                    f"box {i}, {[x0, y0, x1, y1]} (x0, y0, x1, y1), has no area inside the image "
                    f"of {width} x {height} pixels"
                )
            if not 0 <= c < self.cfg.MODEL.ROI_HEADS.NUM_CLASSES:
                raise ValueError(
                    f"box {i} is of class {c}, and the model has classes 0 to "
                    f"{self.cfg.MODEL.ROI_HEADS.NUM_CLASSES - 1}"
                )
        return predict_masks(self, image, boxes, classes)


def load_predictor(path: PathLike, device: Optional[str] = None) -> Predictor:
    """The predictor of a model, trained or exported.

    Args:
        path: a folder: of an export in any format, or the ``OUTPUT_DIR`` of a training, or any
            with a ``config.yaml`` and a checkpoint ``model.pth`` or ``model_final.pth``.
        device: where to run, say "cuda"; None = where the config says, and exports on the CPU.

    Raises:
        ValueError: for another path, a broken model, or when a package is missing that it needs.
    """
    folder = Path(path)
    overrides = ["MODEL.DEVICE", device] if device else []
    cfg = config_in(folder, overrides)
    if not is_export(folder):
        return Predictor(cfg, build_predictor(cfg).model)
    content = read_manifest(folder)
    return Predictor(cfg, _MODELS[content["format"]](folder, cfg, device), vocabulary_in(content))


def is_export(folder: PathLike) -> bool:
    """Whether a folder is one that ``seg-every-thing export`` wrote, but of stock detectron2."""
    return Path(folder, MANIFEST).is_file()


def config_in(folder: PathLike, overrides: Sequence[Any] = ()) -> CfgNode:
    """The config of the model in a folder, with the checkpoint that is there, if any.

    Args:
        folder: as for :func:`load_predictor`.
        overrides: KEY, VALUE, ... on top.

    Raises:
        ValueError: when the folder holds no model.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"'{printable(folder)}' is no folder of a model: it must be a folder")
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"'{printable(folder)}' holds no model: neither that of an export nor a {CONFIG} with "
            f"a checkpoint beside it"
        )
    weights = [] if is_export(folder) else ["MODEL.WEIGHTS", _weights_in(folder)]
    return load_config(str(folder / CONFIG), [*weights, *overrides])


def files_in(folder: Optional[PathLike]) -> List[Path]:
    """The files that decide what the model in a folder finds, in a fixed order.

    Args:
        folder: as for :func:`load_predictor`; None = there are no files.

    Raises:
        ValueError: when the folder holds no model.
    """
    if folder is None:
        return []
    cfg = config_in(folder)
    if not is_export(folder):
        return [Path(folder, CONFIG), Path(cfg.MODEL.WEIGHTS)]
    endings = (*ENDINGS.values(), ".bin", ".yaml", ".json")
    return sorted(path for path in Path(folder).iterdir() if path.suffix in endings)


def _weights_in(folder: Path) -> str:
    found = [folder / name for name in _CHECKPOINTS if (folder / name).is_file()]
    weights = str(found[0]) if found else last_checkpoint(str(folder))
    if weights is None:
        raise ValueError(
            f"'{printable(folder)}' has a {CONFIG} and no checkpoint: neither "
            f"{', '.join(_CHECKPOINTS)} nor one of a training that was ended"
        )
    return weights
