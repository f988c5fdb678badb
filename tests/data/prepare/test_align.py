"""seg-every-thing align: what is rewritten, and what is reported."""

import argparse
import json
import logging
from pathlib import Path
from typing import Any, Dict, List, Tuple

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.data.detection_utils import read_image

from seg_every_thing.cli import align as align_cli
from seg_every_thing.data.datasets.vg_classes import as_categories, joint_classes

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
        ({**SOURCE, "images": [{"id": 7, "width": 1}]}, ["a.json", "image 7", "coco_url"]),
        ({**SOURCE, "images": [7]}, ["a.json", "image 7", "no JSON object"]),
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


LVIS = {
    "images": [
        {
            **{"id": 9, "width": 96, "height": 80, "neg_category_ids": [1, 5]},
            "not_exhaustive_category_ids": None,
            "coco_url": "http://images.example.org/val2017/000000000009.png",
        }
    ],
    # As LVIS v1 has them: without iscrowd.
    "annotations": [
        {
            **{"id": 1, "image_id": 9, "category_id": 5, "bbox": [1, 2, 30, 30], "area": 900},
            "segmentation": [[1, 2, 31, 2, 31, 32, 1, 32]],
        }
    ],
    "categories": [{"id": 5, "name": "lorry", "synset": "truck.n.01", "frequency": "f"}],
}


@pytest.mark.parametrize("folders", [("val2017",), ("val2017", "train2017")])
@pytest.mark.parametrize("reverse", [False, True])
def test_lvis_end_to_end(
    folders: Tuple[str, ...], reverse: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What align writes is read by register_coco_instances, pixels and all."""
    root = tmp_path / "images"
    images = []
    for i, folder in enumerate(folders):
        url = f"http://images.example.org/{folder}/000000000009.png"
        images.append({**LVIS["images"][0], "id": 9 + i, "coco_url": url})
        picture = root / folder / "000000000009.png"
        picture.parent.mkdir(parents=True)
        cv2.imwrite(str(picture), np.full((80, 96, 3), 10 * i, np.uint8))
    source = {**LVIS, "images": images}
    if reverse:  # the order of members is free
        source = dict(reversed(source.items()))
    target = {"categories": [{"id": 3, "name": "truck.n.01"}]}
    with caplog.at_level(logging.INFO, logger="seg_every_thing"):
        out, report = run(tmp_path, "--by", "synset", source=source, target=target)
    assert report["image_folder"] == ("val2017" if len(folders) == 1 else "")
    assert "Images have no file_name" in caplog.text
    assert [image["neg_category_ids"] for image in out["images"]] == [[3]] * len(folders)
    image_root = root / report["image_folder"]
    name = f"aligned_{len(folders)}_{reverse}"
    register_coco_instances(name, {}, str(tmp_path / "out.json"), str(image_root))
    try:
        records = DatasetCatalog.get(name)
        assert MetadataCatalog.get(name).thing_classes == ["truck.n.01"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert len(records) == len(folders) and len(records[0]["annotations"]) == 1
    for i, record in enumerate(records):
        assert (read_image(record["file_name"]) == 10 * i).all()


def test_targets_of_one_name_are_said(tmp_path: Path) -> None:
    source, target = (
        {**SOURCE, "categories": names("cup")},
        {**TARGET, "categories": names(*["cup"] * 2)},
    )
    with pytest.raises(ValueError, match=r"fit equally well \(cup, cup\): make their names unique"):
        run(tmp_path, source=source, target=target)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("word", ["synset", "coco_name"])
@pytest.mark.parametrize("side", ["source", "target"])
def test_words_that_are_numbers(word: str, side: str, tmp_path: Path) -> None:
    files = {"source": SOURCE, "target": TARGET}
    files[side] = {**files[side], "categories": [{"id": 1, "name": "cup", word: 5}]}
    with pytest.raises(
        ValueError, match=f"json', category 'cup': its {word} is 5, which is no text"
    ):
        run(tmp_path, **files)
