#!/usr/bin/env python3
"""Train or evaluate a model with seg_every_thing, in the manner of detectron2's train_net.py.

python projects_train_net.py --config-file configs/photos/maskx_efficientnet_lite0.yaml
python projects_train_net.py --config-file F --num-gpus 8 SOLVER.MAX_ITER 90000
python projects_train_net.py --config-file F --eval-only MODEL.WEIGHTS output/model_final.pth

The same as `seg-every-thing train`.
"""

import argparse
import sys

from seg_every_thing.cli import one_line_errors, train


def invoke_main() -> None:
    """Parse the arguments and start one process a GPU."""
    parser = argparse.ArgumentParser(
        epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    train.add_arguments(parser)
    args = parser.parse_args()
    with one_line_errors("projects_train_net.py"):
        train.run(args)


if __name__ == "__main__":
    sys.exit(invoke_main())
