#!/usr/bin/env python3
"""Train or evaluate a model with seg_every_thing, in the manner of detectron2's train_net.py.

python projects_train_net.py --config-file configs/photos/maskx_efficientnet_lite0.yaml
python projects_train_net.py --config-file F --num-gpus 8 SOLVER.MAX_ITER 90000
python projects_train_net.py --config-file F --eval-only MODEL.WEIGHTS output/model_final.pth
"""

import argparse
import logging
import sys
from typing import Any, Dict

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from seg_every_thing.checkpoint.safe_checkpointer import SafeCheckpointer
from seg_every_thing.cli import one_line_errors
from seg_every_thing.config import load_config
from seg_every_thing.engine.semantic_trainer import trainer_class
from seg_every_thing.engine.trainer import readable_checkpoint
from seg_every_thing.files import make_output_dir


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config, set up logging, and note both in the output folder."""
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


def invoke_main() -> None:
    """Parse the arguments and start one process a GPU."""
    args = default_argument_parser(epilog=__doc__).parse_args()
    with one_line_errors("projects_train_net.py"):
        launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )


if __name__ == "__main__":
    sys.exit(invoke_main())
