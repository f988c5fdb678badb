"""The files of a review page; ``test_review_page.py`` opens them in a browser."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import cv2
import pytest
from review_browser import made_up_items

from seg_every_thing.annotation.review import FILES, check_review_folder, write_review
from seg_every_thing.annotation.review_items import ReviewItem


@pytest.fixture
def items(tmp_path: Path) -> List[ReviewItem]:
    return list(made_up_items(tmp_path / "images", 2, 3))


def data_of(page: Path) -> Tuple[List[Any], Dict[str, Any]]:
    """Rows and run."""
    text = (page.parent / FILES / "data.js").read_text(encoding="ascii")
    rows, run = re.fullmatch(
        r"Review\.rows = (\[.*?),?\n\];\nReview\.run = (.*);\n", text, re.S
    ).groups()
    return json.loads(rows + "]"), json.loads(run)


def files_below(folder: Path) -> List[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_every_object_has_a_row_a_mask_and_a_crop(tmp_path: Path, items: List[ReviewItem]) -> None:
    facts = {"Model": "some.yaml"}
    page = write_review(tmp_path / "report", iter(items), {"title": "A title", "facts": facts})
    assert page == tmp_path / "report" / "index.html"
    rows, run = data_of(page)
    assert [row[0] for row in rows] == [item.annotation_id for item in items]
    assert [run["classes"][row[1]] for row in rows] == [item.class_name for item in items]
    assert [row[2] for row in rows] == pytest.approx([item.score for item in items])
    assert run["title"] == "A title" and run["facts"] == facts
    assert run["flags"] == ["changed by polygon"]  # of the first object
    assert [row[4] for row in rows] == [1, 0, 0, 0, 0, 0]
    masks = (page.parent / FILES / "masks" / "0.js").read_text()
    number, runs = re.fullmatch(r"Review\.masks\((\d+), (.*)\);\n", masks, re.S).groups()
    assert number == "0" and len(json.loads(runs)) == len(items)
    for i, row in enumerate(rows):
        crop = cv2.imread(str(page.parent / FILES / "crops" / "0" / f"{i}.jpg"))
        assert list(crop.shape[1::-1]) == row[9]
        assert sum(json.loads(runs)[i]) == row[9][0] * row[9][1]


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path, items: List[ReviewItem]) -> None:
    page = write_review(tmp_path, items, {})
    texts = [f.read_text() for f in [page, *(tmp_path / FILES).glob("*.*s")]]
    assert len(texts) == 8
    for text in texts:
        text = text.replace("http://www.w3.org/2000/svg", "")  # the name of a language
        assert not re.search(r"(https?:)?//[a-z]|@import|\bimport\b|fetch\(|XMLHttp", text)
    used = re.findall(r'(?:src|href)="(review_files/[^"]+)"', page.read_text())
    assert len(used) == 7 and all((tmp_path / name).is_file() for name in used)


def test_names_of_any_kind_are_plain_ascii_in_the_data(
    tmp_path: Path, items: List[ReviewItem]
) -> None:
    name = "</script><script>alert(1)</script>\"'\n\u202e\u2028\udcff"
    item = replace(items[0], class_name=name, file_name=name, annotation_id=name)
    rows, run = data_of(write_review(tmp_path, [item], {"title": name, "facts": {name: name}}))
    assert rows[0][0] == run["title"] == name
    shown = "</script><script>alert(1)</script>\"'\\n\\u202e\\u2028\\udcff"
    assert rows[0][5] == run["classes"][0] == shown


def test_the_run_is_named_by_its_objects_or_by_the_caller(
    tmp_path: Path, items: List[ReviewItem]
) -> None:
    def source(items: List[ReviewItem], **meta: Any) -> str:
        return data_of(write_review(tmp_path / "report", items, meta))[1]["source"]

    first = source(items)
    assert source(items, title="another") == first
    empty = replace(items[0].mask, runs=(items[0].mask.width * items[0].mask.height,))
    assert source([replace(items[0], mask=empty), *items[1:]]) != first
    assert source([replace(items[0], class_name="other"), *items[1:]]) != first
    assert source(items, source="abc") == "abc"


def test_a_second_page_replaces_the_first_and_nothing_else(
    tmp_path: Path, items: List[ReviewItem]
) -> None:
    (tmp_path / "report.json").write_text("{}")
    write_review(tmp_path, items, {})
    write_review(tmp_path, items[:2], {})
    assert (tmp_path / "report.json").is_file()
    crops = [name for name in files_below(tmp_path / FILES) if name.startswith("crops/")]
    assert crops == ["crops/0/0.jpg", "crops/0/1.jpg"]


def test_a_page_that_fails_leaves_the_former_one(tmp_path: Path, items: List[ReviewItem]) -> None:
    def broken() -> Iterator[ReviewItem]:
        yield items[0]
        raise ValueError("no more")

    report = tmp_path / "report"
    write_review(report, items, {})
    before = files_below(report)
    with pytest.raises(ValueError, match="no more"):
        write_review(report, broken(), {})
    assert files_below(report) == before and len(list(report.iterdir())) == 2
    with pytest.raises(ValueError, match="two objects to review have the id 100"):
        write_review(report, [items[0], replace(items[1], annotation_id="100")], {})
    assert files_below(report) == before


def test_files_of_others_are_in_the_way(tmp_path: Path, items: List[ReviewItem]) -> None:
    (tmp_path / "index.html").write_text("<p>mine</p>")
    for use in (check_review_folder, lambda folder: write_review(folder, items, {})):
        with pytest.raises(ValueError, match="index.html' is no review page"):
            use(tmp_path)
    assert files_below(tmp_path)[-1] == "index.html"
    (tmp_path / "index.html").unlink()
    (tmp_path / FILES).mkdir()
    with pytest.raises(ValueError, match="review_files' is no part of a review page"):
        check_review_folder(tmp_path)


def test_an_image_that_cannot_be_read_is_named_and_its_objects_stay(
    tmp_path: Path, items: List[ReviewItem], caplog: pytest.LogCaptureFixture
) -> None:
    items[0].image_path.write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        rows, _ = data_of(write_review(tmp_path / "report", items, {}))
    assert [row[10] for row in rows] == [False] * 3 + [True] * 3
    (message,) = caplog.messages
    assert "picture_00000.jpg" in message
    crops = [n for n in files_below(tmp_path / "report" / FILES) if n.startswith("crops/")]
    assert crops == ["crops/0/3.jpg", "crops/0/4.jpg", "crops/0/5.jpg"]


def test_a_page_of_nothing(tmp_path: Path) -> None:
    page = write_review(tmp_path, [], {})
    text = (tmp_path / FILES / "data.js").read_text()
    assert page.is_file() and text.startswith("Review.rows = [\n];\n")
    assert not (tmp_path / FILES / "masks").exists()
