"""Short runs with default keys, and what came out of them: the same now as at commit ec4b60b.

Each function takes no argument but a folder, and uses nothing that ec4b60b lacks, so that the
records can be made there:  PYTHONPATH=<ec4b60b>/tests:<ec4b60b> python tests/recorded_runs.py OUT
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from helpers import shapes_config
from tiny_heads import K, as_predictions, make_heads, make_image
from torch.nn import functional

from seg_every_thing import Trainer, register_shapes

STEPS = 20
WIDTHS = (  # those of the records
    *("MODEL.RESNETS.WIDTH_PER_GROUP", 16, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64),
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", 16),
)
RUNS: Dict[str, Sequence[Any]] = {  # configs of configs/shapes with tiny layers, and overrides
    "maskx": ("MODEL.FREEZE_DETECTOR", False),
    "class_agnostic": ("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True),
}


def digest(tensors: Sequence[torch.Tensor]) -> str:
    """Changes with any bit of any of them."""
    value = hashlib.sha256()
    for tensor in tensors:
        value.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        value.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return value.hexdigest()[:32]


def environment() -> str:
    """Changes with what decides the bits of plain arithmetic here: libraries, CPU, its kernels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 8, 40, 40, generator=generator).requires_grad_()
    w = (torch.randn(16, 8, 3, 3, generator=generator) / 8).requires_grad_()
    up = torch.randn(16, 8, 2, 2, generator=generator) / 8
    y = functional.conv_transpose2d(functional.conv2d(x, w, padding=1).relu(), up, stride=2)
    z = functional.batch_norm(y, None, None, training=True).flatten(1)
    out = (z @ torch.randn(z.shape[1], 50, generator=generator)).log_softmax(1).exp()
    out.square().sum().backward()
    versions = "|".join((torch.__version__, np.__version__, cv2.__version__))
    return f"{versions}|{digest([out, x.grad, w.grad])}"


def trained_and_applied(name: str, folder: Path) -> Dict[str, Any]:
    """Losses, weights after 20 steps, and predictions, of a run with the real Trainer."""
    torch.set_num_threads(1)
    register_shapes(folder / "data", num_train=12, num_val=6)
    options = ("SOLVER.MAX_ITER", STEPS, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0)
    options = (*options, *WIDTHS, *RUNS[name], "DATASETS.TEST", ())
    cfg = shapes_config(name, folder / name, *options)
    seed_all_rng(1)
    trainer = Trainer(cfg)
    losses: List[torch.Tensor] = []
    images: List[torch.Tensor] = []

    def keep(_: Any, inputs: Any, outputs: Dict[str, torch.Tensor]) -> None:
        losses.extend(outputs[key] for key in sorted(outputs))
        images.extend(sample["image"] for sample in inputs[0])

    hook = trainer.model.register_forward_hook(keep)
    trainer.train()
    hook.remove()
    assert len(losses) >= STEPS
    state = trainer.model.state_dict()
    trainer.model.eval()
    found: List[torch.Tensor] = []
    for batch in Trainer.build_test_loader(cfg, "shapes_val"):
        with torch.no_grad():
            for output in trainer.model.inference(batch, do_postprocess=False):
                found += [output.pred_boxes.tensor, output.scores, output.pred_classes]
                found.append(output.pred_masks)
            found += [x["instances"].pred_masks for x in trainer.model(batch)]
    assert sum(len(x) for x in found) > 20, "too few detections to say anything"
    return {
        "images": digest(images),
        "losses": digest(losses),
        "weights": digest([state[key] for key in sorted(state)]),
        "predictions": digest(found),
    }


def numbers() -> Dict[str, List[float]]:
    """Losses and masks of RoI heads in float64, from NumPy's numbers: the same on every CPU."""
    record = {}
    for predictor in ("transfer", "class_agnostic", "class_specific"):
        random = np.random.RandomState(0)
        heads = make_heads(predictor, "upsampled")
        for parameter in heads.parameters():
            parameter.data = torch.from_numpy(random.normal(0, 0.3, parameter.shape))
        optimizer = torch.optim.SGD(heads.parameters(), lr=0.01, momentum=0.9)
        targets = make_image([2, 5, 2, 0], [True, False, True, True])[:4]
        values = []
        with EventStorage():
            for _ in range(STEPS):
                features = {"p2": torch.from_numpy(random.normal(0, 1, (1, 4, 16, 16)))}
                proposals = Instances((64, 64))
                jitter = torch.from_numpy(random.normal(0, 0.7, (12, 4)))
                proposals.proposal_boxes = Boxes(
                    targets.gt_boxes.tensor.repeat(3, 1).double() + jitter
                )
                proposals.objectness_logits = torch.zeros(12, dtype=torch.float64)
                truth = Instances((64, 64), **{k: targets.get(k) for k in _TARGET_FIELDS})
                losses = heads(None, features, [proposals], [truth])[1]
                optimizer.zero_grad()
                sum(losses.values()).backward()
                optimizer.step()
                values += [losses[key].item() for key in sorted(losses)]
        heads.eval()
        with torch.no_grad():
            given = [as_predictions(make_image(list(range(K))))]
            masks = heads.forward_with_given_boxes(features, given)[0].pred_masks
        record[predictor] = values + masks.mean(dim=(1, 2, 3)).tolist()
    return record


_TARGET_FIELDS = ("gt_boxes", "gt_classes", "gt_masks", "gt_has_mask")


def all_records() -> Dict[str, Any]:
    """What the file of expectations holds."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: trained_and_applied(name, Path(folder)) for name in RUNS}
    return {"environments": {environment(): runs}, "numbers": numbers()}


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(all_records(), indent=1) + "\n")
