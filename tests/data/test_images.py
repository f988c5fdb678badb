"""The reader of images: 8 bits as detectron2 reads them, deeper ones scaled, errors with a name."""

import logging
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List

import cv2
import numpy as np
import pytest
import torch
from conftest import mapper_of
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from PIL import Image

from seg_every_thing.data.images import check_image_size, read_image
from seg_every_thing.data.labels import read_label
from seg_every_thing.data.semantic_mapper import SemanticMapper

RAMP = np.arange(256, dtype=np.uint16)[None].repeat(4, 0)  # (4, 256): each 8-bit value
COLORS = np.stack([RAMP, RAMP[:, ::-1], RAMP // 2], axis=2)  # BGR for OpenCV


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def picture(mode: str) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    if mode in ("LA", "RGBA", "CMYK"):
        return Image.fromarray(pixels[:, :, : 2 if mode == "LA" else 4], mode)
    if mode == "LAB":
        return Image.frombytes("LAB", (30, 20), pixels[:, :, :3].tobytes())
    image = Image.fromarray(pixels[:, :, :3])
    return image.quantize(16) if mode == "P" else image.convert(mode)


# 8 bits


@pytest.mark.parametrize("format", ["BGR", "RGB", "L", "YUV-BT.601"])
@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        *[(mode, ".png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")],
        *[(mode, ".tif") for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK", "LAB")],
        *[(mode, ".jpg") for mode in ("L", "RGB", "CMYK")],
        *[("P", ".gif"), ("RGB", ".bmp"), ("RGB", ".webp"), ("RGB", ".ppm")],
    ],
)
def test_8_bits_are_as_from_detectron2(tmp_path: Path, mode: str, ending: str, format: str) -> None:
    path = str(tmp_path / f"a{ending}")
    picture(mode).save(path)
    try:
        expected = detection_utils.read_image(path, format)
    except ValueError:
        pytest.skip(f"this Pillow does not convert {mode} for {format}")
    image = read_image(path, format)
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_exif_orientation_as_in_detectron2(tmp_path: Path, orientation: int, ending: str) -> None:
    path = str(tmp_path / f"a{ending}")
    picture("RGB").save(path, exif=exif(orientation))
    image = read_image(path)
    np.testing.assert_array_equal(image, detection_utils.read_image(path, "BGR"))
    assert image.shape == ((30, 20, 3) if orientation > 4 else (20, 30, 3))


# Deeper


def assert_is_ramp(image: np.ndarray) -> None:
    assert image.dtype == np.uint8 and image.shape == (4, 256, 3)
    np.testing.assert_array_equal(image, RAMP[:, :, None].repeat(3, 2))


@pytest.mark.parametrize("factor", [256, 257])  # both ways in which 8 bits become 16
@pytest.mark.parametrize("ending", [".png", ".tif", ".pgm"])
def test_16_bit_grey(tmp_path: Path, ending: str, factor: int) -> None:
    path = str(tmp_path / f"a{ending}")
    assert cv2.imwrite(path, RAMP * np.uint16(factor))
    assert_is_ramp(read_image(path))
    assert read_image(path, "L").shape == (4, 256, 1)


def test_16_bit_big_endian_tiff(tmp_path: Path) -> None:
    Image.fromarray((257 * RAMP).astype(">u2")).save(tmp_path / "a.tif")
    assert_is_ramp(read_image(tmp_path / "a.tif"))


@pytest.mark.parametrize(
    ("ending", "alpha"),
    [(".png", False), (".png", True), (".tif", False), (".tif", True), (".ppm", False)],
)
def test_16_bit_colours(tmp_path: Path, ending: str, alpha: bool) -> None:
    pixels = np.concatenate([COLORS, COLORS[:, :, :1]], axis=2) if alpha else COLORS
    assert cv2.imwrite(str(tmp_path / f"a{ending}"), 257 * pixels)
    image = read_image(tmp_path / f"a{ending}")
    if ending == ".ppm":  # Pillow rounds
        assert np.abs(image.astype(int) - COLORS).max() <= 1
    else:
        np.testing.assert_array_equal(image, COLORS)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{ending}", "RGB"), image[:, :, ::-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_from_0_to_1(tmp_path: Path, dtype: Any) -> None:
    plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1]
    cv2.imwrite(str(tmp_path / "grey.tif"), (RAMP / 255).astype(dtype), plain)
    cv2.imwrite(str(tmp_path / "colours.tif"), (COLORS / 255).astype(dtype), plain)
    assert_is_ramp(read_image(tmp_path / "grey.tif"))
    np.testing.assert_array_equal(read_image(tmp_path / "colours.tif"), COLORS)


def test_floats_are_rounded_and_overshoot_is_clipped(tmp_path: Path) -> None:
    values = np.array([[-0.005, 0.4 / 255, 0.6 / 255, 0.5, 1.005]], np.float32)
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", "L")[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (0, 255, "floats from 0 to 255: scale them to 0"),
        (-0.5, 1, "floats from -0.5 to 1"),
        (0, np.nan, "floats from nan to nan"),
        (0, np.inf, "floats from 0 to inf"),
    ],
)
def test_floats_without_a_known_white(
    tmp_path: Path, low: float, high: float, message: str
) -> None:
    Image.fromarray(np.array([[low, high]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=f"image '.*a.tif': its pixels are {message}"):
        read_image(tmp_path / "a.tif")


def test_32_bit_integers_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="a.tif': its pixels are int32: store it with 8 or 16"):
        read_image(tmp_path / "a.tif")


def test_deep_images_are_turned_too(tmp_path: Path) -> None:
    Image.fromarray(257 * RAMP).save(tmp_path / "a.png", exif=exif(6))
    image = read_image(tmp_path / "a.png", "L")
    assert image.shape == (256, 4, 1)
    assert (image[:, :, 0] == np.arange(256)[:, None]).all()


def test_a_dark_image_of_16_bits_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), RAMP)  # 8 bits in 16
    with caplog.at_level(logging.WARNING, logger="seg_every_thing.data.images"):
        images = [read_image(tmp_path / f"{i}.png") for i in range(3)]
    assert not np.array(images).any()
    (record,) = caplog.records
    assert "0.png' has 16 bits and no value above 255 of 65535" in record.getMessage()


# Errors


def png(width: int, height: int) -> bytes:
    """An 8-bit grey PNG of a size that Pillow may refuse to write or read."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def broken_files(folder: Path) -> Dict[str, str]:
    """Files that are no whole image, with what is to be said of each."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected = {}
    for ending in ("jpg", "png", "tif", "bmp", "webp", "gif"):
        Image.fromarray(noise).save(folder / f"whole.{ending}")
        data = (folder / f"whole.{ending}").read_bytes()
        (folder / f"cut.{ending}").write_bytes(data[: len(data) // 2])
        expected[f"cut.{ending}"] = ""
    cv2.imwrite(str(folder / "whole.tif"), noise / np.float32(255))
    (folder / "cut_float.tif").write_bytes((folder / "whole.tif").read_bytes()[:3000])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "folder.jpg").mkdir()
    (folder / "huge.png").write_bytes(png(14000, 13500))
    (folder / "zero.png").write_bytes(png(0, 10))
    return {
        **expected,
        "cut_float.tif": "no image of a known format",
        "empty.jpg": "the file is empty",
        "text.jpg": "no image of a known format",
        "folder.jpg": "Is a directory",
        "huge.png": "more than 178956970 pixels",
        "zero.png": "no image of a known format",
    }


def test_broken_files_are_named_in_one_line(tmp_path: Path) -> None:
    for name, reason in broken_files(tmp_path).items():
        for read, kind in ((read_image, "image"), (read_label, "label file")):
            with pytest.raises(ValueError) as e:
                read(tmp_path / name)
            start = f"cannot read the {kind} '{tmp_path / name}': "
            assert str(e.value).startswith(start), e.value
            assert len(str(e.value)) > len(start) and "\n" not in str(e.value)
            if read is read_image or name != "cut_float.tif":
                assert reason in str(e.value)
    for read in (read_image, read_label):
        with pytest.raises(FileNotFoundError, match="none.png' does not exist"):
            read(tmp_path / "none.png")


def test_what_takes_more_memory_than_there_is_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("Unable to allocate 9 GiB")

    picture("RGB").save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(ValueError, match="a.png': Unable to allocate 9 GiB"):
        read_image(tmp_path / "a.png")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\n.png")
    picture("RGB").save(tmp_path / name)
    assert read_image(tmp_path / name).shape == (20, 30, 3)
    (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"caf\\udce9\\n\.png") as e:
        read_image(tmp_path / name)
    str(e.value).encode("utf-8")  # can be written to any log


# Sizes


def size_error(path: Path, width: int, height: int) -> str:
    record = {"file_name": str(path), "width": width, "height": height}
    with pytest.raises(detection_utils.SizeMismatchError) as e:
        check_image_size(record, read_image(path))
    return str(e.value)


def test_another_size_than_annotated(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    picture("RGB").save(path, exif=exif(6))
    text = size_error(path, 30, 20)
    assert text.startswith(
        f"the image '{path}' has 20 x 30 pixels (width x height), its annotation"
    )
    assert "says 30 x 20: its EXIF orientation (6) turns it" in text
    picture("RGB").save(path)
    assert "EXIF orientation that this file does not have" in size_error(path, 20, 30)
    assert "EXIF" not in size_error(path, 31, 20)
    record = {"file_name": str(path)}
    check_image_size(record, read_image(path))
    assert record == {"file_name": str(path), "width": 30, "height": 20}


# In the mappers


def voc(is_train: bool = True) -> SemanticMapper:
    return SemanticMapper(
        is_train, augmentations=[T.NoOpTransform()], image_format="BGR", num_classes=21
    )


@pytest.fixture
def mappers() -> List[Callable[[Dict[str, Any]], Dict[str, Any]]]:
    """Mappers for training and test, of objects and of labels."""
    return [mapper_of(), mapper_of(is_train=False), voc(), voc(is_train=False)]


def record(image: Path, width: int, height: int) -> Dict[str, Any]:
    label = image.parent / "label.png"
    Image.new("L", (width, height)).save(label)
    size = {"width": width, "height": height, "image_id": 1, "annotations": []}
    return {"file_name": str(image), "sem_seg_file_name": str(label), **size}


def test_mappers_scale(tmp_path: Path, mappers: Any) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), 257 * RAMP)
    before = detection_utils.read_image, detection_utils.check_image_size
    for mapper in mappers:
        sample = mapper(record(tmp_path / "a.png", 256, 4))
        assert torch.equal(sample["image"][1], torch.from_numpy(RAMP.astype(np.uint8)))
    assert (detection_utils.read_image, detection_utils.check_image_size) == before


def test_a_semantic_map_beside_objects_holds_no_brightness(tmp_path: Path) -> None:
    picture("RGB").save(tmp_path / "a.png")
    sample = record(tmp_path / "a.png", 30, 20)
    Image.fromarray(np.full((20, 30), 7, np.uint16)).save(sample["sem_seg_file_name"])
    assert (mapper_of()(sample)["sem_seg"] == 7).all()


def test_mappers_name_the_image(tmp_path: Path, mappers: Any) -> None:
    picture("RGB").save(tmp_path / "turned.png", exif=exif(8))
    files = [tmp_path / name for name in broken_files(tmp_path)]
    for mapper in mappers:
        for path in files:
            with pytest.raises(ValueError, match=f"cannot read the image '{path}': "):
                mapper(record(path, 80, 60))
        with pytest.raises(FileNotFoundError, match="none.jpg' does not exist: .*DETECTRON2_DAT"):
            mapper(record(tmp_path / "none.jpg", 80, 60))
        with pytest.raises(ValueError, match=r"turned.png' has .* its EXIF orientation \(8\)"):
            mapper(record(tmp_path / "turned.png", 30, 20))


def test_a_label_of_another_size_says_exif(tmp_path: Path) -> None:
    picture("RGB").save(tmp_path / "turned.png", exif=exif(8))
    sample = record(tmp_path / "turned.png", 30, 20)
    del sample["width"], sample["height"]  # as in folders of labels
    with pytest.raises(ValueError, match=r"label.png' has \(20, 30\).* its EXIF orientation \(8\)"):
        voc()(sample)


def test_an_image_too_thin_to_be_resized(tmp_path: Path) -> None:
    path = tmp_path / "thin.png"
    Image.new("RGB", (5000, 1)).save(path)
    resize = T.ResizeShortestEdge(800, 1333)
    for mapper in (mapper_of([resize]), mapper_of([resize], is_train=False)):
        with pytest.raises(ValueError, match="thin.png' cannot be made ready for the model: it i"):
            mapper(record(path, 5000, 1))


def test_labels_of_more_bits_are_not_wrapped(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[3, 255]], np.uint16)).save(path)
    assert read_label(path).tolist() == [[3, 255]]
    Image.fromarray(np.array([[3, 256]], np.uint16)).save(path)
    with pytest.raises(ValueError, match="a.png' has the value 256, no class"):
        read_label(path)
    Image.fromarray(np.array([[0.5]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="a.tif' has the value 0.5, no class"):
        read_label(tmp_path / "a.tif")
