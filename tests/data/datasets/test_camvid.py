"""CamVid: pairing, metadata, what is missing, and the real sample."""

from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiramisu_helpers import camvid, clean_catalog, real_data, write_pair  # noqa: F401

from seg_every_thing.data.datasets.camvid import CAMVID_CLASSES, register_camvid
from seg_every_thing.data.labels import read_label


def test_pairs_images_with_labels(camvid: Path) -> None:  # noqa: F811
    records = DatasetCatalog.get("camvid_train")
    assert [r["image_id"] for r in records] == [f"frame_{i}" for i in range(4)]
    for r in records:
        assert Path(r["file_name"]).parent == camvid / "train"
        assert Path(r["sem_seg_file_name"]).parent == camvid / "trainannot"
        assert Path(r["file_name"]).stem == Path(r["sem_seg_file_name"]).stem
    assert len(DatasetCatalog.get("camvid_val")) == 3
    metadata = MetadataCatalog.get("camvid_test")
    assert metadata.stuff_classes == list(CAMVID_CLASSES) and len(CAMVID_CLASSES) == 11
    assert len(set(metadata.stuff_colors)) == 11
    assert (metadata.ignore_label, metadata.evaluator_type) == (11, "sem_seg")


def test_jpeg_images_and_the_other_folder_name(tmp_path: Path, clean_catalog: None) -> None:  # noqa: F811
    folder = tmp_path / "CamVid"
    write_pair(folder / "val" / "a.jpg", folder / "valannot" / "a.png", 0)
    (folder / "val" / ".DS_Store").write_text("")
    (folder / "val" / "list.txt").write_text("a")
    register_camvid(tmp_path)
    assert [r["file_name"] for r in DatasetCatalog.get("camvid_val")] == [
        str(folder / "val" / "a.jpg")
    ]


def test_nothing_is_read_before_use(tmp_path: Path, clean_catalog: None) -> None:  # noqa: F811
    register_camvid(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError) as e:
        DatasetCatalog.get("camvid_train")
    message = str(e.value)
    assert "nowhere/camvid/train'" in message.replace("\\", "/")
    assert "camvid_train" in message and "DETECTRON2_DATASETS" in message


def test_another_root_takes_the_place_of_the_first(
    camvid: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    write_pair(other / "camvid" / "train" / "x.png", other / "camvid" / "trainannot" / "x.png", 0)
    register_camvid(other)
    assert len(DatasetCatalog.get("camvid_train")) == 1


def test_a_name_of_somebody_else_is_not_taken(clean_catalog: None) -> None:  # noqa: F811
    DatasetCatalog.register("camvid_train", lambda: [])
    with pytest.raises(ValueError, match="'camvid_train' is taken"):
        register_camvid()


def test_incomplete(camvid: Path) -> None:  # noqa: F811
    (camvid / "trainannot" / "frame_2.png").unlink()
    with pytest.raises(ValueError, match="trainannot' has no 'frame_2'"):
        DatasetCatalog.get("camvid_train")
    (camvid / "train" / "frame_2.png").unlink()
    assert len(DatasetCatalog.get("camvid_train")) == 3
    (camvid / "train" / "frame_0.png").unlink()
    with pytest.raises(ValueError, match="train' has no 'frame_0'"):
        DatasetCatalog.get("camvid_train")
    for path in (camvid / "train").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match="has no .png or .jpg images"):
        DatasetCatalog.get("camvid_train")


def test_real_sample(clean_catalog: None) -> None:  # noqa: F811
    register_camvid(real_data("camvid", "valannot"))
    assert len(DatasetCatalog.get("camvid_train")) == 367
    records = DatasetCatalog.get("camvid_val")
    assert len(records) == 101
    counts = np.zeros(12)
    for r in records[::4]:
        label = read_label(r["sem_seg_file_name"])
        assert label.shape == (360, 480)
        counts += np.bincount(label.ravel(), minlength=12)
    share = 100 * counts / counts.sum()
    # Building and road make more than half of a road scene; void a little.
    assert share[1] + share[3] > 50 and 0.5 < share[11] < 4 and (share > 0.2).all()
