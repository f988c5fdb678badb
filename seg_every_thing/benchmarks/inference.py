"""Whole models end to end: stock detectron2, this package's ways to run a model, and exports."""

import importlib
import logging
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultPredictor

from ..config import load_config
from ..engine.box_prompts import model_inputs, predict_masks
from ..engine.predictor import build_predictor
from ..export.predictor import load_predictor
from ..export.stock import export_stock
from ..leftovers import temporary_folder
from ..processes import keep_freed_memory
from .agreement import ap_against
from .measuring import largest_size, processor_name, versions
from .turns import Row, measure_in_turns
from .untrained import (
    found_by,
    largest_differences,
    noise_photographs,
    some_boxes,
    write_untrained,
)

logger = logging.getLogger(__name__)

MODELS = {
    "R_50_FPN": ("coco/transfer_R_50_FPN_1x.yaml", (800, 1067)),
    "photos": ("photos/maskx_efficientnet_lite0.yaml", (320, 427)),
}
"""Config of each model, and height and width of its images."""

MODES = ("detect", "boxes")
FORMATS = ("torchscript", "onnx", "openvino")
FEWER = 300  # proposals of the RPN; detectron2 takes 1000
BOXES = 10  # given in an image
_KEPT, _FEWER = "stock, memory kept", f"fast, {FEWER} proposals"
KINDS = ("stock", _KEPT, "eager", "fast", _FEWER)


class Inference:
    """A way to run a model, which takes the images in turn."""

    def __init__(self, kind: str, mode: str, folder: str, size: Tuple[int, int]) -> None:
        """
        Args:
            kind: "stock", "eager", "fast", another name of a row, or a format of an export.
            mode: "detect", or "boxes" (masks of given boxes).
            folder: what :func:`_prepare` wrote, or that of an export.
            size: height and width of the images.
        """
        self.predictor = _predictor(kind, Path(folder))
        self.mode = mode
        self.images = noise_photographs(3, *size)
        self.boxes = some_boxes(BOXES, *size)
        self.turn = 0

    def run(self, image: np.ndarray) -> Any:
        """Objects of an image with their masks in it, on the CPU."""
        if self.mode == "boxes":
            return predict_masks(self.predictor, image, self.boxes, [0] * len(self.boxes))
        return self.predictor(image)["instances"].to("cpu")

    def sizes(self) -> Row:
        """What is found in each image, and the largest size of the process so far."""
        found = []
        for image in self.images:
            inputs, given = model_inputs(self.predictor, image, self.boxes, [0] * len(self.boxes))
            boxes = given if self.mode == "boxes" else None
            found.append(found_by(self.predictor.model, inputs, boxes))
            self.run(image)
        return {"peak_bytes": largest_size(), "found": found}

    def seconds(self) -> Tuple[float, float]:
        """Wall and processor time of the next image."""
        image = self.images[self.turn % len(self.images)]
        self.turn += 1
        start, cpu_start = time.perf_counter(), time.process_time()
        self.run(image)
        return time.perf_counter() - start, time.process_time() - cpu_start


def _predictor(kind: str, folder: Path) -> DefaultPredictor:
    if kind in ("stock", _KEPT):
        if kind == _KEPT:
            keep_freed_memory()
        cfg = get_cfg()
        cfg.merge_from_file(str(folder / "stock" / "config.yaml"))
        return DefaultPredictor(cfg)
    if kind in ("eager", "fast", _FEWER):
        cfg = load_config(str(folder / "config.yaml"), ["TEST.FAST", kind != "eager"])
        if kind == _FEWER:
            cfg.MODEL.RPN.POST_NMS_TOPK_TEST = FEWER
        return build_predictor(cfg)
    return load_predictor(folder / kind if kind in FORMATS else folder)


def _prepare(
    config: str, size: Tuple[int, int], device: str, options: Sequence[Any], folder: Path
) -> Dict[str, str]:
    """Write a model and its exports; returns why there is none, by the kind of row."""
    cfg = load_config(config, ["MODEL.WEIGHTS", "", *options])
    cfg.MODEL.DEVICE = device
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min(size), max(size)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.05
    weights = folder / "model.pth"
    write_untrained(cfg, noise_photographs(1, *size)[0], weights)
    cfg.MODEL.TIMM.WEIGHTS, cfg.MODEL.WEIGHTS = "", str(weights)
    (folder / "config.yaml").write_text(cfg.dump())
    skipped = {}
    if cfg.MODEL.RPN.POST_NMS_TOPK_TEST <= FEWER:
        skipped[_FEWER] = f"has {cfg.MODEL.RPN.POST_NMS_TOPK_TEST} proposals as it is"
    try:
        export_stock(cfg, folder / "stock")
    except ValueError as e:
        skipped.update(dict.fromkeys(("stock", _KEPT), str(e)))
    for name in FORMATS:
        try:
            module = importlib.import_module(f"..export.to_{name}", __package__)
            getattr(module, f"export_{name}")(_for_export(cfg), folder / name)
        except (ImportError, RuntimeError, ValueError) as e:
            skipped[name] = str(e).splitlines()[0]
    if device != "cpu":
        skipped.update(dict.fromkeys(FORMATS, "exports are measured on the CPU"))
    return skipped


def _for_export(cfg: CfgNode) -> CfgNode:
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def benchmark_inference(
    models: Sequence[str] = tuple(MODELS),
    *,
    repeats: int = 20,
    device: str = "cpu",
    model_folders: Sequence[str] = (),
    options: Sequence[Any] = (),
    sizes: Optional[Dict[str, Tuple[int, int]]] = None,
) -> Dict[str, Any]:
    """Measure whole models from the image to masks in it, each way beside stock detectron2.

    Args:
        models: of :data:`MODELS`.
        repeats: timed images of each row; rows take turns, an image each.
        device: of everything but exports.
        model_folders: exports, or outputs of trainings, that are measured on the same images.
        options: KEY, VALUE, ... on top of the configs.
        sizes: height and width of the images of a model, where others are wanted.

    Returns:
        ``{"rows", "versions", "device", "processor", "threads"}``.  A row has ``name``, ``model``,
        ``mode``, what :func:`measure_in_turns` says (``ratio`` to the first row of the model's
        mode that there is: stock, or eager where stock has no such model), ``detections`` an image,
        ``peak_bytes`` of its process, and how far it is from that row: :func:`largest_differences`
        and ``mask_ap``, that of its objects where those of the other row are the truth.

    Raises:
        ValueError: for an unknown model, no repeats, or a device that is not there.
    """
    unknown = [name for name in models if name not in MODELS]
    if unknown or repeats < 1:
        raise ValueError(
            f"unknown model '{unknown[0]}': expected {', '.join(MODELS)}"
            if unknown
            else f"the number of repeats must be at least 1, got {repeats}"
        )
    processor = processor_name(device)
    rows: List[Row] = []
    with temporary_folder(Path(tempfile.gettempdir(), "inference")) as place:
        for name in models:
            config, size = MODELS[name]
            size = (sizes or {}).get(name, size)
            folder = place / name
            folder.mkdir()
            skipped = _prepare(config, size, device, options, folder)
            places = [(kind, folder) for kind in (*KINDS, *FORMATS)]
            places += [(str(x), Path(x)) for x in model_folders]
            rows += _measure(name, places, skipped, size, repeats)
    return {
        "rows": rows,
        "versions": versions(),
        "device": device,
        "processor": processor,
        "threads": torch.get_num_threads(),
    }


def _measure(
    model: str,
    places: Sequence[Tuple[str, Path]],
    skipped: Dict[str, str],
    size: Tuple[int, int],
    repeats: int,
) -> List[Row]:
    rows: List[Row] = []
    builds = []
    for mode in MODES:
        for kind, folder in places:
            if mode == "boxes" and kind == _FEWER:
                continue  # has no proposals
            rows.append({"name": kind, "model": model, "mode": mode})
            if kind in skipped:
                rows[-1]["skipped"] = skipped[kind]
            builds.append(partial(Inference, kind, mode, str(folder), size))
    first = {
        mode: next(i for i, r in enumerate(rows) if r["mode"] == mode and "skipped" not in r)
        for mode in MODES
    }
    measure_in_turns(rows, builds, repeats, compared_with=[first[r["mode"]] for r in rows])
    truths = {mode: rows[i].get("found", []) for mode, i in first.items()}
    for row in rows:
        found, truth = row.pop("found", None), truths[row["mode"]]
        if found:
            row["detections"] = sum(len(x["boxes"]) for x in found) / len(found)
            row.update(largest_differences(found, truth), mask_ap=ap_against(found, truth))
    return rows
