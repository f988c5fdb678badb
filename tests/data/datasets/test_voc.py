"""Pascal VOC and SBD: palette pictures, .mat files, lists, and the real sample."""

import logging
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import List

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from tiramisu_helpers import clean_catalog, palette_png, real_data  # noqa: F401

from seg_every_thing.data.datasets.voc import VOC_SEM_SEG_CLASSES, register_voc_sem_seg, voc_palette
from seg_every_thing.data.labels import read_label

pytestmark = pytest.mark.usefixtures("clean_catalog")

LABEL = np.array([[0, 1, 15], [20, 255, 0]], np.uint8)


def write_voc(root: Path, year: str, lists: dict) -> Path:
    folder = root / f"VOC{year}"
    for split, ids in lists.items():
        path = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{i}\n" for i in ids))
        for i in ids:
            (folder / "JPEGImages").mkdir(exist_ok=True)
            Image.new("RGB", (3, 2)).save(folder / "JPEGImages" / f"{i}.jpg")
            palette_png(folder / "SegmentationClass" / f"{i}.png", LABEL, voc_palette())
    return folder


def write_sbd(folder: Path, split: str, ids: List[str]) -> None:
    for name in ("img", "cls"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.txt").write_text("\n".join(ids))
    for i in ids:
        Image.new("RGB", (3, 2)).save(folder / "img" / f"{i}.jpg")
        (folder / "cls" / f"{i}.mat").write_bytes(b"")


def names_of(dataset: str) -> List[str]:
    return [Path(r["file_name"]).stem for r in DatasetCatalog.get(dataset)]


def test_palette_is_vocs() -> None:
    palette = voc_palette()
    assert palette[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert palette[8] == (64, 0, 0) and palette[255] == (224, 224, 192)
    assert len(set(palette)) == 256


def test_indices_count_and_not_colours(tmp_path: Path) -> None:
    palette_png(tmp_path / "label.png", LABEL, voc_palette())
    assert read_label(tmp_path / "label.png").tolist() == LABEL.tolist()
    assert read_label(tmp_path / "label.png", dtype=int).dtype == int
    Image.fromarray(LABEL).save(tmp_path / "grey.png")
    assert read_label(tmp_path / "grey.png").tolist() == LABEL.tolist()


def test_lists_and_metadata(tmp_path: Path) -> None:
    write_voc(tmp_path, "2011", {"train": ["a", "b"], "val": ["c"], "trainval": ["a", "b", "c"]})
    register_voc_sem_seg(tmp_path)
    assert names_of("voc_2011_train") == ["a", "b"]
    assert names_of("voc_2011_val") == ["c"]
    assert len(names_of("voc_2011_trainval")) == 3
    metadata = MetadataCatalog.get("voc_2011_train")
    assert metadata.stuff_classes == list(VOC_SEM_SEG_CLASSES) and len(VOC_SEM_SEG_CLASSES) == 21
    assert metadata.stuff_classes[15] == "person"
    assert metadata.stuff_colors[15] == (192, 128, 128)
    assert (metadata.ignore_label, metadata.evaluator_type) == (255, "sem_seg")


def test_detectron2s_detection_sets_stay(tmp_path: Path) -> None:
    before = MetadataCatalog.get("voc_2012_train")
    register_voc_sem_seg(tmp_path)
    assert MetadataCatalog.get("voc_2012_train") is before
    assert before.evaluator_type == "pascal_voc"
    assert MetadataCatalog.get("voc_2012_train_sem_seg").evaluator_type == "sem_seg"


def test_devkit_layout(tmp_path: Path) -> None:
    write_voc(tmp_path / "VOCdevkit", "2012", {"val": ["a"]})
    register_voc_sem_seg(tmp_path)
    assert names_of("voc_2012_val_sem_seg") == ["a"]


def test_seg11valid_is_val_without_sbd_train(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_voc(tmp_path, "2011", {"val": ["a", "b", "c", "d"]})
    write_sbd(tmp_path / "sbd", "train", ["b", "d", "x"])
    register_voc_sem_seg(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert names_of("voc_2011_seg11valid") == ["a", "c"]
    assert "has 2 images, the FCN paper's has 736" in caplog.text
    # A list of one's own counts more.
    (folder / "ImageSets" / "Segmentation" / "seg11valid.txt").write_text("d\n")
    assert names_of("voc_2011_seg11valid") == ["d"]
    (folder / "ImageSets" / "Segmentation" / "seg11valid.txt").unlink()
    write_sbd(tmp_path / "sbd", "train", ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="'voc_2011_seg11valid' is empty"):
        names_of("voc_2011_seg11valid")


def test_seg11valid_of_736_images_is_no_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_voc(tmp_path, "2011", {"val": ["a", "b"]})
    write_sbd(tmp_path / "sbd", "train", ["b"])
    monkeypatch.setattr("seg_every_thing.data.datasets.voc.SEG11VALID_IMAGES", 1)
    register_voc_sem_seg(tmp_path)
    assert names_of("voc_2011_seg11valid") == ["a"]
    assert not caplog.records


@pytest.mark.parametrize("place", ["sbd", "benchmark_RELEASE/dataset"])
def test_sbd_labels_from_mat_files(tmp_path: Path, place: str) -> None:
    scipy_io = pytest.importorskip("scipy.io", reason="needs scipy, which reads .mat files")
    write_sbd(tmp_path / place, "train", ["a"])
    content = {"Boundaries": np.zeros(20), "Segmentation": LABEL, "CategoriesPresent": [1, 15]}
    scipy_io.savemat(str(tmp_path / place / "cls" / "a.mat"), {"GTcls": content})
    register_voc_sem_seg(tmp_path)
    (record,) = DatasetCatalog.get("sbd_train")
    assert read_label(record["sem_seg_file_name"]).tolist() == LABEL.tolist()
    assert Image.open(record["file_name"]).size == (3, 2)


def test_mat_files_that_are_none(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io", reason="needs scipy, which reads .mat files")
    broken, other = tmp_path / "broken.mat", tmp_path / "other.mat"
    broken.write_bytes(b"not matlab")
    scipy_io.savemat(str(other), {"GTinst": LABEL})
    for path in (broken, other):
        with pytest.raises(ValueError, match=f"{path.name}.*GTcls"):
            read_label(path)


def test_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    (tmp_path / "a.mat").write_bytes(b"")
    with pytest.raises(ValueError, match="a.mat' needs scipy: pip install scipy"):
        read_label(tmp_path / "a.mat")


def test_what_is_missing(tmp_path: Path) -> None:
    register_voc_sem_seg(tmp_path)
    for name in ("voc_2011_train", "voc_2012_val_sem_seg", "sbd_train", "voc_2011_seg11valid"):
        with pytest.raises(FileNotFoundError) as e:
            DatasetCatalog.get(name)
        assert name in str(e.value) and "DETECTRON2_DATASETS" in str(e.value)
    folder = write_voc(tmp_path, "2011", {"train": ["a", "b"]})
    (folder / "JPEGImages" / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="incomplete: .*b.jpg"):
        DatasetCatalog.get("voc_2011_train")
    with pytest.raises(FileNotFoundError, match="image list .*val.txt"):
        DatasetCatalog.get("voc_2011_val")
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text("\n")
    with pytest.raises(ValueError, match="train.txt' .* is empty"):
        DatasetCatalog.get("voc_2011_train")


def test_labels_that_are_none(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "colour.png")
    with pytest.raises(ValueError, match="colour.png' is a colour picture"):
        read_label(tmp_path / "colour.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match="broken.png"):
        read_label(tmp_path / "broken.png")
    with pytest.raises(FileNotFoundError, match="gone.png' does not exist"):
        read_label(tmp_path / "gone.png")


def test_real_sample() -> None:
    root = real_data("VOC2007", "ImageSets", "Segmentation", "trainval.txt")
    register_voc_sem_seg(root)
    records = DatasetCatalog.get("voc_2007_trainval_sem_seg")
    assert len(records) == 44
    palette = [channel for color in voc_palette() for channel in color]
    for r in records[::4]:
        label = read_label(r["sem_seg_file_name"])
        seen = {VOC_SEM_SEG_CLASSES[i] for i in np.unique(label) if i not in (0, 255)}
        xml = ElementTree.parse(root / "VOC2007" / "Annotations" / f"{r['image_id']}.xml")
        assert seen == {o.findtext("name") for o in xml.iter("object")}, r
        with Image.open(r["sem_seg_file_name"]) as picture:
            assert picture.mode == "P" and picture.getpalette()[: 3 * 21] == palette[: 3 * 21]
