"""Class vectors from .npy and GloVe text files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg_every_thing.modeling.class_vectors import load_class_vectors

NAMES = ("dog", "Traffic light", "kite", "hot-dog")
GLOVE = "the 9 9\ndog 1 2\ntraffic 3 5\nlight -1 1\nkite 0.5 -7e-1\nhot 5 0\n"


def write(tmp_path: Path, array: Any) -> str:
    path = str(tmp_path / "vectors.npy")
    np.save(path, array)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64])
def test_npy_in_class_order(tmp_path: Path, dtype: type) -> None:
    rows = np.array([[1, 2, 3], [4, 5, 6]])
    vectors = load_class_vectors(write(tmp_path, rows.astype(dtype)), 2)
    assert vectors.dtype == torch.float32
    assert torch.equal(vectors, torch.tensor([[1.0, 2, 3], [4, 5, 6]]))


def test_npy_in_fortran_order(tmp_path: Path) -> None:
    rows = np.arange(6.0).reshape(2, 3)
    vectors = load_class_vectors(write(tmp_path, np.asfortranarray(rows)), 2)
    assert torch.equal(vectors, torch.from_numpy(rows).float()) and vectors.is_contiguous()


def test_glove_averages_the_words_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE)
    vectors = load_class_vectors(str(path), 4, NAMES)
    expected = torch.tensor([[1.0, 2], [1, 3], [0.5, -0.7], [3, 1]])
    torch.testing.assert_close(vectors, expected)


def test_glove_names_the_words_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(GLOVE)
    with pytest.raises(ValueError, match="no vector for the words: sheep, stop") as e:
        load_class_vectors(str(path), 3, ["dog", "stop light", "sheep"])
    assert str(path) in str(e.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("dog 1 2\nkite 1 2 3\n", "differ in length"),
        ("dog 1 2\nkite 1 x\n", "cannot read word vectors"),
        ("dog 1 2\nkite 1 nan\n", "not finite"),
        ("dog\nkite\n", "shape"),
    ],
)
def test_bad_glove_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as e:
        load_class_vectors(str(path), 2, ["dog", "kite"])
    assert str(path) in str(e.value)


def test_glove_needs_class_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="need the names of the classes"):
        load_class_vectors(str(tmp_path / "glove.txt"), 2)


def test_random_vectors_depend_on_the_seed_alone() -> None:
    vectors = load_class_vectors("random:3", 400)
    assert vectors.shape == (400, 300)
    assert torch.equal(vectors, load_class_vectors("random:3", 400, ["any"] * 400))
    assert not torch.allclose(vectors, load_class_vectors("random:4", 400))
    assert vectors.std().item() == pytest.approx(0.38, rel=0.01)
    cosine = torch.nn.functional.normalize(vectors) @ torch.nn.functional.normalize(vectors).T
    assert cosine.fill_diagonal_(0).abs().max() < 0.35  # a class says nothing of another


def test_random_words_share_the_vectors_of_their_words() -> None:
    red_cup, blue_cup, cup = load_class_vectors("random-words:5", 3, ["red cup", "Blue_cup", "cup"])
    (red,) = load_class_vectors("random-words:5", 1, ["red"])
    torch.testing.assert_close(red_cup, (red + cup) / 2)
    assert torch.nn.functional.cosine_similarity(red_cup, blue_cup, dim=0) > 0.3
    (other,) = load_class_vectors("random-words:6", 1, ["cup"])
    assert not torch.allclose(cup, other)


@pytest.mark.parametrize("path", ["random:", "random:-1", "random:x", "random-words:1.5"])
def test_a_seed_must_be_a_number(path: str) -> None:
    with pytest.raises(ValueError, match="expected a seed .* 'random(-words)?:0'"):
        load_class_vectors(path, 2, ["dog", "kite"])


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((3, 4)), r"\(3, 4\), expected \(2, D\)"),
        (np.zeros(2), r"\(2,\), expected \(2, D\)"),
        (np.zeros((2, 0)), r"\(2, 0\), expected \(2, D\)"),
        (np.array([[1.0, np.nan], [0, 0]]), "not finite"),
        (np.array([[1.0, np.inf], [0, 0]]), "not finite"),
        (np.full((2, 2), 1e300), "not finite"),  # not in float32
        (np.array([["a", "b"], ["c", "d"]]), "numbers"),
    ],
)
def test_bad_npy_contents(tmp_path: Path, array: np.ndarray, message: str) -> None:
    path = write(tmp_path, array)
    with pytest.raises(ValueError, match=message) as e:
        load_class_vectors(path, 2)
    assert path in str(e.value)


class Bomb:
    """Would show that it was unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("the file was unpickled",))


def test_pickled_npy_is_refused_unread(tmp_path: Path) -> None:
    path = write(tmp_path, np.array([[Bomb()], [Bomb()]], dtype=object))
    with pytest.raises(ValueError, match="cannot read class vectors from"):
        load_class_vectors(path, 2)


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY", b"not an array", b"PK\x05\x06" + b"\0" * 18]
)
def test_broken_npy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vectors.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot read class vectors from") as e:
        load_class_vectors(str(path), 2)
    assert str(path) in str(e.value)


@pytest.mark.parametrize("file_name", ["none.npy", "none.txt"])
def test_missing_file(tmp_path: Path, file_name: str) -> None:
    path = str(tmp_path / file_name)
    with pytest.raises(ValueError, match="cannot read") as e:
        load_class_vectors(path, 1, ["dog"])
    assert path in str(e.value)


def test_no_file_given() -> None:
    with pytest.raises(ValueError, match="MODEL.WEIGHT_TRANSFER.EMBEDDING_FILE"):
        load_class_vectors("", 2)
