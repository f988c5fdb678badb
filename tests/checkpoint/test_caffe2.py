"""Every weight of a Detectron model arrives where it belongs, or is reported, or refused."""

import functools
import logging
import pickle
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import pytest
import torch
from caffe2_reference import R101, Caffe2Model, python2_pickle
from detectron2.modeling import build_model

from seg_every_thing.checkpoint.caffe2 import (
    Conversion,
    convert_blobs,
    convert_detectron_file,
    skeleton,
)
from seg_every_thing.checkpoint.caffe2_config import config_from_shapes

MODELS: Dict[str, Caffe2Model] = {
    "maskx_R50": Caffe2Model(mlp=1),
    "maskx_R101": Caffe2Model(blocks=R101, mlp=1),
    "visual_genome": Caffe2Model(classes=3002, mlp=1),
    "one_layer": Caffe2Model(layers=1),
    "three_layers_deep_mlp": Caffe2Model(layers=3, mlp=3, dim=6),
    "cls": Caffe2Model(inputs="cls"),
    "box": Caffe2Model(inputs="box"),
    "glove": Caffe2Model(inputs="v_glove"),
    "agnostic_mlp": Caffe2Model(mask="agnostic", mlp=1),
    "oracle": Caffe2Model(mask="specific"),
    "detector": Caffe2Model(mask=None),
    "one_class": Caffe2Model(classes=2, mask="specific"),
}


@functools.lru_cache(maxsize=None)
def _made(name: str) -> Dict[str, np.ndarray]:
    return MODELS[name].blobs()


def blobs_of(name: str) -> Dict[str, np.ndarray]:
    """A dictionary of its own with arrays that must not be changed."""
    return dict(_made(name))


def with_leftovers(model: Caffe2Model, blobs: Dict[str, Any]) -> Dict[str, Any]:
    """As training and surgery leave a file: optimizer state, backups, blobs of other models."""
    rng = np.random.default_rng(9)
    extra: Dict[str, Any] = {f"{name}_momentum": x + 1 for name, x in blobs.items()}
    for name in ("cls_score_w", "cls_score_b", "bbox_pred_w", "bbox_pred_b"):
        extra[f"{name}_jcvbackup"] = rng.random((7 * len(blobs[name]), *blobs[name].shape[1:]))
    extra["fc1000_w"], extra["fc1000_b"] = rng.random((10, 6)), rng.random(10)
    extra["conv1_b"] = np.zeros(model.stem, np.float32)
    extra["v_other"] = rng.random((model.classes, 3)).astype("f4")
    extra["fpn_inner_res4_99_sum_lateral_w"] = np.zeros((1, 1), np.float32)
    extra["lr"] = 0.02
    return {**extra, **blobs}


def write(path: Path, blobs: Dict[str, Any], cfg: str = "MODEL: {}\n", protocol: int = 2) -> Path:
    path.write_bytes(python2_pickle({"blobs": blobs, "cfg": cfg}, protocol))
    return path


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_the_model_has_the_value_of_its_blob(name: str, tmp_path: Path) -> None:
    original, blobs = MODELS[name], blobs_of(name)
    conversion = convert_detectron_file(
        write(
            tmp_path / "X.pkl", with_leftovers(original, blobs), protocol=0 if name == "cls" else 2
        )
    )
    expected = original.detectron2_state(blobs)
    model = skeleton(conversion.cfg, conversion.class_vectors)
    assert {n: tuple(x.shape) for n, x in model.state_dict().items()} == {
        n: x.shape for n, x in expected.items()
    }
    assert conversion.model.keys() == expected.keys() and conversion.missing == []
    for key, value in expected.items():
        actual = conversion.model[key]
        assert actual.dtype == torch.float32
        assert actual.untyped_storage().nbytes() == value.nbytes, key  # no dropped rows behind it
        np.testing.assert_array_equal(actual.numpy(), value, err_msg=key)
    # The file's keys: each once, used or ignored.
    assert conversion.used.keys() == blobs.keys()
    assert sorted(conversion.used.values()) == sorted(expected.keys() - conversion.constants.keys())
    assert conversion.ignored.keys() == with_leftovers(original, blobs).keys() - blobs.keys() | {
        "cfg"
    }


def test_reasons_of_ignored_keys() -> None:
    blobs = with_leftovers(MODELS["glove"], blobs_of("glove"))
    ignored = convert_blobs(blobs).ignored
    assert ignored["bbox2mask_mlp_l1_w_momentum"] == "optimizer state"
    assert "another set of classes" in ignored["cls_score_w_jcvbackup"]
    assert "embedding" in ignored["v_other"] and ignored["lr"] == "not an array"
    for name in ("fc1000_w", "conv1_b", "fpn_inner_res4_99_sum_lateral_w"):
        assert ignored[name] == "no layer of the model has this name"


REAL: Dict[str, Tuple[Caffe2Model, int]] = {  # with the number of parameters in the original
    "R50": (Caffe2Model.real(mlp=1), 205),
    "R101": (Caffe2Model.real(blocks=R101, mlp=1), 358),
    "VG": (Caffe2Model.real(classes=3002, mlp=1), 205),
    "stage-wise": (Caffe2Model.real(inputs="v_randn_0", layers=3), 206),
}


@pytest.mark.parametrize("name", REAL)
def test_models_of_the_original_size(name: str) -> None:
    original, count = REAL[name]
    shapes = original.shapes()
    assert len(shapes) == count
    cfg, vectors = config_from_shapes(shapes)
    assert (101 if name == "R101" else 50) == cfg.MODEL.RESNETS.DEPTH
    assert original.classes - 1 == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert (cfg.MODEL.RESNETS.RES2_OUT_CHANNELS, cfg.MODEL.RESNETS.WIDTH_PER_GROUP) == (256, 64)
    assert (cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.ROI_BOX_HEAD.FC_DIM) == (256, 1024)
    assert cfg.MODEL.ROI_MASK_HEAD.CONV_DIM == 256 and cfg.MODEL.ROI_MASK_HEAD.NUM_CONV == 4
    assert bool(original.mlp) == cfg.MODEL.ROI_MASK_HEAD.MLP.ENABLED
    assert original.layers == cfg.MODEL.WEIGHT_TRANSFER.NUM_LAYERS
    if vectors is not None:
        assert vectors == "v_randn_0" and cfg.MODEL.WEIGHT_TRANSFER.INPUT == "embedding"
    class_vectors = None if vectors is None else np.zeros((original.classes - 1, 300), np.float32)
    model = skeleton(cfg, class_vectors)
    # Shapes alone: arrays without memory stand for the blobs.
    blobs = {n: np.broadcast_to(np.float32(0), s) for n, s in shapes.items()}
    expected = {n: x.shape for n, x in original.detectron2_state(blobs).items()}
    assert {n: tuple(x.shape) for n, x in model.state_dict().items()} == expected


def test_the_config_has_the_conventions_of_detectron() -> None:
    cfg, _ = config_from_shapes(Caffe2Model.real(mlp=1).shapes())
    assert cfg.MODEL.PIXEL_MEAN == [102.9801, 115.9465, 122.7717]
    assert cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0] and cfg.INPUT.FORMAT == "BGR"
    for head in (cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD):
        assert (head.POOLER_TYPE, head.POOLER_SAMPLING_RATIO) == ("ROIAlign", 2)
    assert cfg.MODEL.ANCHOR_GENERATOR.OFFSET == 0.5
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 and cfg.MODEL.RESNETS.NORM == "FrozenBN"
    assert (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST) == (800, 1333)
    assert cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST == 0.05
    assert cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST == 0.5 and cfg.TEST.DETECTIONS_PER_IMAGE == 100
    assert (cfg.MODEL.RPN.PRE_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST) == (1000, 1000)
    assert cfg.MODEL.WEIGHT_TRANSFER.STOP_GRADIENT and not cfg.MODEL.WEIGHT_TRANSFER.NORMALIZE
    assert cfg.DATASETS.TEST == ("coco_2017_val",)
    assert config_from_shapes(Caffe2Model.real(classes=3002).shapes())[0].DATASETS.TEST == ()


def test_class_agnostic_boxes() -> None:
    blobs = Caffe2Model(inputs="cls").blobs()
    blobs["bbox_pred_w"], blobs["bbox_pred_b"] = blobs["bbox_pred_w"][:8], blobs["bbox_pred_b"][:8]
    conversion = convert_blobs(blobs)
    assert conversion.cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG
    weight = conversion.model["roi_heads.box_predictor.bbox_pred.weight"]
    np.testing.assert_array_equal(weight.numpy(), blobs["bbox_pred_w"][4:])


ACTIVATIONS: List[Tuple[str, Any, str]] = [
    ("", None, "leaky_relu"),
    ("", "relu", "relu"),
    ("MRCNN:\n  BBOX2MASK:\n    USE_LEAKYRELU: false\n", None, "relu"),
    ("MRCNN:\n  BBOX2MASK: !!python/object/new:x\n    USE_LEAKYRELU: true\n", None, "leaky_relu"),
    ("USE_LEAKYRELU: false\n", "leaky_relu", "leaky_relu"),
]


@pytest.mark.parametrize("settings, wanted, expected", ACTIVATIONS)
def test_the_activation(settings: str, wanted: Any, expected: str) -> None:
    cfg = convert_blobs(Caffe2Model().blobs(), settings, wanted).cfg
    assert expected == cfg.MODEL.WEIGHT_TRANSFER.ACTIVATION


def test_one_embedding_of_several_is_chosen_by_the_settings_or_by_name() -> None:
    blobs = Caffe2Model(inputs="v_glove").blobs()
    blobs["v_randn_0"] = blobs["v_glove"] + 1

    def chosen(settings: str = "", embedding: Any = None) -> Any:
        return (
            convert_blobs(blobs, settings, embedding=embedding).class_vectors - blobs["v_glove"][1:]
        )

    assert np.all(chosen("  PRETRAINED_EMBED_NAME: !!python/str 'v_glove'\n") == 0)
    np.testing.assert_allclose(chosen("PRETRAINED_EMBED_NAME: v_randn_0\n"), 1, atol=1e-6)
    np.testing.assert_allclose(
        chosen("PRETRAINED_EMBED_NAME: v_glove\n", "v_randn_0"), 1, atol=1e-6
    )
    with pytest.raises(ValueError, match="one of v_glove, v_randn_0 with --embedding"):
        chosen("PRETRAINED_EMBED_NAME: ''\nOTHER: v_glove\n")
    with pytest.raises(ValueError, match="does not read the embedding 'v_other'"):
        convert_blobs(Caffe2Model().blobs(), embedding="v_other")


def test_models_without_rpn_are_converted_and_it_is_reported() -> None:
    blobs = {n: x for n, x in blobs_of("maskx_R50").items() if "rpn" not in n}
    missing = convert_blobs(blobs).missing
    assert len(missing) == 6 and all(n.startswith("proposal_generator.rpn_head.") for n in missing)


NEEDED = ["conv1_w", "res4_3_branch2b_bn_s", "fpn_res3_3_sum_b", "fc6_w", "cls_score_b",
          "bbox_pred_w", "_[mask]_fcn1_w", "_[mask]_fcn3_b", "conv5_mask_w",
          "bbox2mask_mlp_l1_b", "bbox2mask_mlp_l1_w", "mask_fcn_logits_w_flat_w",
          "mask_fcn_logits_w_flat_b", "mask_mlp_logits_raw_w"]  # fmt: skip


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_weight_is_an_error(name: str) -> None:
    blobs = blobs_of("maskx_R50")
    target = convert_blobs(blobs).used[name]
    del blobs[name]
    with pytest.raises(ValueError) as error:
        convert_blobs(blobs)
    assert target in str(error.value) or f"'{name}'" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [*NEEDED, "rpn_bbox_pred_fpn2_w", "cls_score_w", "fc7_w"])
def test_a_wrong_shape_is_an_error_that_names_key_found_and_expected(name: str) -> None:
    blobs = blobs_of("maskx_R50")
    shape = blobs[name].shape
    found = (shape[0], shape[1] + 1, *shape[2:]) if len(shape) > 1 else (shape[0] + 2,)
    blobs[name] = np.zeros(found, np.float32)
    with pytest.raises(ValueError) as error:
        convert_blobs(blobs)
    message = str(error.value)
    assert f"'{name}' has shape {found}, expected " in message and "\n" not in message
    if name != "bbox2mask_mlp_l1_w":  # its width tells what T reads: several are possible
        assert message.endswith(f"expected {shape}")
    else:
        assert "8 (cls), 32 (box), 40 (cls+box)" in message


def test_wrong_rows_are_named_too() -> None:
    for name in ("cls_score_w", "bbox_pred_w", "fc6_w", "conv1_w", "res2_0_branch2c_w"):
        blobs = blobs_of("maskx_R50")
        shape = blobs[name].shape
        blobs[name] = np.concatenate([blobs[name], blobs[name][:4]])
        with pytest.raises(ValueError) as error:
            convert_blobs(blobs)
        assert str(error.value) == (
            f"blob '{name}' has shape {blobs[name].shape}, expected {shape}"
        )


def test_an_embedding_without_its_background_row_is_refused() -> None:
    blobs = blobs_of("glove")
    blobs["v_glove"] = blobs["v_glove"][1:]
    with pytest.raises(ValueError, match=r"'v_glove' has shape \(5, 7\), expected \(6, 7\)"):
        convert_blobs(blobs)


def test_weights_that_are_no_weights_are_refused() -> None:
    for bad in (np.zeros((8, 8), np.int64), np.zeros((), np.float32)):
        blobs = {**blobs_of("detector"), "fc7_w": bad}
        with pytest.raises(ValueError, match="'fc7_w' holds (int64|float32) of shape"):
            convert_blobs(blobs)


BAD_FILES: List[Tuple[Any, str]] = [
    ((1, 2), "is not a Detectron model: it holds tuple"),
    ({"blobs": 3}, "is not a Detectron model: it has no arrays by name"),
    ({1: 2}, "is not a Detectron model: it has no arrays by name"),
    ({"model": {}, "__author__": "x"}, "is in detectron2's format already"),
    ({}, "not a ResNet-50, -101 or -152 .* have 0, 0, 0, 0 blocks"),
    ({"blobs": {"res2_0_branch1_w": np.zeros(3)}}, "have 1, 0, 0, 0 blocks"),
]


@pytest.mark.parametrize("content, message", BAD_FILES)
def test_other_files_are_refused(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "X.pkl"
    path.write_bytes(python2_pickle(content, 2))
    with pytest.raises(ValueError, match=f"X.pkl'.*{message}"):
        convert_detectron_file(path)


def test_backbones_and_models_without_fpn_are_refused() -> None:
    blobs = blobs_of("detector")
    backbone = {n: x for n, x in blobs.items() if n.startswith(("conv1", "res"))}
    with pytest.raises(ValueError, match="it has no fpn_inner_res5_2_sum_w or"):
        convert_blobs(backbone)
    with pytest.raises(ValueError, match="it has no cls_score_w or"):
        convert_blobs({n: x for n, x in blobs.items() if not n.startswith(("cls", "bbox"))})


@pytest.mark.parametrize("protocol", [0, 2, 3, 5])
def test_keys_that_python_3_wrote_as_bytes(protocol: int, tmp_path: Path) -> None:
    """A file of Python 2, read with encoding="bytes" and written again."""
    settings = "MODEL:\n  USE_LEAKYRELU: False\n"
    blobs = with_leftovers(MODELS["maskx_R50"], blobs_of("maskx_R50"))
    expected = convert_detectron_file(write(tmp_path / "X.pkl", blobs, settings))
    again = {
        b"blobs": {k.encode(): v.encode() if isinstance(v, str) else v for k, v in blobs.items()},
        b"cfg": settings.encode(),
    }
    (tmp_path / "Y.pkl").write_bytes(pickle.dumps(again, protocol))
    found = convert_detectron_file(tmp_path / "Y.pkl")
    assert found.cfg == expected.cfg
    assert found.cfg.MODEL.WEIGHT_TRANSFER.ACTIVATION == "relu"
    assert (found.used, found.ignored) == (expected.used, expected.ignored)
    assert found.model.keys() == expected.model.keys()
    assert all(torch.equal(found.model[name], x) for name, x in expected.model.items())


def test_a_bare_dictionary_of_blobs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blobs = blobs_of("detector")
    path = tmp_path / "X.pkl"
    path.write_bytes(python2_pickle(blobs, 2))
    with caplog.at_level(logging.ERROR):
        conversion: Conversion = convert_detectron_file(path)
    assert conversion.used.keys() == blobs.keys() and conversion.ignored == {}
    # Not on the meta device: the model that users get.
    model = build_model(_on_cpu(conversion))
    assert model.load_state_dict(conversion.model, strict=True)


def _on_cpu(conversion: Conversion) -> Any:
    cfg = conversion.cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    return cfg
