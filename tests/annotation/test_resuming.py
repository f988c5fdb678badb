"""Runs that are killed, one after the other, end with the bytes of one that is not."""

import os
import signal
import time
from pathlib import Path
from typing import Any, List
from unittest import mock

import numpy as np
import pytest
from annotating import (
    annotated,
    masks_are_ellipses,
    options_for,
    report_of,
    write_data,
)
from forking import CONTEXT

from seg_every_thing.annotation import annotator
from seg_every_thing.annotation.annotator import annotate_file
from seg_every_thing.annotation.index import Index
from seg_every_thing.annotation.making import Masker, Work
from seg_every_thing.annotation.masker import MadeMask
from seg_every_thing.locks import folder_in_use


def slow(work: Work, index: Index) -> Masker:
    """A model that takes a while, so that a run can be killed in the midst of it."""

    def make(image: np.ndarray, boxes: np.ndarray, categories: Any) -> List[MadeMask]:
        time.sleep(0.02)
        return masks_are_ellipses(work, index)(image, boxes, categories)

    return make


def data(folder: Path, images: int = 60) -> Path:
    rng = np.random.default_rng(1)
    boxes = (
        np.r_[rng.uniform(0, 30, 2), rng.uniform(4, 18, 2)].tolist() for _ in range(3 * images)
    )
    return write_data(folder, [[{"bbox": next(boxes)} for _ in range(3)] for _ in range(images)])


def annotate_slowly(annotations: Path, output: Path) -> None:
    annotate_file(options_for(annotations, output=output), slow)


def test_killed_runs_end_with_the_same_bytes(tmp_path: Path) -> None:
    path = data(tmp_path / "d")
    whole, killed = path.parent / "whole.json", path.parent / "killed.json"
    annotate_file(options_for(path, output=whole), masks_are_ellipses)
    work = path.parent / "killed.json.part"
    kills = 0
    for wait in (0.0, 0.7):
        process = CONTEXT.Process(target=annotate_slowly, args=(path, killed))
        process.start()
        while not list(work.glob("masks-*.sqlite")) and process.is_alive():
            time.sleep(0.02)
        time.sleep(wait)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        assert not killed.exists() or process.exitcode == 0
    assert kills
    assert path.read_bytes()
    annotate_file(options_for(path, output=killed), masks_are_ellipses)
    assert killed.read_bytes() == whole.read_bytes()
    assert not work.exists()


class EndedError(Exception):
    """Stands in for a kill at a chosen moment."""


def test_what_is_finished_is_not_made_again(tmp_path: Path) -> None:
    path = data(tmp_path / "d", images=6)
    seen: List[int] = []

    def until_four(work: Work, index: Index) -> Masker:
        def make(image: np.ndarray, boxes: np.ndarray, categories: Any) -> List[MadeMask]:
            if len(seen) == 4:
                raise EndedError
            seen.append(1)
            return masks_are_ellipses(work, index)(image, boxes, categories)

        return make

    with pytest.raises(EndedError):
        annotated(path, until_four)
    seen.clear()
    annotated(path, until_four)  # two images are left
    assert len(seen) == 2
    whole = path.parent / "whole.json"
    annotated(path, output=whole)
    assert whole.read_bytes() == (path.parent / "out.json").read_bytes()


def test_unfinished_work_of_another_kind_is_not_mixed_in(tmp_path: Path) -> None:
    path = data(tmp_path / "d", images=2)

    def fail(work: Work, index: Index) -> Masker:
        raise EndedError

    with pytest.raises(EndedError):
        annotated(path, fail)
    with pytest.raises(ValueError, match=r"out\.json\.part' holds unfinished work"):
        annotated(path, overwrite=True)
    assert annotated(path, format="polygon")["annotations"][0]["segmentation"][0][0] >= 0


def test_unfinished_work_on_other_images_is_not_mixed_in(tmp_path: Path) -> None:
    path = data(tmp_path / "d", images=2)
    images, moved = path.parent / "images", path.parent / "moved"

    def fail(work: Work, index: Index) -> Masker:
        raise EndedError

    with pytest.raises(EndedError):
        annotated(path, fail)
    images.rename(moved)
    message = r"out\.json\.part' was begun with the images in '.*images', not in '.*moved': give"
    with pytest.raises(ValueError, match=message):
        annotated(path, fail, image_root=moved)
    with pytest.raises(EndedError):  # it goes on
        annotated(path, fail, image_root=moved, force=True)
    images.symlink_to(moved)
    annotated(path)
    assert not report_of(path)["failed_images"]


def test_a_complete_run_on_other_images_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = data(tmp_path / "d", images=2)
    before = annotated(path)
    (path.parent / "images").rename(path.parent / "moved")
    assert "was begun with" not in caplog.text
    assert annotated(path, image_root=path.parent / "moved") == before
    assert "out.json' was begun with the images in" in caplog.text


def test_failures_of_a_killed_run_are_tried_again(tmp_path: Path) -> None:
    path = data(tmp_path / "d", images=3)
    image = path.parent / "images" / "2.png"
    pixels = image.read_bytes()
    image.write_bytes(b"")

    def once(work: Work, index: Index) -> Masker:
        def make(image: np.ndarray, boxes: np.ndarray, categories: Any) -> List[MadeMask]:
            made.append(1)
            if len(made) == 2:
                raise EndedError
            return masks_are_ellipses(work, index)(image, boxes, categories)

        return make

    made: List[int] = []
    with pytest.raises(EndedError):
        annotated(path, once)
    image.write_bytes(pixels)
    annotated(path)
    assert not report_of(path)["failed_images"]


def test_other_options_write_the_file_anew(tmp_path: Path) -> None:
    path = data(tmp_path / "d", images=2)
    assert isinstance(annotated(path)["annotations"][0]["segmentation"], dict)
    assert isinstance(annotated(path, format="polygon")["annotations"][0]["segmentation"], list)


def test_an_output_that_was_edited_is_not_replaced(tmp_path: Path) -> None:
    path = data(tmp_path / "d", images=2)
    annotated(path)
    out = path.parent / "out.json"
    out.write_text(out.read_text() + "\n")
    with pytest.raises(ValueError, match="was changed since"):
        annotated(path)


@pytest.mark.parametrize("replaced", [False, True])
def test_killed_between_the_report_and_the_file(replaced: bool, tmp_path: Path) -> None:
    path = data(tmp_path / "d", images=2)
    whole = path.parent / "whole.json"
    annotated(path, output=whole, format="polygon")
    if replaced:
        annotated(path)
    with mock.patch("os.replace", side_effect=_ended_at("out.json")), pytest.raises(EndedError):
        annotated(path, format="polygon")
    annotated(path, format="polygon")
    assert (path.parent / "out.json").read_bytes() == whole.read_bytes()


def _ended_at(name: str) -> Any:
    replace = os.replace

    def replace_but(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise EndedError
        replace(source, target)

    return replace_but


def is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="is in use by"):
        annotated(path)


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = data(tmp_path / "d", images=2)

    def second(work: Work, index: Index) -> Masker:
        process = CONTEXT.Process(target=is_refused, args=(path,))
        process.start()
        process.join()
        assert process.exitcode == 0
        return masks_are_ellipses(work, index)

    annotated(path, second)
    assert not (path.parent / "out.json.part").exists()


def kept_while_working(path: Path, held: str, end: Any) -> None:
    """Another process works in the folder of the run, without an index yet, and ``end`` ends."""
    work = path.parent / "out.json.part"
    (work / held).mkdir(parents=True)
    half = work / ".index.sqlite.half"
    half.write_bytes(b"half an index")

    def in_another_process() -> None:
        with folder_in_use(work / held):
            ready.set()
            done.wait(60)

    ready, done = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=in_another_process)
    process.start()
    try:
        assert ready.wait(60)
        end()
        assert (work / held / ".in_use").exists()
        assert half.exists()
    finally:
        done.set()
        process.join()
    assert process.exitcode == 0


def test_a_refused_run_leaves_the_work_of_the_other(tmp_path: Path) -> None:
    path = data(tmp_path / "d", images=2)
    kept_while_working(path, "in_use_all", lambda: is_refused(path))


def test_a_failing_shard_leaves_the_work_of_others(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": [1, 1, 9, 9], "category_id": 99}]])

    def fails() -> None:
        with pytest.raises(ValueError, match="category_id 99"):
            annotated(path, shard=(2, 3))
        assert not (path.parent / "out.json.part" / "in_use_2of3").exists()

    kept_while_working(path, "in_use_1of3", fails)


def test_a_run_that_was_killed_in_the_end_leaves_no_work(tmp_path: Path) -> None:
    options = options_for(data(tmp_path / "d", 3))
    killed = mock.patch.object(annotator.shutil, "rmtree", side_effect=KeyboardInterrupt)
    with killed, pytest.raises(KeyboardInterrupt):
        annotate_file(options, masks_are_ellipses)
    assert options.output.is_file() and (options.work_dir / "index.sqlite").is_file()
    annotate_file(options, masks_are_ellipses)
    assert not options.work_dir.exists()


def test_a_complete_run_leaves_the_work_of_another_kind(tmp_path: Path) -> None:
    path = data(tmp_path / "d", images=2)
    annotated(path)
    kept_while_working(path, "in_use_all", lambda: annotated(path))


def test_a_run_that_fails_at_the_start_leaves_nothing(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": [1, 1, 9, 9], "category_id": 99}]])
    with pytest.raises(ValueError, match="category_id 99"):
        annotated(path)
    assert not (path.parent / "out.json.part").exists()


@pytest.mark.parametrize("num_gpus", [1, 2])
def test_shards_and_processes_merge_in_order(
    num_gpus: int, tmp_path: Path, forked_workers: None
) -> None:
    path = data(tmp_path / "d", images=7)
    annotated(path, output=path.parent / "whole.json")
    if num_gpus == 1:
        for i in (2, 1, 3):
            report = annotate_file(options_for(path, shard=(i, 3)), masks_are_ellipses)
            assert not report["failed_images"]
            assert not (path.parent / "out.json").exists()

        def fail(work: Work, index: Index) -> Masker:
            raise AssertionError("an image was left")

        annotated(path, fail)
    else:
        annotated(path, num_gpus=2)
    assert (path.parent / "out.json").read_bytes() == (path.parent / "whole.json").read_bytes()
