"""What several commands share: building a config from files and overrides."""

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Callable, List, Optional

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog

from ..config import add_seg_every_thing_config
from ..data.semantic_sets import register_used_semantic_datasets
from ..data.shapes import register_shapes
from ..data.visual_genome import register_used_visual_genome


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config-file`` and ``--opts``."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a YAML config")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides; must come last",
    )


def add_shapes_study_arguments(parser: argparse.ArgumentParser, jobs: int) -> None:
    """Add what commands that train rows on Shapes share; ``jobs`` is the default of ``--jobs``."""
    parser.add_argument(
        "--jobs", type=int, default=jobs, help="rows of Shapes that train at the same time"
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder of the data; default OUTPUT/data, where Shapes is drawn, and for other data "
        "$DETECTRON2_DATASETS",
    )
    parser.add_argument("--num-train", type=int, default=1500, help="training images to draw")
    parser.add_argument("--num-val", type=int, default=300, help="validation images to draw")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides for every row; must come last",
    )


def shapes_registration(args: argparse.Namespace) -> Callable[[], None]:
    """What draws and registers Shapes as :func:`add_shapes_study_arguments` was told; picklable."""
    return partial(
        register_shapes,
        args.data_root or args.output / "data",
        num_train=args.num_train,
        num_val=args.num_val,
    )


def load_config(config_file: str, opts: Optional[List[str]] = None) -> CfgNode:
    """Read a config: detectron2's and our defaults, the file with its bases, then the overrides.

    The device is the CPU where there is no GPU.  The data sets of Shapes are drawn when used.

    Raises:
        ValueError: for a missing or malformed file, or an unknown key; the message names it.
    """
    if not os.path.isfile(config_file):
        raise ValueError(f"the config file '{config_file}' does not exist")
    cfg = get_cfg()
    add_seg_every_thing_config(cfg)
    try:
        cfg.merge_from_file(config_file)
    except (KeyError, ValueError, AttributeError, AssertionError) as e:
        raise ValueError(f"config file '{config_file}': {e.args[0] if e.args else e}") from e
    except yaml.YAMLError as e:
        reason = " ".join(str(e).split())
        raise ValueError(f"config file '{config_file}' is not valid YAML: {reason}") from e
    try:
        cfg.merge_from_list(list(opts or []))
    except (KeyError, ValueError, AssertionError) as e:
        raise ValueError(f"config override: {e.args[0] if e.args else e}") from e
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    register_used_shapes(cfg)
    register_used_semantic_datasets(cfg)
    register_used_visual_genome(cfg)
    return cfg


def register_used_shapes(cfg: CfgNode, root: Optional[Path] = None) -> None:
    """Draw and register Shapes where a config uses it and nobody has registered it yet."""
    used = {*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST}
    if used & {"shapes_train", "shapes_val"} - set(DatasetCatalog.list()):
        register_shapes(root)
