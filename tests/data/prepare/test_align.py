"""seg-every-thing align: which classes match, what is rewritten, what is reported."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

from seg_every_thing.cli import align as align_cli
from seg_every_thing.data.datasets.vg_classes import as_categories, joint_classes
from seg_every_thing.data.prepare.align import match_categories

SOURCE = {
    "info": {"year": 2017},
    "licenses": [{"id": 1}, {"id": 2}],
    "images": [
        {"id": 1, "file_name": "1.jpg", "width": 10, "height": 8, "neg_category_ids": [9, 3, 5]},
        {"id": 2, "file_name": "2.jpg", "width": 10, "height": 8},
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 3,
            "bbox": [0, 0, 1.5, 1],
            "segmentation": [[1, 2]],
        },
        {"id": 2, "image_id": 1, "category_id": 5, "bbox": [0, 0, 2, 2], "iscrowd": 1},
        {"id": 3, "image_id": 2, "category_id": 9, "bbox": [0, 0, 3, 3]},
        {"id": 4, "image_id": 2, "category_id": 9, "bbox": [0, 0, 4, 4]},
    ],
    "categories": [{"id": 3, "name": "dog"}, {"id": 5, "name": "cat"}, {"id": 9, "name": "yak"}],
}
TARGET = {
    "images": [],
    "categories": [{"id": 1, "name": "bird"}, {"id": 2, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [],
}


def names(*values: str) -> List[Dict[str, Any]]:
    return [{"id": i, "name": name} for i, name in enumerate(values, start=1)]


def found(source: List[Any], target: List[Any], by: str = "name", **kwargs: Any) -> List[Any]:
    matches = match_categories(source, target, by, **kwargs)
    return [(m.target and m.target["name"], m.how) for m in matches]


def run(folder: Path, *more: Any, source: Any = SOURCE, target: Any = TARGET) -> Any:
    """Output and report of the command."""
    (folder / "a.json").write_text(source if isinstance(source, str) else json.dumps(source))
    (folder / "b.json").write_text(json.dumps(target))
    command(folder / "a.json", folder / "b.json", folder / "out.json", *more)
    files = folder / "out.json", folder / "out_report.json"
    return tuple(json.loads(path.read_text()) if path.exists() else None for path in files)


def command(source: Path, target: Path, output: Path, *more: Any) -> None:
    parser = argparse.ArgumentParser()
    align_cli.add_arguments(parser)
    by = [] if "--by" in more else ["--by", "name"]
    files = ["--source", source, "--target", target, "--output", output]
    align_cli.run(parser.parse_args([str(a) for a in [*files, *by, *more]]))


def test_rewritten_file(tmp_path: Path) -> None:
    out, _ = run(tmp_path)
    assert out == {
        "info": {"year": 2017},
        "licenses": [{"id": 1}, {"id": 2}],
        # Ids within images follow, or go.
        "images": [{**SOURCE["images"][0], "neg_category_ids": [2, 7]}, SOURCE["images"][1]],
        "annotations": [
            {**SOURCE["annotations"][0], "category_id": 7},
            {**SOURCE["annotations"][1], "category_id": 2},
        ],
        "categories": TARGET["categories"],
    }


def test_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="seg_every_thing"):
        _, report = run(tmp_path)
    assert report == {
        "matched": [
            {"source": "dog", "annotations": 1, "how": "name", "target": "dog"},
            {"source": "cat", "annotations": 1, "how": "name", "target": "cat"},
        ],
        "unmatched": [{"source": "yak", "annotations": 2, "how": "no match"}],
        "ambiguous": [],
        "targets_without_source": ["bird"],
        "annotations": {"kept": 2, "left_out": 2},
        "images": 2,
    }
    assert "2 of 3 classes" in caplog.text and "2 annotations kept, 2 left out" in caplog.text
    assert "yak (2)" in caplog.text


def test_report_elsewhere_and_long_files(tmp_path: Path) -> None:
    many = [{"id": i, "image_id": 1, "category_id": 3 + 2 * (i % 2)} for i in range(2500)]
    # Annotations may come before images.
    source = {"annotations": many, "images": SOURCE["images"], "categories": SOURCE["categories"]}
    out, report = run(tmp_path, "--report", tmp_path / "elsewhere.json", source=source)
    assert report is None
    assert json.loads((tmp_path / "elsewhere.json").read_text())["annotations"]["kept"] == 2500
    assert [a["id"] for a in out["annotations"]] == list(range(2500))
    assert [a["category_id"] for a in out["annotations"]] == [7, 2] * 1250
    assert len(out["images"]) == 2


def test_a_file_without_annotations(tmp_path: Path) -> None:
    source = {"categories": SOURCE["categories"], "images": []}
    out, report = run(tmp_path, source=source)
    assert out == {"categories": TARGET["categories"], "images": [], "annotations": []}
    assert report["annotations"] == {"kept": 0, "left_out": 0}


def test_by_name() -> None:
    target = names("traffic_light.n.01", "Cup", "bag.n.04", "bag.n.06", "dog", "hot-dog.n.02")
    source = names("traffic light", "cup", "bag", "dog", "Dog", "hot_dog")
    assert found(source, target) == [
        ("traffic_light.n.01", "similar name"),
        ("Cup", "similar name"),
        (None, "ambiguous"),
        ("dog", "name"),
        (None, "no match"),  # what is a dog already is not also a Dog
        ("hot-dog.n.02", "similar name"),
    ]
    assert match_categories(source, target, "name")[2].candidates == ("bag.n.04", "bag.n.06")
    # Two sources for one similar name: nothing says which is meant.
    assert found(names("mouse.n.01", "mouse.n.04"), names("mouse")) == [(None, "ambiguous")] * 2
    assert found(names("a"), names("a", "a")) == [(None, "ambiguous")]
    assert found(names("a", "a"), names("a")) == [("a", "name")] * 2


def test_by_synset() -> None:
    source = [
        {"id": 1, "name": "a cup", "synset": "cup.n.01"},
        *names("tree.n.01", "cup", "x.n.01"),
    ]
    target = [{"id": 4, "name": "plain", "synset": "tree.n.01"}, *names("cup.n.01", "oak.n.01")]
    assert found(source, target, "synset") == [
        ("cup.n.01", "synset"),
        ("plain", "synset"),
        (None, "no match"),  # "cup" is no synset
        (None, "no match"),
    ]
    with pytest.raises(ValueError, match="name or synset, got 'smell'"):
        found(source, target, "smell")


def test_extra_map_goes_first() -> None:
    source, target = names("dog", "bag", "cat"), names("dog", "bag.n.04", "bag.n.06", "wolf")
    extra: Dict[str, Optional[str]] = {"dog": "wolf", "bag": "bag.n.06", "cat": None}
    assert found(source, target, extra=extra) == [
        ("wolf", "map"),
        ("bag.n.06", "map"),
        (None, "map"),
    ]
    with pytest.raises(ValueError, match="source has no class 'dogg' .*'dog'"):
        found(source, target, extra={"dogg": "wolf"})
    with pytest.raises(ValueError, match="target has no class 'bag.n.4' .*'bag.n.04'"):
        found(source, target, extra={"bag": "bag.n.4"})


def test_extra_map_from_a_file(tmp_path: Path) -> None:
    extra = tmp_path / "extra.json"
    extra.write_text('{"yak": "bird", "cat": null}')
    out, report = run(tmp_path, "--map", extra)
    assert [(a["id"], a["category_id"]) for a in out["annotations"]] == [(1, 7), (3, 1), (4, 1)]
    assert report["unmatched"] == [{"source": "cat", "annotations": 1, "how": "map"}]
    for text in ("[1]", '{"yak": 3}', "{"):
        extra.write_text(text)
        with pytest.raises(ValueError, match="extra.json"):
            run(tmp_path, "--map", extra)


def test_coco_and_visual_genome_both_ways() -> None:
    ranked = ["mouse.n.04", "orange.n.01", "orange.n.02", "bag.n.04", "bag.n.01", "tree.n.01"]
    genome = as_categories(joint_classes(ranked))
    coco = [{"id": c["coco_id"], "name": c["coco_name"]} for c in genome[:80]]
    forth = match_categories(coco, genome, "name")
    assert [m.target["id"] for m in forth if m.target] == list(range(1, 81))
    assert {m.how for m in forth} == {"coco name"}
    back = match_categories(genome, coco, "name")
    assert [m.target["id"] for m in back[:80] if m.target] == [c["id"] for c in coco]
    # orange.n.02, the colour, is not the fruit.
    assert all(m.target is None for m in back[80:])


@pytest.mark.parametrize(
    "source, words",
    [
        ({**SOURCE, "categories": names("ant", "bee")}, ["no class", "ant, bee", "bird, cat, dog"]),
        ({"images": [], "annotations": []}, ["a.json", "no categories"]),
        ({**SOURCE, "categories": [{"id": 1}]}, ["a.json", "an id and a name"]),
        ({**SOURCE, "categories": [*names("dog"), *names("cat")]}, ["several", "id 1"]),
        ({**SOURCE, "annotations": [{"id": 5}]}, ["a.json", "annotation", "'category_id'"]),
        ({**SOURCE, "annotations": [7]}, ["a.json", "annotation 7"]),
        ({**SOURCE, "annotations": [{"category_id": 3, "area": float("nan")}]}, ["a.json"]),
        (json.dumps(SOURCE)[:400], ["a.json", "cut off"]),
        ([SOURCE], ["a.json", "an object"]),
    ],
)
def test_broken_input(source: Any, words: List[str], tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("old")
    with pytest.raises(ValueError) as error:
        run(tmp_path, source=source)
    assert all(word in str(error.value) for word in words), error.value
    assert (tmp_path / "out.json").read_text() == "old"
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "b.json", "out.json"}


def test_lvis_by_synset(coco_root: Path, tmp_path: Path) -> None:
    """Real LVIS annotations in Visual Genome's labels."""
    files = sorted((coco_root / "lvis" / "annotations").glob("lvis_v*.json"))
    if not files:
        pytest.skip("needs LVIS annotations in DETECTRON2_DATASETS/lvis/annotations")
    lvis = json.loads(files[0].read_text())
    ranked = ["person.n.01", "zebra.n.01", "tree.n.01", "umbrella.n.01", "lamp.n.02", "man.n.01"]
    genome = as_categories(joint_classes(ranked))
    (tmp_path / "b.json").write_text(json.dumps({"categories": genome}))
    command(files[0], tmp_path / "b.json", tmp_path / "out.json", "--by", "synset")
    out = json.loads((tmp_path / "out.json").read_text())
    synset_of = {c["id"]: c["synset"] for c in lvis["categories"]}
    id_of = {c["synset"]: c["id"] for c in genome}
    expected = [
        {**a, "category_id": id_of[synset_of[a["category_id"]]]}
        for a in lvis["annotations"]
        if synset_of[a["category_id"]] in id_of
    ]
    assert out["annotations"] == expected and 20 < len(expected) < len(lvis["annotations"])
    assert len(out["images"]) == len(lvis["images"])
    assert out["categories"] == genome
    for before, after in zip(lvis["images"], out["images"]):
        kept = {id_of[synset_of[i]] for i in before["neg_category_ids"] if synset_of[i] in id_of}
        assert set(after["neg_category_ids"]) == kept
