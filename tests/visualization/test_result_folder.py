import hashlib
from pathlib import Path

import pytest

from seg_every_thing.visualization.result_folder import NOTES, ResultFolder


def files(folder: Path) -> set:
    return {p.name for p in folder.iterdir()}


def test_a_former_run_goes_and_other_files_stay(tmp_path: Path) -> None:
    first = ResultFolder(tmp_path / "out")
    first.clear()
    first.write("a.jpg", b"1")
    first.write("b.jpg", b"2")
    first.write_json("c.json", [])
    (tmp_path / "out" / "other.jpg").write_bytes(b"3")
    (tmp_path / "out" / "b.jpg").write_bytes(b"changed")
    digest = hashlib.sha256(b"1").hexdigest()
    assert (tmp_path / "out" / NOTES).read_text().splitlines()[0] == f"{digest}  a.jpg"

    second = ResultFolder(tmp_path / "out")
    second.clear()
    assert files(tmp_path / "out") == {"b.jpg", "other.jpg"}
    assert second.free_names("b", [".jpg"]) == ["b_2.jpg"]
    assert second.free_names("OTHER", [".jpg", "_labels.png"]) == [
        *("OTHER_2.jpg", "OTHER_2_labels.png")
    ]
    assert second.free_names("other", [".png"]) == ["other.png"]


def test_notes_reach_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"1")
    (tmp_path / "out").mkdir()
    digest = hashlib.sha256(b"1").hexdigest()
    lines = [f"{digest}  ../mine", f"{digest}  {tmp_path / 'mine'}", "nonsense", "", f"{digest}  ."]
    (tmp_path / "out" / NOTES).write_text("\n".join(lines))
    folder = ResultFolder(tmp_path / "out")
    folder.clear()
    assert (tmp_path / "mine").read_bytes() == b"1"
    assert files(tmp_path / "out") == set()


def test_names_are_free_and_can_be_written_everywhere(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    folder.clear()
    assert [folder.free_names("a", [".jpg"])[0] for _ in range(3)] == [
        "a.jpg",
        "a_2.jpg",
        "a_3.jpg",
    ]
    assert folder.free_names("A", [".jpg"]) == ["A_4.jpg"]
    assert folder.free_names("x\n\udce9y", [".jpg"]) == ["x__y.jpg"]
    assert folder.free_names("\u00fc" * 200, [".jpg"]) == ["\u00fc" * 100 + ".jpg"]


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    folder.check(["index.html"])
    folder.clear()
    folder.write("index.html", b"1")
    folder.check(["index.html"])
    (tmp_path / "index.html").write_bytes(b"2")
    with pytest.raises(ValueError, match="index.html' was not written by this command, or"):
        folder.check(["a.json", "index.html"])
    ResultFolder(tmp_path / "index.html").check(["a.json"])  # no folder: clear() says so
    with pytest.raises(OSError, match="cannot write to the output folder .*index.html"):
        ResultFolder(tmp_path / "index.html").clear()


def test_notes_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    folder = ResultFolder(tmp_path)
    folder.clear()
    (tmp_path / NOTES).mkdir()
    with pytest.raises(OSError, match=f"cannot write '{tmp_path / NOTES}': Is a directory"):
        folder.write("a.jpg", b"1")
