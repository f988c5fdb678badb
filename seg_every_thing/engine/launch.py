"""Training and evaluation as detectron2's train_net.py runs them, on one process or many."""

import argparse
import logging
from typing import Any, Dict

from detectron2.config import CfgNode
from detectron2.engine import default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..checkpoint.safe_checkpointer import SafeCheckpointer
from ..config import load_config
from ..files import make_output_dir
from ..model_zoo import find_config_file
from .semantic_trainer import trainer_class
from .trainer import readable_checkpoint


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config, set up logging, and note both in the output folder."""
    args.config_file = find_config_file(args.config_file)  # which default_setup opens
    cfg = load_config(args.config_file, args.opts)
    cfg.freeze()
    make_output_dir(cfg.OUTPUT_DIR)
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="seg_every_thing", abbrev_name="set")
    return cfg


def evaluate(cfg: CfgNode, resume: bool) -> Dict[str, Any]:
    """Evaluate ``MODEL.WEIGHTS``, or with ``resume`` the last checkpoint of the output folder."""
    if not (cfg.MODEL.WEIGHTS or resume):
        logging.getLogger("seg_every_thing").warning("MODEL.WEIGHTS is empty: random weights")
    trainer = trainer_class(cfg)
    model = trainer.build_model(cfg)
    with readable_checkpoint(cfg.MODEL.WEIGHTS, cfg.OUTPUT_DIR if resume else ""):
        checkpointer = SafeCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    results = trainer.test(cfg, model)
    if comm.is_main_process() and cfg.TEST.EXPECTED_RESULTS:
        verify_results(cfg, results)
    return results


def main(args: argparse.Namespace) -> Dict[str, Any]:
    """Run on one process of possibly many."""
    cfg = setup(args)
    if args.eval_only:
        return evaluate(cfg, args.resume)
    trainer = trainer_class(cfg)(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def launch_training(args: argparse.Namespace) -> None:
    """Start one process a GPU, each with :func:`main`.

    Args:
        args: of the command ``seg-every-thing train``.
    """
    launch(
        main,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
