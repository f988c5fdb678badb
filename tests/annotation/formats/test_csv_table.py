"""Tables of boxes."""

from pathlib import Path

import pytest
from format_files import objects_of, picture, read_as


def table(folder: Path, text: str) -> Path:
    path = folder / "boxes.csv"
    path.write_text(text, encoding="utf-8-sig")  # as spreadsheets save it
    return path


@pytest.mark.parametrize(
    "text",
    [
        "file_name,label,x,y,width,height\na.png,cup,1,2,10,20\nb.png,dog,0,0,5,5\n",
        "Filename;Class;xmin;ymin;xmax;ymax\na.png;cup;1;2;11;22\nb.png;dog;0;0;5;5\n",
        "x1\ty1\tx2\ty2\tlabel\timage\n1\t2\t11\t22\tcup\tdata/a.png\n0\t0\t5\t5\tdog\tb.png\n",
    ],
)
def test_columns_by_name(tmp_path: Path, text: str) -> None:
    picture(tmp_path, "a.png")
    images = picture(tmp_path, "b.png")
    content = read_as("csv", table(tmp_path, text), images)
    assert objects_of(content) == [("a.png", "cup", [1, 2, 10, 20]), ("b.png", "dog", [0, 0, 5, 5])]


def test_scores_are_kept(tmp_path: Path) -> None:
    images = picture(tmp_path, "a.png")
    text = "file_name,label,x,y,width,height,score\na.png,cup,1,2,10,20,0.5\n"
    content = read_as("csv", table(tmp_path, text), images)
    assert content["annotations"][0]["score"] == 0.5


@pytest.mark.parametrize(
    "text, what",
    [
        ("file_name,x,y,width,height\n", "first line must name the columns"),
        ("file_name,label,x,y,width,height\na.png,cup,1,2,ten,20\n", "line 2: its width must be"),
        ("file_name,label,x,y,width,height\na.png,cup,1,2,10\n", "line 2: its height must be"),
        ("file_name,label,x,y,width,height\na.png,cup,1,2,0,20\n", "line 2: its box .* no area"),
        ("file_name,label,x,y,width,height\nz.png,cup,1,2,9,20\n", "line 2: the image 'z.png'"),
        ("file_name,label,x,y,width,height\n", "no object"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, what: str) -> None:
    images = picture(tmp_path, "a.png")
    with pytest.raises(ValueError, match=what) as error:
        read_as("csv", table(tmp_path, text), images)
    assert "boxes.csv'" in str(error.value)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    images = picture(tmp_path, "a.png")
    path = tmp_path / "boxes.csv"
    path.write_bytes(b"file_name,label,x,y,width,height\na.png,caf\xe9,1,2,10,20\n")
    with pytest.raises(ValueError, match="boxes.csv' is no table in UTF-8"):
        read_as("csv", path, images)


def test_a_name_that_fits_two_images_is_refused(tmp_path: Path) -> None:
    picture(tmp_path, "x/a.png")
    images = picture(tmp_path, "y/a.png")
    text = "file_name,label,x,y,width,height\n{}a.png,cup,1,2,10,20\n"
    with pytest.raises(ValueError, match="can be 'x/a.png' or 'y/a.png'"):
        read_as("csv", table(tmp_path, text.format("")), images)
    content = read_as("csv", table(tmp_path, text.format("y/")), images)
    assert objects_of(content)[0][0] == "y/a.png"


@pytest.mark.parametrize("missing", ["train/0001.png", "x/val/0001.png", "0001.png"])
def test_images_are_not_merged(tmp_path: Path, missing: str) -> None:
    images = picture(tmp_path, "val/0001.png")
    text = f"file_name,label,x,y,width,height\n{missing},cup,1,2,9,20\nval/0001.png,dog,0,0,5,5\n"
    what = f"line 3: '{missing}' and 'val/0001.png' would both be the image 'val/0001.png'"
    with pytest.raises(ValueError, match=what):
        read_as("csv", table(tmp_path, text), images)
    picture(tmp_path, missing)
    content = read_as("csv", table(tmp_path, text), images)
    assert [file for file, *_ in objects_of(content)] == [missing, "val/0001.png"]


def test_one_name_in_several_spellings(tmp_path: Path) -> None:
    images = picture(tmp_path, "val/1.png")
    names = ("val/1.png", "./val/1.png", "val\\1.png", "val//1.png")
    rows = "".join(f"{name},cup,{i},2,9,20\n" for i, name in enumerate(names))
    content = read_as("csv", table(tmp_path, f"file_name,label,x,y,width,height\n{rows}"), images)
    assert [file for file, *_ in objects_of(content)] == ["val/1.png"] * 4
