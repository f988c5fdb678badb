"""The folder of an exported model: what its files are called, and what ``model.json`` says."""

import contextlib
import importlib
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence

import torch
import torchvision
from detectron2.config import CfgNode, get_cfg
from torch import nn

from ..config import add_seg_every_thing_config
from ..data.vocabulary import Vocabulary, vocabulary_of
from ..files import PathLike, check_targets, make_output_dir, printable, read_json, write_json
from ..leftovers import temporary_folder
from .checks import finds_boxes

ENDINGS = {"torchscript": ".ts", "onnx": ".onnx", "openvino": ".xml"}
"""Of the graphs, by format."""

MANIFEST, CONFIG, HELPER = "model.json", "config.yaml", "paste_masks.py"
_FIRST_LINE = "# For seg_every_thing; its weights are in the other files."

_TENSORS = {
    "image": "float32 (3, height, width), values 0 to 255, resized as `input` says",
    "boxes": "float32 (n, 4): x0, y0, x1, y1 in pixels of that image",
    "classes": "int64 (n,): indices of `class_names`",
    "scores": "float32 (n,): 0 to 1, highest first",
    "masks": "float32 (n, side, side): probabilities on boxes enlarged by `masks.scale`; "
    "paste_masks.py brings them into the image",
}
GRAPHS = {
    "detector": (("image",), ("boxes", "scores", "classes", "masks")),
    "prompted": (("image", "boxes", "classes"), ("masks",)),
}
"""Inputs and outputs of the two graphs, in their order."""


def graph_names(cfg: CfgNode) -> List[str]:
    """The graphs of a model: "detector", unless it finds no boxes by itself, and "prompted"."""
    return list(GRAPHS) if finds_boxes(cfg) else ["prompted"]


def manifest(
    cfg: CfgNode, format: str, packages: Sequence[str], model: Optional[nn.Module]
) -> Dict[str, Any]:
    """What ``model.json`` says.

    Args:
        cfg: of the model.
        format: "torchscript", "onnx" or "openvino".
        packages: whose versions made the files, beside torch and torchvision.
        model: whose parts are joined by this package; None = the graphs are complete.
    """
    vocabulary = vocabulary_of(cfg)
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    versions.update({name: importlib.import_module(name).__version__ for name in packages})
    graphs = {
        name: {
            "file": name + ENDINGS[format],
            "inputs": {x: _TENSORS[x] for x in GRAPHS[name][0]},
            "outputs": {x: _TENSORS[x] for x in GRAPHS[name][1]},
        }
        for name in graph_names(cfg)
    }
    head = cfg.MODEL.ROI_MASK_HEAD
    content = {
        "format": format,
        "versions": versions,
        "class_names": vocabulary.names,
        "display_names": vocabulary.display_names,
        "category_ids": vocabulary.category_ids,
        "set_a": None if vocabulary.set_a is None else sorted(vocabulary.set_a),
        "input": {
            "channels": cfg.INPUT.FORMAT,
            "shortest_edge": cfg.INPUT.MIN_SIZE_TEST,
            "longest_edge_at_most": cfg.INPUT.MAX_SIZE_TEST,
        },
        "masks": {"scale": 1.0 if head.CLIP_TO_BOX else head.BOX_SCALE, "threshold": 0.5},
    }
    if model is None:
        return {**content, "graphs": graphs}
    shapes = model.backbone.output_shape().items()
    content["parts"] = {
        "features": {name: {"channels": x.channels, "stride": x.stride} for name, x in shapes},
        "size_divisibility": model.backbone.size_divisibility,
    }
    return content


def vocabulary_in(content: Dict[str, Any]) -> Vocabulary:
    """The vocabulary that :func:`manifest` wrote down."""
    set_a = content["set_a"]
    return Vocabulary(
        content["class_names"],
        content["display_names"],
        content["category_ids"],
        None if set_a is None else frozenset(set_a),
    )


def read_manifest(folder: Path) -> Dict[str, Any]:
    """``model.json`` of a folder.

    Raises:
        ValueError: when it cannot be read, or is none of ours.
    """
    content = read_json(folder / MANIFEST)
    if not isinstance(content, dict) or content.get("format") not in ENDINGS:
        raise ValueError(
            f"'{printable(folder / MANIFEST)}' is none that `seg-every-thing export` wrote"
        )
    return content


def portable_config(cfg: CfgNode) -> CfgNode:
    """A copy that names no files of this machine: neither weights nor data."""
    cfg = cfg.clone()
    cfg.defrost()
    defaults = get_cfg()
    add_seg_every_thing_config(defaults)
    cfg.DATASETS = defaults.DATASETS
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    cfg.TEST.CLASS_SPLIT = ""
    cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""
    return cfg


def check_ours(output: Path, names: Iterable[str], first_line: str) -> None:
    """Let an export replace no files but those of one before it.

    Args:
        output: folder to write.
        names: of the files.
        first_line: of the config of each such export.

    Raises:
        ValueError: naming a file that no such export wrote.
    """
    with contextlib.suppress(OSError), open(output / CONFIG, "rb") as f:
        if f.readline().strip() == first_line.encode():
            return
    for name in names:
        if (output / name).exists():
            raise ValueError(
                f"'{printable(output / name)}' exists, and is of no such export: give another "
                f"--output, or move it away"
            )


@contextlib.contextmanager
def written_folder(
    output: PathLike,
    cfg: CfgNode,
    format: str,
    packages: Sequence[str] = (),
    model: Optional[nn.Module] = None,
) -> Iterator[Path]:
    """A folder to write graphs to; with the rest beside them it becomes ``output`` at the end.

    Where ``output`` holds an export, files of the same names are replaced, ``model.json`` last.

    Raises:
        ValueError: when the input, or files of another origin, would be written over.
        OSError: when it cannot be written.
    """
    output = Path(output).absolute()
    names = [MANIFEST, CONFIG, HELPER, *(n + ENDINGS[format] for n in graph_names(cfg))]
    check_targets([cfg.MODEL.WEIGHTS], [output / name for name in names])
    check_ours(output, names, _FIRST_LINE)
    make_output_dir(output.parent)
    with temporary_folder(output) as made:
        (made / CONFIG).write_text(
            f"{_FIRST_LINE}\n{portable_config(cfg).dump()}", encoding="utf-8"
        )
        shutil.copy(Path(__file__).with_name(HELPER), made / HELPER)
        write_json(made / MANIFEST, manifest(cfg, format, packages, model))
        yield made
        try:
            made.rename(output)  # which an empty folder does not prevent
        except OSError:
            if not output.is_dir():
                raise
            with contextlib.suppress(FileNotFoundError):
                os.unlink(output / MANIFEST)  # from here on it is no model until all is there
            for path in sorted(made.iterdir(), key=lambda p: p.name == MANIFEST):
                os.replace(path, output / path.name)
