import copy
import re
from pathlib import Path
from typing import Any, Callable, List, Optional

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from helpers import shapes_config, snapshot
from tiny_heads import D, K, as_predictions, make_features, make_heads, make_image
from torch import nn

from seg_every_thing import PartiallySupervisedROIHeads
from seg_every_thing.modeling.add_class import add_class, read_class_vector

NEW = torch.linspace(-1, 2, D, dtype=torch.float64)


class Model(nn.Module):
    """As much of a detector as adding a class touches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.roi_heads = make_heads(*args, **kwargs).eval()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def embedded(num_classes: int = K, normalize_over: Optional[List[int]] = None) -> Model:
    indices = None if normalize_over is None else torch.tensor(normalize_over)
    kwargs = {"num_classes": num_classes, "normalize_over": indices}
    return Model("transfer", "upsampled", "embedding", **kwargs)


@torch.no_grad()
def masks(model: Model, features: Any, classes: List[int]) -> torch.Tensor:
    """For given boxes, one for each of the classes."""
    predictions = as_predictions(make_image(classes))
    return model.roi_heads.forward_with_given_boxes(features, [predictions])[0].pred_masks


@pytest.mark.parametrize("normalize_over", [None, [1, 2, 5]])
def test_masks_are_those_of_a_model_built_with_all_classes(
    normalize_over: Optional[List[int]],
) -> None:
    model, larger = embedded(K, normalize_over), embedded(K + 2, normalize_over)
    vectors = torch.stack([NEW, -2 * NEW])
    for i, vector in enumerate(vectors):
        assert add_class(model, f"new {i}", vector) == K + i
    assert model.roi_heads.class_vectors.shape == (K + 2, D)
    with torch.no_grad():
        larger.roi_heads.class_vectors.copy_(model.roi_heads.class_vectors)
    for name in ("weight_transfer", "mask_head"):
        weights = getattr(model.roi_heads, name).state_dict()
        getattr(larger.roi_heads, name).load_state_dict(weights)
    features, classes = make_features(1), [K, 2, K + 1, K]
    ours, theirs = masks(model, features, classes), masks(larger, features, classes)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    assert (ours[0] - ours[2]).abs().max() > 1e-3  # the vector matters
    filters = model.roi_heads.mask_weights()
    torch.testing.assert_close(filters, larger.roi_heads.mask_weights(), rtol=1e-12, atol=1e-13)
    assert filters.shape[0] == K + 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_classes_keep_every_bit(dtype: torch.dtype) -> None:
    model = embedded().to(dtype)
    features = {"p2": make_features(1)["p2"].to(dtype)}
    classes = list(range(K))
    before, filters = masks(model, features, classes), model.roi_heads.mask_weights()
    rows = model.roi_heads.class_vectors.clone()
    for name in ("unicorn", "dragon"):
        add_class(model, name, NEW)
        assert torch.equal(masks(model, features, classes), before)
        assert torch.equal(model.roi_heads.mask_weights()[:K], filters)
    assert torch.equal(model.roi_heads.class_vectors[:K], rows)
    assert model.roi_heads.class_vectors.dtype == dtype
    assert model.roi_heads.num_classes == model.roi_heads.box_predictor.num_classes == K


def test_filters_are_kept_until_something_they_depend_on_changes() -> None:
    model = embedded()
    add_class(model, "unicorn", NEW)
    heads = model.roi_heads
    first = heads.mask_weights()
    assert heads.mask_weights() is first
    with torch.no_grad():
        heads.weight_transfer.layers[-1].bias.add_(1)
    torch.testing.assert_close(heads.mask_weights(), first + 1)
    with torch.no_grad():
        heads.class_vectors[K] += 1
    changed = (heads.mask_weights() - first - 1).abs().amax(dim=1) > 1e-9
    assert changed.tolist() == [False] * K + [True]
    add_class(model, "dragon", NEW)
    assert len(heads.mask_weights()) == K + 2


def test_an_added_class_drops_kept_filters_whatever_the_address_of_its_vectors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The memory of vectors that are gone may be that of the new ones.
    model = embedded()
    add_class(model, "unicorn", NEW)
    heads = model.roi_heads
    monkeypatch.setattr(heads, "_transfer_state", lambda transfer: [(1, 0)])
    assert len(heads.mask_weights()) == K + 1
    add_class(model, "dragon", NEW)
    assert len(heads.mask_weights()) == K + 2


def test_training_goes_on_with_the_classes_of_the_detector() -> None:
    model, features = embedded(), make_features(1)
    image = make_image([1, 4], [True, True])
    with EventStorage():
        before = model.roi_heads.train()._forward_mask(features, [image])["loss_mask"]
        add_class(model, "unicorn", NEW)
        after = model.roi_heads.train()._forward_mask(features, [image])["loss_mask"]
    assert torch.equal(before, after)


def test_a_copy_has_the_class_too() -> None:
    model, features = embedded(), make_features(1)
    add_class(model, "unicorn", NEW)
    again = copy.deepcopy(model)
    add_class(again, "dragon", -NEW)
    assert torch.equal(masks(again, features, [K, 1]), masks(model, features, [K, 1]))
    assert len(model.roi_heads.class_vectors) == K + 1


# A whole detector


@pytest.fixture
def detector(tmp_path: Path, tiny_shapes: Path) -> Callable[[int], nn.Module]:
    """Function that builds a detector whose T takes embeddings, of random weights from a seed."""
    opts = ["MODEL.WEIGHT_TRANSFER.INPUT", "embedding", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0]
    opts += ["MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE", "random:0", "MODEL.WEIGHTS", ""]
    cfg = shapes_config("maskx", tmp_path, *opts)

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return build_model(cfg).eval()

    return build


def test_detections_stay_as_they_are(detector: Callable[[int], nn.Module]) -> None:
    model = detector(0)
    inputs = [{"image": torch.randint(256, (3, 96, 128), dtype=torch.uint8)}]
    with torch.no_grad():
        before = model(inputs)[0]["instances"]
        add_class(model, "unicorn", np.ones(300))
        after = model(inputs)[0]["instances"]
    assert len(before) > 0
    for name, value in before.get_fields().items():
        other = after.get(name)
        assert torch.equal(getattr(value, "tensor", value), getattr(other, "tensor", other)), name


def test_checkpoints_hold_the_trained_classes_and_load_with_and_without_added_ones(
    tmp_path: Path, detector: Callable[[int], nn.Module]
) -> None:
    model, vector = detector(0), torch.linspace(-1, 1, 300)
    before = snapshot(model)
    add_class(model, "unicorn", vector)
    DetectionCheckpointer(model, str(tmp_path)).save("after")
    saved = torch.load(tmp_path / "after.pth", weights_only=True)["model"]
    assert saved.keys() == before.keys()
    assert all(torch.equal(saved[name], value) for name, value in before.items())

    fresh, added = detector(1), detector(2)
    fresh.load_state_dict(saved)  # strictly
    assert torch.equal(fresh.roi_heads.class_vectors, model.roi_heads.class_vectors[:48])
    add_class(added, "dragon", vector)
    add_class(added, "unicorn", -vector)
    added.roi_heads.class_vectors[:48] = 0
    result = DetectionCheckpointer(added).load(str(tmp_path / "after.pth"))
    assert result is not None
    assert torch.equal(added.roi_heads.class_vectors[:48], model.roi_heads.class_vectors[:48])
    assert torch.equal(added.roi_heads.class_vectors[48:], torch.stack([vector, -vector]))
    filters = model.roi_heads.mask_weights()
    assert torch.equal(added.roi_heads.mask_weights()[:48], filters[:48])
    torch.testing.assert_close(added.roi_heads.mask_weights()[48], filters[48])


# Refusals


@pytest.mark.parametrize("transfer_input", ["cls", "box", "cls+box"])
def test_box_weights_cannot_be_made_up(transfer_input: str) -> None:
    model = Model("transfer", None, transfer_input)
    with pytest.raises(ValueError, match=f"its T takes '{re.escape(transfer_input)}'.*boxes"):
        add_class(model, "unicorn", NEW)
    assert type(model.roi_heads) is PartiallySupervisedROIHeads


@pytest.mark.parametrize("predictor", ["class_agnostic", "class_specific", "none"])
def test_models_without_t_are_refused(predictor: str) -> None:
    with pytest.raises(ValueError, match=rf"\('{predictor}'\) has no T .*'embedding'"):
        add_class(Model(predictor, "upsampled"), "unicorn", NEW)


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="no mask branch of Mask"):
        add_class(nn.Linear(2, 2), "unicorn", NEW)
    boxes_alone = embedded()
    boxes_alone.roi_heads.mask_in_features = None
    boxes_alone.roi_heads.mask_on = False
    with pytest.raises(ValueError, match="no mask branch of Mask"):
        add_class(boxes_alone, "unicorn", NEW)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (np.zeros(D + 1), f"has {D + 1} values, those of the model's classes {D}"),
        (np.zeros(0), "has 0 values"),
        (np.zeros((1, D)), r"\(D,\) real numbers, not float64 of shape \(1, 5\)"),
        (np.zeros(D, dtype=complex), "real numbers, not complex128"),
        (np.zeros(D, dtype=bool), "real numbers, not bool"),
        (np.array(["a"] * D), "real numbers"),
        (np.array([0, 0, np.nan, 0, 0]), "not finite"),
        (torch.tensor([0, 0, -torch.inf, 0, 0]), "not finite"),
        (np.full(D, 1e300), "not finite"),  # in float32
    ],
)
def test_bad_vectors_change_nothing(vector: Any, message: str) -> None:
    model = embedded().float()
    with pytest.raises(ValueError, match=f"added class 'unicorn'.*{message}"):
        add_class(model, "unicorn", vector)
    assert type(model.roi_heads) is PartiallySupervisedROIHeads
    assert len(model.roi_heads.class_vectors) == K


def test_names_are_unique() -> None:
    model = embedded()
    add_class(model, "unicorn", NEW)
    with pytest.raises(ValueError, match="'unicorn': its name was added before"):
        add_class(model, "unicorn", -NEW)
    with pytest.raises(ValueError, match="its name is empty"):
        add_class(model, "", NEW)
    assert len(model.roi_heads.mask_weights()) == K + 1


# Files


@pytest.mark.parametrize("shape", [(5,), (1, 5)])
def test_a_vector_from_a_file(tmp_path: Path, shape: Any) -> None:
    np.save(tmp_path / "v.npy", np.arange(5).reshape(shape))
    assert read_class_vector(str(tmp_path / "v.npy")).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 5)), r"v.npy' holds 3 vectors \(3, 5\): give the row of the class"),
        (np.zeros((1, 1, 5)), r"v.npy' is an array of shape \(1, 1, 5\)"),
        (np.zeros(0), r"v.npy' is an array of shape \(0,\)"),
        (np.float64(1), r"v.npy' is an array of shape \(\)"),
        (np.array([None]), "cannot read the class vector '.*v.npy'"),
    ],
)
def test_other_shapes_are_refused(tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "v.npy", array)
    with pytest.raises(ValueError, match=message):
        read_class_vector(str(tmp_path / "v.npy"))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read the class vector '.*none.npy'"):
        read_class_vector(str(tmp_path / "none.npy"))
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(ValueError, match="cannot read the class vector '.*broken.npy'"):
        read_class_vector(str(tmp_path / "broken.npy"))
    with pytest.raises(ValueError, match="'.*v.txt': .* read from a .npy file"):
        read_class_vector(str(tmp_path / "v.txt"))
    np.savez(tmp_path / "archive.npz", a=np.zeros(5))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    with pytest.raises(ValueError, match="archive.npy' is an archive"):
        read_class_vector(str(tmp_path / "archive.npy"))
