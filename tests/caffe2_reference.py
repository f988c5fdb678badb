"""Detectron (Caffe2) models for tests: their blobs, their pickles, and their masks in numpy alone.

Written from the description of the original, with nothing of the code under test.
"""

import struct
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

Blobs = Dict[str, np.ndarray]

R50, R101 = (3, 4, 6, 3), (3, 4, 23, 3)


@dataclass(frozen=True)
class Caffe2Model:
    """What a Detectron model consists of; its widths are tiny unless given."""

    blocks: Tuple[int, ...] = R50
    classes: int = 6  # rows of the classifier, background included
    mask: Optional[str] = "transfer"  # or "agnostic", "specific", "trunk"; None = a detector
    inputs: str = "cls+box"  # of the transfer function, or the name of an embedding
    layers: int = 2
    mlp: int = 0  # layers of the MLP branch
    stem: int = 4
    neck: int = 2
    res2: int = 8
    fpn: int = 4
    fc: int = 8
    dim: int = 4
    vector: int = 7
    hidden: int = 16

    @classmethod
    def real(cls, **kwargs: Any) -> "Caffe2Model":
        """With the original's widths."""
        wide = dict(stem=64, neck=64, res2=256, fpn=256, fc=1024, dim=256, vector=300, hidden=1024)
        return cls(**{"classes": 81, **wide, **kwargs})

    def shapes(self) -> Dict[str, Tuple[int, ...]]:
        s: Dict[str, Tuple[int, ...]] = {"conv1_w": (self.stem, 3, 7, 7)}

        def layer(name: str, *shape: int, outputs: Optional[int] = None) -> None:
            s[f"{name}_w"] = shape
            s[f"{name}_b"] = (outputs or shape[0],)

        s["res_conv1_bn_s"] = s["res_conv1_bn_b"] = (self.stem,)
        before = self.stem
        for stage, count in zip((2, 3, 4, 5), self.blocks):
            neck, out = self.neck << (stage - 2), self.res2 << (stage - 2)
            for i in range(count):
                convs = {
                    "2a": (neck, before, 1, 1),
                    "2b": (neck, neck, 3, 3),
                    "2c": (out, neck, 1, 1),
                }
                if i == 0:
                    convs["1"] = (out, before, 1, 1)
                for branch, shape in convs.items():
                    name = f"res{stage}_{i}_branch{branch}"
                    s[f"{name}_w"] = shape
                    s[f"{name}_bn_s"] = s[f"{name}_bn_b"] = (shape[0],)
                before = out
            level = f"res{stage}_{count - 1}_sum"
            layer(f"fpn_inner_{level}" + "_lateral" * (stage < 5), self.fpn, out, 1, 1)
            layer(f"fpn_{level}", self.fpn, self.fpn, 3, 3)
        layer("conv_rpn_fpn2", self.fpn, self.fpn, 3, 3)
        layer("rpn_cls_logits_fpn2", 3, self.fpn, 1, 1)
        layer("rpn_bbox_pred_fpn2", 12, self.fpn, 1, 1)
        layer("fc6", self.fc, self.fpn * 49)
        layer("fc7", self.fc, self.fc)
        layer("cls_score", self.classes, self.fc)
        layer("bbox_pred", 4 * self.classes, self.fc)
        if self.mask is None:
            return s
        for i in range(4):
            layer(f"_[mask]_fcn{i + 1}", self.dim, self.dim if i else self.fpn, 3, 3)
        layer("conv5_mask", self.dim, self.dim, 2, 2)
        if self.mask == "transfer":
            d = {"cls": self.fc, "box": 4 * self.fc, "cls+box": 5 * self.fc}.get(self.inputs)
            if d is None:
                d = self.vector
                s[self.inputs] = (self.classes, d)
            for i in range(self.layers - 1):
                layer(f"bbox2mask_mlp_l{i + 1}", self.dim, self.dim if i else d)
            layer("mask_fcn_logits_w_flat", self.dim, self.dim if self.layers > 1 else d)
        elif self.mask in ("agnostic", "specific"):
            rows = 1 if self.mask == "agnostic" else self.classes
            layer("mask_fcn_logits", rows, self.dim, 1, 1)
        if self.mlp:
            d = self.dim * 28 * 28
            for i in range(self.mlp - 1):
                layer(f"fc_mask_head_mlp_l{i + 1}", self.hidden, self.hidden if i else d)
            layer("mask_mlp_logits_raw", 784, self.hidden if self.mlp > 1 else d)
        return s

    def blobs(self, seed: int = 0) -> Blobs:
        """Random weights, of a size at which activations neither vanish nor explode."""
        rng = np.random.default_rng(seed)
        return {
            name: (rng.standard_normal(s) * (3 / max(3, np.prod(s[1:]))) ** 0.5).astype("f4")
            for name, s in self.shapes().items()
        }

    def detectron2_state(self, blobs: Blobs) -> Blobs:
        """The weights under detectron2's and our names, background rows where they belong."""
        out: Blobs = {}

        def move(name: str, target: str, *ends: str) -> None:
            for end in ends or ("w", "b"):
                kind = "weight" if end in ("w", "bn_s") else "bias"
                out[f"{target}.{kind}"] = blobs[f"{name}_{end}"]

        def norm(name: str, target: str) -> None:
            move(name, target, "bn_s", "bn_b")
            width = len(blobs[f"{name}_bn_s"])
            out[f"{target}.running_mean"] = np.zeros(width, np.float32)
            out[f"{target}.running_var"] = np.full(width, 1 - 1e-5, np.float32)

        body = "backbone.bottom_up"
        move("conv1", f"{body}.stem.conv1", "w")
        norm("res_conv1", f"{body}.stem.conv1.norm")
        for stage, count in zip((2, 3, 4, 5), self.blocks):
            for i in range(count):
                for branch, conv in (
                    ("1", "shortcut"),
                    ("2a", "conv1"),
                    ("2b", "conv2"),
                    ("2c", "conv3"),
                ):
                    if branch != "1" or i == 0:
                        name = f"res{stage}_{i}_branch{branch}"
                        move(name, f"{body}.res{stage}.{i}.{conv}", "w")
                        norm(name, f"{body}.res{stage}.{i}.{conv}.norm")
            inner = f"fpn_inner_res{stage}_{count - 1}_sum" + ("_lateral" if stage < 5 else "")
            move(inner, f"backbone.fpn_lateral{stage}")
            move(f"fpn_res{stage}_{count - 1}_sum", f"backbone.fpn_output{stage}")
        rpn, heads = "proposal_generator.rpn_head", "roi_heads"
        move("conv_rpn_fpn2", f"{rpn}.conv")
        move("rpn_cls_logits_fpn2", f"{rpn}.objectness_logits")
        move("rpn_bbox_pred_fpn2", f"{rpn}.anchor_deltas")
        move("fc6", f"{heads}.box_head.fc1")
        move("fc7", f"{heads}.box_head.fc2")
        order = [*range(1, self.classes), 0]  # background last
        for end, kind in (("w", "weight"), ("b", "bias")):
            predictor = f"{heads}.box_predictor"
            out[f"{predictor}.cls_score.{kind}"] = blobs[f"cls_score_{end}"][order]
            out[f"{predictor}.bbox_pred.{kind}"] = blobs[f"bbox_pred_{end}"][4:]
        if self.mask is None:
            return out
        for i in range(1, 5):
            move(f"_[mask]_fcn{i}", f"{heads}.mask_head.mask_fcn{i}")
        move("conv5_mask", f"{heads}.mask_head.deconv")
        if self.mask == "transfer":
            for i in range(1, self.layers):
                move(f"bbox2mask_mlp_l{i}", f"{heads}.weight_transfer.layers.{2 * i - 2}")
            last = 2 * self.layers - 2
            move("mask_fcn_logits_w_flat", f"{heads}.weight_transfer.layers.{last}")
            if self.inputs in blobs:
                out[f"{heads}.class_vectors"] = blobs[self.inputs][1:]
        else:
            move("mask_fcn_logits", f"{heads}.mask_head.predictor")
            if self.mask == "specific":
                for kind in ("weight", "bias"):
                    name = f"{heads}.mask_head.predictor.{kind}"
                    out[name] = out[name][1:]
        for i in range(1, self.mlp):
            move(f"fc_mask_head_mlp_l{i}", f"{heads}.mask_head.mlp.layers.{2 * i - 1}")
        if self.mlp:
            move("mask_mlp_logits_raw", f"{heads}.mask_head.mlp.layers.{2 * self.mlp - 1}")
        return out

    def mask_probabilities(
        self, blobs: Blobs, rois: np.ndarray, classes: np.ndarray, slope: float
    ) -> np.ndarray:
        """(R, fpn, 14, 14) RoI features and (R,) classes from 0 -> (R, 28, 28) probabilities.

        ``slope`` is that of the transfer function's activation below zero.
        """
        b = {name: x.astype(np.float64) for name, x in blobs.items()}
        x = rois.astype(np.float64)
        for i in range(1, 5):
            windows = np.lib.stride_tricks.sliding_window_view(
                np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), axis=(2, 3)
            )
            x = np.einsum("rchwij,ocij->rohw", windows, b[f"_[mask]_fcn{i}_w"])
            x = np.maximum(x + b[f"_[mask]_fcn{i}_b"][:, None, None], 0)
        up = np.zeros((len(x), self.dim, 28, 28))
        for i in (0, 1):
            for j in (0, 1):  # every input pixel makes a block of 2 x 2
                kernel = b["conv5_mask_w"][:, :, i, j]
                up[:, :, i::2, j::2] = np.einsum("rchw,co->rohw", x, kernel)
        x = np.maximum(up + b["conv5_mask_b"][:, None, None], 0)

        if self.mask == "transfer":
            boxes = b["bbox_pred_w"].reshape(self.classes, 4 * self.fc)
            parts = {
                "cls": [b["cls_score_w"]],
                "box": [boxes],
                "cls+box": [b["cls_score_w"], boxes],
            }
            vectors = np.concatenate(parts.get(self.inputs, [b.get(self.inputs)]), axis=1)
            for i in range(1, self.layers):
                vectors = vectors @ b[f"bbox2mask_mlp_l{i}_w"].T + b[f"bbox2mask_mlp_l{i}_b"]
                vectors = np.where(vectors > 0, vectors, slope * vectors)
            kernels = vectors @ b["mask_fcn_logits_w_flat_w"].T + b["mask_fcn_logits_w_flat_b"]
            logits = np.einsum("rchw,kc->rkhw", x, kernels)
        else:
            logits = np.einsum("rchw,kc->rkhw", x, b["mask_fcn_logits_w"][:, :, 0, 0])
            logits += b["mask_fcn_logits_b"][:, None, None]
        if self.mlp:
            gist = x.reshape(len(x), -1)
            for i in range(1, self.mlp):
                name = f"fc_mask_head_mlp_l{i}"
                gist = np.maximum(gist @ b[f"{name}_w"].T + b[f"{name}_b"], 0)
            gist = gist @ b["mask_mlp_logits_raw_w"].T + b["mask_mlp_logits_raw_b"]
            logits = logits + gist.reshape(-1, 1, 28, 28)
        channel = 0 if self.mask == "agnostic" else classes + 1  # channel 0 is the background's
        return 1 / (1 + np.exp(-logits[np.arange(len(x)), channel]))


def python2_pickle(value: Any, protocol: int) -> bytes:
    """A pickle as Python 2 writes it: every string a byte string.  Protocol 0 or 2."""
    head = b"\x80\x02" if protocol else b""
    return head + b"".join(_python2(value, bool(protocol))) + b"."


def _python2(value: Any, binary: bool) -> List[bytes]:
    def nested(*values: Any) -> List[bytes]:
        return [part for v in values for part in _python2(v, binary)]

    if isinstance(value, np.ndarray):
        kind = value.dtype.str
        dtype = [b"cnumpy\ndtype\n(", *nested(kind[1:], 0, 1), b"tR("]
        dtype += [*nested(3, kind[0], None, None, None, -1, -1, 0), b"tb"]
        made = [
            b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n",
            *nested((0,), "b"),
            b"tR",
        ]
        state = [
            b"(",
            *nested(1, value.shape),
            *dtype,
            *nested(0, value.tobytes().decode("latin-1")),
        ]
        return [*made, *state, b"tb"]
    if isinstance(value, str):
        data = value.encode("latin-1")
        if not binary:
            return [b"S", repr(data)[1:].encode(), b"\n"]
        return [b"U", struct.pack("<B", len(data)), data] if len(data) < 256 else [
            b"T", struct.pack("<i", len(data)), data
        ]  # fmt: skip
    if isinstance(value, dict):
        items = [part for k, v in value.items() for part in [*nested(k, v), b"s"]]
        return [b"}" if binary else b"(d", *items]
    if isinstance(value, tuple):
        return [b"(", *nested(*value), b"t"]
    if isinstance(value, float):
        return [b"G", struct.pack(">d", value)] if binary else [f"F{value!r}\n".encode()]
    if isinstance(value, int):
        return [b"J", struct.pack("<i", value)] if binary else [f"I{value}\n".encode()]
    assert value is None
    return [b"N"]
