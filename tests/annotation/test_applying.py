"""Decisions of the review page on an annotated file."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Dict
from unittest import mock

import numpy as np
import pytest
from annotating import (
    annotated,
    ellipse,
    ellipse_mask,
    masks_are_ellipses,
    options_for,
    rle_of,
    write_data,
)

from seg_every_thing.annotation import applying
from seg_every_thing.annotation.annotator import annotate_file
from seg_every_thing.annotation.applying import apply_review
from seg_every_thing.annotation.encoding import CutMask
from seg_every_thing.annotation.index import Index
from seg_every_thing.files import file_digest

BOX = [10.0, 8.0, 24.0, 18.0]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An annotated file: objects 10, 20 and 30 have masks that were made, 40 one of the user's."""
    given = {"bbox": BOX, "segmentation": rle_of(ellipse(BOX)), "attributes": {"source": "me"}}
    mine = {"bbox": BOX, "attributes": {"source": "drone", "score": 3}, "score": 0.1}
    path = write_data(tmp_path / "d", [[{"bbox": BOX}, mine, {"bbox": BOX}, given]])
    annotated(path)
    return path.parent / "out.json"


def decided(out: Path, decisions: Dict[str, str], **changes: Any) -> Path:
    content = {"version": 1, "source": file_digest(out), "decisions": decisions, **changes}
    path = out.parent / "decisions.json"
    path.write_text(json.dumps(content))
    return path


def run(out: Path, decisions: Path, learn: bool = False, **options: Any) -> Any:
    options = {"output": out.parent / "final.json", **options}
    made = options_for(out, **options)
    return apply_review(made, decisions, learn), json.loads(made.output.read_text())


def test_rejected_masks_become_boxes_as_they_were(out: Path) -> None:
    before = json.loads((out.parent / "boxes.json").read_text())["annotations"]
    was = json.loads(out.read_text())["annotations"]
    decisions = decided(out, {"10": "reject", "20": "reject", "30": "accept"})
    report, content = run(out, decisions)
    first, second, third, fourth = content["annotations"]
    boxed = {"segmentation": [], "area": 24.0 * 18.0, "iscrowd": 0}
    assert first == {**before[0], **boxed}
    assert second == {**before[1], **boxed}
    assert third == {**was[2], "attributes": {**was[2]["attributes"], "review": "accepted"}}
    assert fourth == before[3]
    assert report["review"] == {"accept": 1, "reject": 2, "undecided": 0}


@pytest.mark.parametrize("learn", [False, True])
def test_a_box_that_was_tightened_comes_back_with_the_rejection(
    learn: bool, tmp_path: Path
) -> None:
    box, mine = [5.0, 5.0, 20.0, 20.0], {"attributes": ["red"]}
    path = write_data(tmp_path / "d", [[{"bbox": box}, {"bbox": box, **mine}, {"bbox": box}]])
    after = annotated(path, masks_are_small, tighten_boxes=True)
    assert [a["bbox"] for a in after["annotations"]] == [[9, 9, 3, 3]] * 3
    out = path.parent / "out.json"
    anew = {"overwrite": True, "tighten_boxes": True, "output": tmp_path / "again.json"}
    assert annotated(out, masks_are_small, **anew)["annotations"] == after["annotations"]
    decisions = decided(out, {"10": "reject", "20": "reject", "30": "accept"})
    with mock.patch.object(applying, "annotate_file", lambda learning: {}):
        target = tmp_path / "final.json"
        apply_review(options_for(out, output=target, **_untrained(learn)), decisions, learn)
    reviewed = tmp_path / "final_reviewed.json" if learn else target
    first, second, third = json.loads(reviewed.read_text())["annotations"]
    boxed = {"segmentation": [], "area": 400.0, "iscrowd": 0}
    before = json.loads(path.read_text())["annotations"]
    assert [first, second] == [{**before[0], **boxed}, {**before[1], **boxed}]
    assert third["bbox"] == [9, 9, 3, 3]


def test_a_box_that_is_tight_needs_no_note(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": [9, 9, 3, 3]}]])
    (made,) = annotated(path, masks_are_small, tighten_boxes=True)["annotations"]
    assert made["attributes"].keys() == {"source", "score"}


def masks_are_small(work: Any, index: Index) -> Any:
    """A model whose masks are 3 x 3 pixels, whatever the box."""

    def make(image: Any, boxes: Any, categories: Any) -> Any:
        made = [ellipse_mask(image, box) for box in boxes]
        return [m._replace(mask=CutMask(np.ones((3, 3), bool), 9, 9)) for m in made]

    return make


def _untrained(learn: bool) -> Dict[str, Any]:
    return {"config_file": None, "opts": ()} if learn else {}


def test_what_is_undecided_stays(out: Path) -> None:
    report, content = run(out, decided(out, {"10": "reject"}))
    assert content["annotations"][1:] == json.loads(out.read_text())["annotations"][1:]
    assert report["review"]["undecided"] == 2


def test_an_id_that_is_a_whole_float_is_decided_on_as_javascript_writes_it(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX, "id": 1.0}, {"bbox": BOX, "id": "1.0"}]])
    annotated(path)
    _, content = run(path.parent / "out.json", decided(path.parent / "out.json", {"1": "reject"}))
    assert [bool(a["segmentation"]) for a in content["annotations"]] == [False, True]


def test_it_may_be_done_twice(out: Path) -> None:
    decisions = decided(out, {"10": "reject"})
    run(out, decisions)
    final = out.parent / "final.json"
    before = final.read_bytes(), final.stat().st_mtime_ns
    run(out, decisions)
    assert (final.read_bytes(), final.stat().st_mtime_ns) == before
    _, content = run(out, decided(out, {"20": "reject"}))
    assert content["annotations"][0]["segmentation"]


@pytest.mark.parametrize(
    ("decisions", "changes", "message"),
    [
        ({"10": "reject"}, {"source": "0" * 64}, "are of another run"),
        ({"11": "reject"}, {}, r"decides on 1 objects that have no mask of annotate .*'11'"),
        ({"40": "reject"}, {}, r"decides on 1 objects that have no mask of annotate .*'40'"),
        ({"10": "maybe"}, {}, "'maybe'"),
    ],
)
def test_decisions_that_do_not_fit(
    decisions: Dict[str, str], changes: Dict[str, Any], message: str, out: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(out, decided(out, decisions, **changes))
    assert not (out.parent / "final.json").exists()
    assert not list(out.parent.glob(".*"))


def test_the_reviewed_file_is_not_written_over(out: Path) -> None:
    with pytest.raises(ValueError, match="would be written over"):
        run(out, decided(out, {"10": "reject"}), output=out)


def test_learning_keeps_what_is_accepted_and_makes_the_rest_anew(out: Path) -> None:
    decisions = decided(out, {"10": "reject", "30": "accept"})
    seen = []

    def annotate(options: Any) -> Any:
        seen.append(options)
        trained = dataclasses.replace(options, **_trained(out))
        return annotate_file(trained, masks_are_ellipses)

    with mock.patch.object(applying, "annotate_file", annotate):
        report, content = run(out, decisions, learn=True, config_file=None, opts=())
    reviewed = json.loads(seen[0].annotations.read_text())["annotations"]
    assert [bool(a["segmentation"]) for a in reviewed] == [False, False, True, True]
    assert report["input"]["wanted"] == 2
    assert content["annotations"][2]["attributes"]["review"] == "accepted"
    assert all(a["segmentation"] for a in content["annotations"])


def _trained(out: Path) -> Dict[str, Any]:
    weights = ("MODEL.WEIGHTS", str(out.parent / "weights.pth"))
    return {"config_file": "photos/box_to_mask.yaml", "opts": weights}


def test_learning_is_training(out: Path) -> None:
    with pytest.raises(ValueError, match="--learn trains a model"):
        run(out, decided(out, {"10": "accept"}), learn=True)


def test_masks_that_were_made_do_not_measure_quality(out: Path) -> None:
    options = options_for(out, output=out.parent / "more.json", holdout=0.9, overwrite=True)

    def stop(work: Any, index: Index) -> Any:
        held_out = [index.object(number)[0].id for number in index.held_out()]
        raise KeyError(held_out)

    with pytest.raises(KeyError) as error:
        annotate_file(options, stop)
    assert error.value.args[0] == [40]
