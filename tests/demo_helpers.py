"""What the tests of `seg-every-thing demo` share: a tiny model, images, and a stubbed predictor."""

import argparse
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from seg_every_thing.cli import demo

CONFIG = str(Path(__file__).parent.parent / "configs" / "shapes" / "Base-Shapes-RCNN-FPN.yaml")
TINY = [
    *("MODEL.RESNETS.WIDTH_PER_GROUP", "4", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "4"),
    *("MODEL.ROI_HEADS.NAME", "PartiallySupervisedROIHeads"),
    *("MODEL.ROI_MASK_HEAD.NAME", "MaskXHead"),
    *("MODEL.ROI_MASK_HEAD.NUM_CONV", "1", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8"),
    *("MODEL.WEIGHTS", "", "TEST.DETECTIONS_PER_IMAGE", "3"),
    *("DATASETS.MASK_CLASSES", "shapes_A", "TEST.CLASS_SPLIT", ""),
]
EMBEDDED = [
    *("MODEL.WEIGHT_TRANSFER.INPUT", "embedding"),
    *("MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE", "random:0", "SEED", "1"),
]


def run_demo(
    inputs: Sequence[Path], output: Path, extra: Sequence[Any] = (), opts: Sequence[Any] = ()
) -> Path:
    """Run the command on inputs with a tiny model of random weights; returns the output folder."""
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    arguments = ["--config-file", CONFIG, "--input", *map(str, inputs), "--output", str(output)]
    assert demo.run(parser.parse_args([*arguments, *map(str, extra), "--opts", *TINY, *opts])) == 0
    return Path(output)


def write_images(folder: Path, names: Sequence[str]) -> Path:
    """Images of noise, 120 wide and 100, 110, ... high."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        pixels = rng.integers(0, 256, (100 + 10 * i, 120, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), pixels)
    return folder


def fixed_predictor(
    classes: List[int], scores: List[float], errors: Optional[Mapping[int, BaseException]] = None
) -> Callable[[np.ndarray], Dict[str, Instances]]:
    """A predictor with the same answer to every image, and errors by the number of the call."""
    calls: List[int] = []

    def predict(image: np.ndarray) -> Dict[str, Instances]:
        calls.append(1)
        if errors and len(calls) in errors:
            raise errors[len(calls)]
        n, size = len(classes), image.shape[:2]
        instances = Instances(size)
        instances.pred_boxes = Boxes(torch.tensor([[10.0, 20.0, 40.0, 70.0]]).repeat(n, 1))
        instances.pred_classes = torch.tensor(classes, dtype=torch.long)
        instances.scores = torch.tensor(scores)
        instances.pred_masks = torch.zeros(n, *size, dtype=torch.bool)
        instances.pred_masks[:, 20:70, 10:40] = True
        return {"instances": instances}

    return predict


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
