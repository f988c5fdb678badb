"""`seg-every-thing demo` when inputs fail, when a run is ended, and when it is repeated."""

import errno
import html
import os
import signal
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import cv2
import numpy as np
import pytest
from demo_helpers import CONFIG, TINY, fixed_predictor, read, write_images
from PIL import Image

from seg_every_thing.cli import demo, main
from seg_every_thing.visualization import result_folder

SEMANTIC = str(Path(CONFIG).parents[1] / "semantic" / "tiramisu" / "small_camvid_fcdn.yaml")

Run = Callable[..., int]
Stub = Callable[..., None]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", ("a.png", "b.png", "c.png"))


@pytest.fixture
def run(tmp_path: Path, tiny_shapes: Path) -> Run:
    """Function that runs the command and returns its exit code."""

    def run(*inputs: Path, opts: Any = (), output: str = "out") -> int:
        arguments = ["demo", "--config-file", CONFIG, "--input", *map(str, inputs)]
        arguments += ["--output", str(tmp_path / output), "--opts", *TINY, *opts]
        try:
            return main(arguments)
        except SystemExit as e:
            return int(e.code or 0)

    return run


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Function that puts a fixed prediction in the place of the model's, with errors by call."""

    def install(errors: Optional[Dict[int, BaseException]] = None) -> None:
        predict = fixed_predictor([0], [0.9], errors)
        monkeypatch.setattr(demo, "build_predictor", lambda cfg, *_: predict)

    return install


def names(folder: Path) -> List[str]:
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def done(output: Path) -> List[str]:
    """The pictures of the results, which all files of results must agree on."""
    pictures = [image["picture"] for image in read(output / "images.json")["images"]]
    page = (output / "index.html").read_text(encoding="utf-8")
    assert page.count("<img") == len(pictures)
    assert all(f'src="{picture}"' in page for picture in pictures)
    ids = {result["image_id"] for result in read(output / "predictions.json")}
    assert ids == set(range(1, len(pictures) + 1))
    assert [name for name in names(output) if name.endswith(".jpg")] == sorted(pictures)
    return pictures


# Inputs that fail


def test_what_cannot_be_read_is_listed_and_the_rest_goes_on(
    tmp_path: Path, images: Path, run: Run, stub: Stub, capsys: pytest.CaptureFixture
) -> None:
    stub()
    whole = (images / "b.png").read_bytes()
    (images / "b.png").write_bytes(whole[: len(whole) // 2])
    (images / "empty.jpg").write_bytes(b"")
    (images / "folder.png").mkdir()
    (images / "gone.png").symlink_to("nowhere.png")
    Image.fromarray(np.array([[0, 700]], np.float32)).save(images / "range.tif")
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    assert run(images, tmp_path / "clip.mp4") == 2
    output = tmp_path / "out"
    assert done(output) == ["a.jpg", "c.jpg"]
    failed = read(output / "failed.json")
    broken = [str(images / n) for n in ("b.png", "empty.jpg", "folder.png", "gone.png")]
    expected = [*broken, str(images / "range.tif"), str(tmp_path / "clip.mp4")]
    assert [f["file_name"] for f in failed] == expected
    reasons = ("image file is truncated", "is empty", "Is a directory", "not exist", "0 to 700")
    for failure, reason in zip(failed, (*reasons, "no readable frame")):
        assert reason in failure["reason"]
    page = (output / "index.html").read_text(encoding="utf-8")
    assert "6 failed, see below and failed.json" in page
    for name in expected:
        assert page.count(html.escape(f"'{name}'")) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"6 failed: cannot read the image '{broken[0]}'" in last and "; and 3 more" in last


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            RuntimeError("CUDA out of memory.\nTried to allocate 20 GiB"),
            "CUDA out of memory. Tried",
        ),
        (ValueError("height and width must be > 0"), "it is so thin that nothing is left"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_an_image_that_the_model_fails_on(
    tmp_path: Path, images: Path, run: Run, stub: Stub, error: BaseException, reason: str
) -> None:
    stub({2: error})
    assert run(images) == 2
    assert done(tmp_path / "out") == ["a.jpg", "c.jpg"]
    (failure,) = read(tmp_path / "out" / "failed.json")
    assert failure["file_name"] == str(images / "b.png")
    assert failure["reason"].startswith(f"the picture of 120 x 110 pixels: {reason}")


def test_a_thin_image_and_a_real_model(tmp_path: Path, images: Path, run: Run) -> None:
    Image.new("RGB", (5000, 1)).save(images / "b.png")
    Image.new("RGB", (66000, 20)).save(images / "wide.png")  # wider than JPEG can be
    assert run(images) == 2
    thin, wide = read(tmp_path / "out" / "failed.json")
    assert thin["file_name"] == str(images / "b.png")
    assert "5000 x 1 pixels: it is so thin" in thin["reason"]
    assert "66000 x 20 pixels: " in wide["reason"]
    assert names(tmp_path / "out")[:3] == ["a.jpg", "c.jpg", "failed.json"]


def test_when_every_image_fails_nothing_is_written(
    tmp_path: Path, images: Path, run: Run, stub: Stub, capsys: pytest.CaptureFixture
) -> None:
    stub()
    assert run(images) == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    stub({n: ValueError(f"error {n}") for n in (1, 2, 3)})
    assert run(images) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"seg-every-thing: error: nothing could be drawn: '{images / 'a.png'}'")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_a_video_that_was_cut_off_gives_the_frames_that_it_has(
    tmp_path: Path, run: Run, stub: Stub
) -> None:
    stub()
    video = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 5, (128, 96))
    for k in range(40):
        writer.write(np.full((96, 128, 3), 6 * k, np.uint8))
    writer.release()
    assert run(video) == 0
    assert not (tmp_path / "out" / "failed.json").exists()
    data = video.read_bytes()
    video.write_bytes(data[: len(data) * 6 // 10])
    assert run(video) == 2
    assert done(tmp_path / "out") == ["clip_000000.jpg", "clip_000010.jpg"]
    (failure,) = read(tmp_path / "out" / "failed.json")
    assert failure["file_name"] == str(video)
    assert "is damaged: 17 frames of 40 could be read" in failure["reason"]


def test_names_that_are_not_utf8(
    tmp_path: Path, images: Path, run: Run, stub: Stub, capsys: pytest.CaptureFixture
) -> None:
    stub()
    (images / "a.png").rename(images / os.fsdecode(b"caf\xe9\n.png"))
    (images / "b.png").rename(images / ("x" * 251 + ".png"))  # as long as a name may be
    (images / os.fsdecode(b"\xe9.png")).write_bytes(b"no image")
    video = tmp_path / os.fsdecode(b"\xe9.avi")
    video.write_bytes(b"no video")
    assert run(images, video) == 2
    output = tmp_path / "out"
    assert done(output) == ["c.jpg", "caf__.jpg", "x" * 200 + ".jpg"]
    content = read(output / "images.json")["images"]
    assert Path(content[1]["file_name"]).exists()
    page = (output / "index.html").read_text(encoding="utf-8")
    assert r"caf\udce9\n.png: 1 instance" in page and "cannot open the video" in page
    assert [f["file_name"] for f in read(output / "failed.json")][1] == str(video)
    assert "Traceback" not in capsys.readouterr().err


def test_a_semantic_model_goes_on_too(tmp_path: Path, images: Path) -> None:
    (images / "b.png").write_bytes(b"")
    tiny = ["MODEL.FC_DENSENET.STEM_CHANNELS", "4", "INPUT.MIN_SIZE_TEST", "32", "SEED", "1"]
    arguments = ["demo", "--config-file", SEMANTIC, "--input", str(images)]
    output = tmp_path / "out"
    assert main([*arguments, "--output", str(output), "--opts", *tiny]) == 2
    assert [r["picture"] for r in read(output / "predictions.json")] == ["a.jpg", "c.jpg"]
    (failure,) = read(output / "failed.json")
    assert "b.png': the file is empty" in failure["reason"]
    assert "1 failed, see below" in (output / "index.html").read_text(encoding="utf-8")


# Runs that end before their end


def test_what_is_finished_when_a_defect_ends_a_run_is_kept(
    tmp_path: Path, images: Path, run: Run, stub: Stub
) -> None:
    stub({3: TypeError("a defect")})
    with pytest.raises(TypeError):
        run(images)
    assert done(tmp_path / "out") == ["a.jpg", "b.jpg"]
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Ended before its end: a defect." in page


@pytest.mark.parametrize(
    "number, remark",
    [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "ended by SIGTERM")],
)
def test_what_is_finished_when_a_signal_ends_a_run_is_kept(
    tmp_path: Path,
    images: Path,
    run: Run,
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    number: signal.Signals,
    remark: str,
) -> None:
    stub()
    draw = demo.InstanceDemo.draw

    def ended(self: Any, predictor: Any, picture: Any) -> Any:
        if picture.stem == "c":
            signal.raise_signal(number)
        return draw(self, predictor, picture)

    monkeypatch.setattr(demo.InstanceDemo, "draw", ended)
    assert run(images) == 128 + number
    assert capsys.readouterr().err.splitlines()[-1] == f"seg-every-thing: ended by {number.name}"
    assert done(tmp_path / "out") == ["a.jpg", "b.jpg"]
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert f"Ended before its end: {remark}." in page


def test_a_full_disk_is_named(
    tmp_path: Path,
    images: Path,
    run: Run,
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    stub()
    write = result_folder.ResultFolder.write

    def full(self: Any, name: str, data: bytes) -> None:
        if name == "b.jpg":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path / name))
        write(self, name, data)

    monkeypatch.setattr(result_folder.ResultFolder, "write", full)
    assert run(images) == 1
    assert "No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert done(tmp_path / "out") == ["a.jpg"]


# A second run into the same folder


def test_a_rerun_leaves_nothing_of_the_former_run(
    tmp_path: Path, images: Path, run: Run, stub: Stub
) -> None:
    stub({1: ValueError("x")})
    assert run(images) == 2
    output = tmp_path / "out"
    (output / "mine.jpg").write_bytes(b"of somebody else")
    (output / "c.jpg").write_bytes(b"changed by somebody else")
    stub()
    assert run(images / "c.png") == 0
    assert names(output) == [
        *("c.jpg", "c_2.jpg", "images.json", "index.html", "mine.jpg", "predictions.json")
    ]
    assert (output / "c.jpg").read_bytes() == b"changed by somebody else"
    assert [i["picture"] for i in read(output / "images.json")["images"]] == ["c_2.jpg"]
    page = (output / "index.html").read_text(encoding="utf-8")
    assert page.count("<img") == 1 and "failed" not in page


def test_pictures_of_a_killed_run_are_swept(
    tmp_path: Path, images: Path, run: Run, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub({3: KeyboardInterrupt()})
    with monkeypatch.context() as m:
        m.setattr(demo.InstanceDemo, "write", lambda *_: None)  # as if it had been killed
        assert run(images) == 130
    assert names(tmp_path / "out") == ["a.jpg", "b.jpg"]
    stub()
    assert run(images / "b.png") == 0
    assert done(tmp_path / "out") == ["b.jpg"]


def test_a_page_of_somebody_else_is_not_written_over(
    tmp_path: Path, images: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(demo, "build_predictor", lambda cfg, *_: pytest.fail("too early"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.html").write_text("my page")
    assert run(images) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "index.html' was not written by this command" in error
    assert names(tmp_path / "out") == ["index.html"]
