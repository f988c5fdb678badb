"""Pascal VOC's XML files."""

from pathlib import Path

import pytest
from format_files import objects_of, picture, read_as

OBJECT = """<object><name>dog</name><difficult>1</difficult><part><name>head</name><bndbox>
<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>
<bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>20</ymax></bndbox></object>"""


def write(folder: Path, objects: str, size: str = "", name: str = "a.png") -> Path:
    (folder / "xml").mkdir()
    (folder / "xml" / "1.xml").write_text(
        f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"
    )
    return folder / "xml"


def test_pixels_are_counted_from_1(tmp_path: Path) -> None:
    images = picture(tmp_path, "sub/a.png")
    content = read_as("voc", write(tmp_path, OBJECT), images)
    assert objects_of(content) == [("sub/a.png", "dog", [10, 5, 20, 15])]
    assert content["annotations"][0]["attributes"] == {"difficult": True}
    assert content["images"][0]["width"] == 50


def test_the_size_of_the_file_goes_on_to_be_checked(tmp_path: Path) -> None:
    images = picture(tmp_path, "a.png")
    size = "<size><width>70</width><height>60</height></size>"
    content = read_as("voc", write(tmp_path, OBJECT, size), images)
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (70, 60)


@pytest.mark.parametrize(
    "objects, what",
    [
        (OBJECT + OBJECT.replace("<xmax>30</xmax>", "<xmax>5</xmax>"), "object 2: .*no area"),
        (OBJECT.replace("<ymax>20</ymax>", ""), "object 1: <bndbox><ymax> is missing"),
        (OBJECT.replace("<name>dog</name>", ""), "object 1: its label must be text"),
        (OBJECT.replace("30", "x"), "object 1: could not convert"),
        ("<object>", "mismatched tag"),
        ("", "no object"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, objects: str, what: str) -> None:
    images = picture(tmp_path, "a.png")
    source = write(tmp_path, objects)
    with pytest.raises(ValueError, match=what) as error:
        read_as("voc", source, images)
    assert "xml" in str(error.value) and "\n" not in str(error.value)


def test_entities_and_unknown_images_are_refused(tmp_path: Path) -> None:
    images = picture(tmp_path, "a.png")
    source = write(tmp_path, OBJECT, name="b.png")
    with pytest.raises(ValueError, match="1.xml': the image 'b.png' is not in"):
        read_as("voc", source, images)
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa">]><annotation/>'
    (source / "1.xml").write_text(bomb)
    with pytest.raises(ValueError, match="1.xml': it defines XML entities"):
        read_as("voc", source, images)
