"""`seg-every-thing convert`: a Detectron (Caffe2) pickle as a detectron2 checkpoint and config."""

import argparse
import contextlib
import logging
import os
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np
import torch

from ..checkpoint.caffe2 import Conversion, convert_detectron_file
from ..files import check_targets, make_output_dir, write_json, written_atomically

HELP = "Convert a Detectron (Caffe2) .pkl model to a detectron2 checkpoint and config."

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(*("--input", "-i"), required=True, metavar="X.pkl", help="Detectron model")
    parser.add_argument(
        *("--output", "-o"),
        required=True,
        metavar="Y.pth",
        help="checkpoint to write; the config goes to Y.yaml, and class vectors that the model "
        "reads to Y_class_vectors.npy",
    )
    parser.add_argument(
        "--report", metavar="R.json", help="write what became of every blob of the input"
    )
    parser.add_argument(
        "--activation",
        choices=("leaky_relu", "relu"),
        help="of the weight transfer function; weights do not tell (default: what the training "
        "config inside the input says, else leaky_relu)",
    )
    parser.add_argument(
        "--embedding", metavar="BLOB", help="class vectors to use, where the input has several"
    )


def run(args: argparse.Namespace) -> None:
    """Run the command.  Either all of its files are written or none.

    Raises:
        ValueError: for an input that cannot be converted, or that would be written over; the
            message names it.
        OSError: when the output cannot be written.
    """
    output = Path(os.path.abspath(args.output))
    if output.suffix != ".pth":
        raise ValueError(f"--output '{args.output}' must end in .pth")
    vectors_file = _class_vectors_file(output)
    check_targets([args.input], [output, output.with_suffix(".yaml"), vectors_file, args.report])
    logger.info("Reading %s", args.input)
    conversion = convert_detectron_file(args.input, args.activation, args.embedding)
    write_conversion(conversion, args.input, output, args.report)
    _log_summary(conversion, output)


def write_conversion(
    conversion: Conversion, source: str, output: Path, report: Optional[str] = None
) -> None:
    """Write the checkpoint ``output``, the config and class vectors beside it, and the report.

    Raises:
        OSError: when they cannot be written; then none of them is.
    """
    cfg = conversion.cfg.clone()
    cfg.MODEL.WEIGHTS = str(output)
    vectors_file = _class_vectors_file(output)
    if conversion.class_vectors is not None:
        cfg.MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE = str(vectors_file)
    make_output_dir(output.parent)
    checkpoint = {"model": conversion.model, "__author__": "seg_every_thing"}
    header = f"# The model of {os.path.basename(source)}, converted by seg-every-thing convert."
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(written_atomically(output, "wb"))]
        torch.save(checkpoint, files[0])
        files.append(stack.enter_context(written_atomically(output.with_suffix(".yaml"))))
        files[1].write(f"{header}\n{cfg.dump()}")
        if conversion.class_vectors is not None:
            files.append(stack.enter_context(written_atomically(vectors_file, "wb")))
            np.save(files[2], conversion.class_vectors)
        for file in files:  # or a full disk would show when some of them are in place
            file.flush()
        if report:
            write_json(report, report_of(conversion, source, output))


def _class_vectors_file(output: Path) -> Path:
    return output.with_name(f"{output.stem}_class_vectors.npy")


def report_of(conversion: Conversion, source: str, output: Path) -> Dict[str, Any]:
    """What became of every blob of the input, and where every tensor of the model comes from."""
    cfg = conversion.cfg.MODEL
    mask_branch: Optional[Dict[str, Any]] = None
    if cfg.MASK_ON:
        transfer = cfg.WEIGHT_TRANSFER
        mask_branch = {
            "predictor": cfg.ROI_MASK_HEAD.PREDICTOR,
            "mlp": cfg.ROI_MASK_HEAD.MLP.ENABLED,
        }
        if cfg.ROI_MASK_HEAD.PREDICTOR == "transfer":
            mask_branch.update(
                input=transfer.INPUT, num_layers=transfer.NUM_LAYERS, activation=transfer.ACTIVATION
            )
    return {
        "input": source,
        "output": str(output),
        "model": {
            "backbone": f"R-{cfg.RESNETS.DEPTH}-FPN",
            "num_classes": cfg.ROI_HEADS.NUM_CLASSES,
            "mask_branch": mask_branch,
        },
        "used": conversion.used,
        "ignored": conversion.ignored,
        "constants": conversion.constants,
        "missing": conversion.missing,
    }


def _log_summary(conversion: Conversion, output: Path) -> None:
    model = report_of(conversion, "", output)["model"]
    branch = model["mask_branch"]
    masks = "no masks"
    if branch is not None:
        masks = f"masks: {branch['predictor']}"
        if branch["predictor"] == "transfer":
            masks += f" ({branch['input']}, {branch['num_layers']} layers, {branch['activation']})"
        masks += " + MLP" * branch["mlp"]
    logger.info("%s, %d classes, %s", model["backbone"], model["num_classes"], masks)
    reasons = Counter(conversion.ignored.values()).most_common()
    logger.info(
        "%d blobs used, %d ignored%s",
        *(len(conversion.used), len(conversion.ignored)),
        "".join(f"; {count}: {reason}" for reason, count in reasons),
    )
    if conversion.missing:
        logger.warning(
            "The input has no weights for the RPN (%d tensors), as models trained on given "
            "proposals: its proposals are random until you load or train one",
            len(conversion.missing),
        )
    logger.info("Checkpoint: %s; config: %s", output, output.with_suffix(".yaml"))
