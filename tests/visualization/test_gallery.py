from html.parser import HTMLParser
from pathlib import Path
from typing import Dict, List, Optional, Tuple
from urllib.parse import unquote

import numpy as np
import pytest

from seg_every_thing.data.picture_files import save_picture
from seg_every_thing.visualization.gallery import GalleryItem, write_gallery


class Page(HTMLParser):
    """What a test wants to know of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: List[str] = []
        self.attributes: List[Tuple[str, Dict[str, Optional[str]]]] = []
        self.texts: List[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    def images(self) -> List[Dict[str, Optional[str]]]:
        return [attributes for tag, attributes in self.attributes if tag == "img"]


@pytest.fixture
def pictures(tmp_path: Path) -> List[str]:
    names = ["plain.png", "50% of #1 & more.png", "below/ü.png"]
    (tmp_path / "below").mkdir()
    for name in names:
        save_picture(tmp_path / name, np.zeros((10, 20, 3), np.uint8))
    return names


def test_gallery_refers_to_files_that_exist(tmp_path: Path, pictures: List[str]) -> None:
    items = [GalleryItem(name, f"<b> & {name}") for name in pictures]
    items.append(GalleryItem(str(tmp_path / "plain.png"), "given as an absolute path"))
    write_gallery(tmp_path / "index.html", "Title", "Intro", items)
    page = Page(tmp_path / "index.html")
    sources = [unquote(image["src"] or "") for image in page.images()]
    assert sources == [*pictures, "plain.png"]
    assert all((tmp_path / source).is_file() for source in sources)
    for image, item in zip(page.images(), items):
        assert image["loading"] == "lazy"
        assert image["alt"] == item.caption
        assert (image["width"], image["height"]) == ("20", "10")
        assert item.caption in page.texts
    links = [attributes["href"] for tag, attributes in page.attributes if tag == "a"]
    assert links == [image["src"] for image in page.images()]


def test_gallery_needs_no_network(tmp_path: Path, pictures: List[str]) -> None:
    items = [GalleryItem(name, name) for name in pictures]
    write_gallery(tmp_path / "index.html", "T", "I", items, (["a"], [["b"]]), with_sets=True)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "http://" not in text
    assert "https://" not in text
    assert not {"script", "link", "iframe"} & set(Page(tmp_path / "index.html").tags)


def test_gallery_escapes_and_shows_the_table(tmp_path: Path) -> None:
    table = (["row", "AP<sub>"], [["<script>x</script>", 12.345], ["b", 3]])
    write_gallery(tmp_path / "index.html", "<i>T</i>", "one < two\n\n<p>three", [], table)
    page = Page(tmp_path / "index.html")
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert page.tags.count("p") == 3  # the two of the intro, and that there are no pictures
    for text in ("<i>T</i>", "one < two", "<p>three", "AP<sub>", "<script>x</script>", "12.3", "3"):
        assert text in page.texts
    assert page.tags.count("tr") == 3


@pytest.mark.parametrize("with_added", [True, False])
@pytest.mark.parametrize("with_sets", [True, False])
def test_gallery_legend_names_the_kinds_of_classes(
    tmp_path: Path, with_sets: bool, with_added: bool
) -> None:
    options = {"with_sets": with_sets, "with_added": with_added}
    write_gallery(tmp_path / "index.html", "T", "I", [], **options)
    page = Page(tmp_path / "index.html")
    legend = [text[:6] for text in page.texts if text.startswith(("set ", "added:"))]
    assert legend == ["set A:", "set B:"] * with_sets + ["added:"] * with_added
    assert page.tags.count("ul") == (with_sets or with_added)


def test_gallery_refuses_missing_pictures_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none.png"):
        write_gallery(tmp_path / "index.html", "T", "I", [GalleryItem("none.png", "c")])
    assert list(tmp_path.iterdir()) == []
