"""The drawn data set: reproducible, exact, and safe to make from many processes."""

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List
from unittest import mock

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from conftest import unregister
from detectron2.data import DatasetCatalog, MetadataCatalog
from full_disk import full_disk

from seg_every_thing import register_shapes
from seg_every_thing.data.datasets import shapes
from seg_every_thing.data.datasets.shapes import HUES, SHAPES_CLASSES, draw_image

SIZES = {"num_train": 4, "num_val": 3, "image_size": 64}


@pytest.fixture(autouse=True)
def forget_shapes() -> Iterator[None]:
    yield
    for name in ("shapes_train", "shapes_val"):
        unregister(name)


def folder_of(root: Path) -> Path:
    (folder,) = (root / "shapes").iterdir()  # one, and no leftovers
    return folder


def files_of(root: Path) -> Dict[str, bytes]:
    folder = folder_of(root)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


def content_of(root: Path, split: str) -> Dict[str, Any]:
    return json.loads((folder_of(root) / f"instances_{split}.json").read_text())


def test_equal_seeds_give_equal_files_whatever_the_global_state(tmp_path: Path) -> None:
    for i in range(2):
        np.random.seed(i)
        register_shapes(root=tmp_path / str(i), seed=5, **SIZES)
    files = files_of(tmp_path / "0")
    assert files == files_of(tmp_path / "1")
    names = {"instances_train.json", "instances_val.json"}
    names |= {f"train/{i:06d}.png" for i in range(4)} | {f"val/{i:06d}.png" for i in range(3)}
    assert files.keys() == names


def test_seeds_sets_and_images_all_differ(tmp_path: Path) -> None:
    for seed in range(2):
        register_shapes(root=tmp_path / str(seed), seed=seed, **SIZES)
    pictures = [
        content
        for seed in range(2)
        for name, content in files_of(tmp_path / str(seed)).items()
        if name.endswith(".png")
    ]
    assert len(pictures) == len(set(pictures)) == 14


def test_drawing_leaves_the_global_generator_alone() -> None:
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    draw_image(np.random.default_rng(0), 64)
    assert np.random.rand() == expected


def test_masks_boxes_and_areas_agree(tiny_shapes: Path) -> None:
    records = DatasetCatalog.get("shapes_train")
    assert len(records) == 12 and len(DatasetCatalog.get("shapes_val")) == 6
    for record in records:
        assert cv2.imread(record["file_name"]).shape == (128, 128, 3)
        seen = np.zeros((128, 128), int)
        for annotation in record["annotations"]:
            mask = mask_util.decode(annotation["segmentation"])
            seen += mask
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert annotation["bbox"] == box
            assert 80 < mask.sum() < 0.35 * 128**2
        assert seen.max() == 1  # no pixel belongs to two objects
        assert record["annotations"]


def test_json_says_the_same(tiny_shapes: Path) -> None:
    metadata = MetadataCatalog.get("shapes_val")
    content = json.loads(Path(metadata.json_file).read_text())
    assert [c["id"] for c in content["categories"]] == list(range(1, 49))
    assert tuple(c["name"] for c in content["categories"]) == SHAPES_CLASSES
    assert [a["id"] for a in content["annotations"]] == list(
        range(1, len(content["annotations"]) + 1)
    )
    for annotation in content["annotations"]:
        assert annotation["area"] == mask_util.area(annotation["segmentation"])
        assert annotation["iscrowd"] == 0 and 1 <= annotation["category_id"] <= 48


def drawn_with_full_masks(seed: int, size: int) -> Any:
    """An image's objects, and the whole mask of each shape that was tried."""
    full: List[np.ndarray] = []

    def remember(*args: Any) -> np.ndarray:
        full.append(original(*args))
        return full[-1]

    original = shapes._shape_mask
    with mock.patch.object(shapes, "_shape_mask", remember):
        _, objects = draw_image(np.random.default_rng(seed), size)
    return objects, full


def test_every_object_shows_two_fifths_of_itself() -> None:
    occluded = 0
    for seed in range(60):
        objects, full = drawn_with_full_masks(seed, 64)
        assert 1 <= len(objects) <= 6
        for _, visible in objects:
            # The whole object is the smallest tried shape that holds all that is visible.
            whole = min(f.sum() for f in full if not (visible & ~f).any())
            assert visible.sum() >= 0.4 * whole
            occluded += visible.sum() < whole
    assert occluded > 20  # objects do hide each other: that is what the data set is for


def test_colours_tell_the_classes() -> None:
    """The hue seen under a mask is the hue in the name of its class."""
    for seed in range(20):
        image, objects = draw_image(np.random.default_rng(seed), 96)
        hue = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[..., 0].astype(float)
        for class_index, mask in objects:
            angles = hue[mask] * np.pi / 90
            mean = np.angle(np.exp(1j * angles).mean()) * 90 / np.pi
            expected = dict(HUES)[SHAPES_CLASSES[class_index].split()[0]]
            distance = abs((mean - expected + 90) % 180 - 90)
            assert distance < 6, (seed, SHAPES_CLASSES[class_index], mean)


def test_all_classes_occur() -> None:
    classes = {
        class_index
        for seed in range(300)
        for class_index, _ in draw_image(np.random.default_rng(seed), 32)[1]
    }
    assert classes == set(range(48))


def test_a_second_call_writes_nothing(tmp_path: Path) -> None:
    register_shapes(root=tmp_path, **SIZES)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with mock.patch.object(shapes, "_draw_data_set", side_effect=AssertionError("drew again")):
        register_shapes(root=tmp_path, **SIZES)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert len(DatasetCatalog.get("shapes_train")) == 4


def test_other_arguments_point_the_names_elsewhere(tmp_path: Path) -> None:
    for num_train in (4, 2, 4):
        register_shapes(root=tmp_path, num_train=num_train, num_val=1, image_size=64)
        assert len(DatasetCatalog.get("shapes_train")) == num_train
        assert f"_{num_train}_1_" in MetadataCatalog.get("shapes_train").json_file
    assert len(list((tmp_path / "shapes").iterdir())) == 2


def test_root_comes_from_the_environment(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    register_shapes(**SIZES)
    assert folder_of(tmp_path / "data").is_dir()
    monkeypatch.delenv("DETECTRON2_DATASETS")
    monkeypatch.chdir(tmp_path)
    register_shapes(**SIZES)
    assert folder_of(tmp_path / "datasets").is_dir()


def register_in_process(root: str, barrier: Any, results: Any) -> None:
    try:
        barrier.wait(60)
        register_shapes(root=root, **SIZES)
        results.put(len(DatasetCatalog.get("shapes_val")))
    except BaseException as e:
        results.put(repr(e))


def test_processes_that_start_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for attempt in range(3):
        root = tmp_path / str(attempt)
        barrier, results = context.Barrier(2), context.Queue()
        processes = [
            context.Process(target=register_in_process, args=(str(root), barrier, results))
            for _ in range(2)
        ]
        for process in processes:
            process.start()
        assert [results.get(timeout=60) for _ in processes] == [3, 3]
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
        assert len(files_of(root)) == 9  # one folder, complete, and no temporary one


def test_the_slower_process_keeps_the_first_result(tmp_path: Path) -> None:
    """The race for certain: another process finishes while this one is drawing."""
    register_shapes(root=tmp_path / "other", **SIZES)
    finished = folder_of(tmp_path / "other")
    draw_split = shapes._draw_split

    def draw_and_be_overtaken(staging: Path, split: str, *args: Any) -> None:
        draw_split(staging, split, *args)
        if split == "val":
            finished.rename(tmp_path / "shapes" / finished.name)

    with mock.patch.object(shapes, "_draw_split", draw_and_be_overtaken):
        register_shapes(root=tmp_path, **SIZES)
    assert len(files_of(tmp_path)) == 9
    assert len(DatasetCatalog.get("shapes_train")) == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_interrupted_drawing_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with mock.patch.object(cv2, "imencode", side_effect=error), pytest.raises(type(error)):
        register_shapes(root=tmp_path, **SIZES)
    assert os.listdir(tmp_path / "shapes") == []
    assert "shapes_train" not in DatasetCatalog.list()
    register_shapes(root=tmp_path, **SIZES)
    assert len(files_of(tmp_path)) == 9


@pytest.mark.parametrize("name", ["train/000000.png", "train/000001.png", "instances_train.json"])
def test_a_disk_that_gets_full(name: str, tmp_path: Path) -> None:
    register_shapes(root=tmp_path / "before", **SIZES)
    pictures = sorted((tmp_path / "before").rglob("train/*.png"))
    room = 1 + sum(p.stat().st_size for p in pictures[: int(name[-5]) if "png" in name else None])
    where = rf"Shapes cannot be written under .*cannot write '.*{name}.*': No space left"
    with full_disk(room), pytest.raises(OSError, match=where):
        register_shapes(root=tmp_path, **SIZES)
    assert os.listdir(tmp_path / "shapes") == []
    register_shapes(root=tmp_path, **SIZES)
    assert len(files_of(tmp_path)) == 9


@pytest.mark.parametrize("call", ["pathlib.Path.mkdir", "tempfile.mkdtemp"])
def test_unwritable_root(tmp_path: Path, call: str) -> None:
    failing = mock.patch(call, side_effect=PermissionError(13, "Permission denied"))
    with failing, pytest.raises(OSError, match="Permission denied.*DETECTRON2_DATASETS") as e:
        register_shapes(root=tmp_path, **SIZES)
    assert str(tmp_path / "shapes") in str(e.value)


def test_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Shapes cannot be written under"):
        register_shapes(root=tmp_path / "file", **SIZES)


@pytest.mark.parametrize("bad", [{"num_train": 0}, {"num_val": -1}, {"image_size": 31}])
def test_bad_sizes(tmp_path: Path, bad: Dict[str, int]) -> None:
    (key, value) = next(iter(bad.items()))
    with pytest.raises(ValueError, match=f"{key}={value}"):
        register_shapes(root=tmp_path, **{**SIZES, **bad})
    assert os.listdir(tmp_path) == []


def test_bad_seed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seed"):
        register_shapes(root=tmp_path, seed=-1, **SIZES)
    assert not list(tmp_path.rglob("*.png"))


def test_folder_may_be_read_by_others(tmp_path: Path) -> None:
    register_shapes(root=tmp_path, **SIZES)
    assert folder_of(tmp_path).stat().st_mode & 0o777 == 0o755
