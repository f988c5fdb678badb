"""prepare-vg: the miniature by hand, made-up files against a plain reference, bad input."""

import argparse
import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Set

import pytest
from conftest import unregister
from detectron2.data import DatasetCatalog, MetadataCatalog
from vg_files import (
    EXPECTED_ANNOTATIONS,
    EXPECTED_IMAGES,
    IMAGES,
    NUM_CLASSES,
    OBJECTS,
    image_record,
    object_record,
    write_miniature,
)

from seg_every_thing.benchmarks.visual_genome import run_prepare_vg_benchmark, write_vg_like_files
from seg_every_thing.cli import prepare_vg
from seg_every_thing.data.datasets.vg_classes import joint_classes, rank_synsets, ties_at
from seg_every_thing.data.datasets.visual_genome import (
    VISUAL_GENOME_DATA_SETS,
    register_visual_genome,
)
from seg_every_thing.data.prepare.vg_objects import clip_box
from seg_every_thing.data.prepare.vg_prepare import prepare_visual_genome
from seg_every_thing.data.splits import COCO_CLASSES

SPLITS = ("train", "val", "test")


def command(*args: Any) -> None:
    parser = argparse.ArgumentParser()
    prepare_vg.add_arguments(parser)
    prepare_vg.run(parser.parse_args([str(a) for a in args]))


def prepare(folder: Path, *more: Any) -> Dict[str, Any]:
    """Run the command on the files in a folder; all it wrote, by split or "summary"."""
    command(
        *("--image-data", folder / "image_data.json", "--objects", folder / "objects.json"),
        *("--output", folder / "out", *more),
    )
    files = {split: folder / "out" / f"instances_vg3k_{split}.json" for split in SPLITS}
    files["summary"] = folder / "out" / "summary.json"
    return {name: json.loads(path.read_text()) for name, path in files.items()}


@pytest.fixture
def miniature(tmp_path: Path) -> Path:
    write_miniature(tmp_path)
    return tmp_path


def options(folder: Path) -> List[Any]:
    return [
        *("--num-classes", NUM_CLASSES, "--num-test", 1),
        *("--coco-annotations", folder / "val_ids.txt"),
    ]


def test_miniature(miniature: Path) -> None:
    out = prepare(miniature, *options(miniature))
    for split in SPLITS:
        assert out[split]["images"] == EXPECTED_IMAGES[split]
        assert out[split]["annotations"] == EXPECTED_ANNOTATIONS[split]
        # 10 stays 10 and does not become 10.0
        assert json.dumps(out[split]["annotations"]) == json.dumps(EXPECTED_ANNOTATIONS[split])
        assert out[split]["categories"] == out["train"]["categories"]
    categories = out["train"]["categories"]
    assert [c["id"] for c in categories] == list(range(1, 83))
    assert [c.get("coco_name") for c in categories] == [*COCO_CLASSES, None, None]
    by_coco_name = {c["coco_name"]: c for c in categories[:80]}
    assert by_coco_name["stop sign"] == {
        **{"id": 12, "name": "sign.n.02", "synset": "sign.n.02", "display_name": "sign"},
        **{"coco_id": 13, "coco_name": "stop sign"},
    }
    assert by_coco_name["mouse"]["name"] == "mouse.n.04"
    assert by_coco_name["traffic light"]["name"] == "traffic_light.n.01"
    assert by_coco_name["traffic light"]["display_name"] == "traffic light"
    assert [c["name"] for c in categories[80:]] == ["mouse.n.01", "tree.n.01"]
    assert len({c["name"] for c in categories}) == 82
    names = (miniature / "out" / "coco_classes.txt").read_text().splitlines()
    assert names == [c["name"] for c in categories[:80]]


def test_miniature_summary(miniature: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="seg_every_thing"):
        summary = prepare(miniature, *options(miniature))["summary"]
    classes = summary.pop("classes")
    assert summary == {
        "num_classes": 82,
        "chosen_synsets": 6,
        "ties": {"kept": ["bag.n.06", "mouse.n.01"], "left_out": ["zoo.n.01"]},
        "images": {"train": 4, "val": 1, "test": 1, "none": 0},
        "images_without_objects_record": 1,
        "annotations": {"train": 5, "val": 2, "test": 2},
        "objects": {
            "total": 16,
            "used": 9,
            "unused": {
                **{"no synset": 1, "several synsets": 1, "synset not chosen": 1},
                **{"image in no split": 0, "image not in image_data": 2},
            },
        },
        "boxes": {"clipped": 2, "dropped": {"without area": 1, "outside the image": 1}},
        "renumbered_annotations": 1,
    }
    assert classes[0]["synset_found_by"] == "name"
    assert {k: classes[0][k] for k in ("occurrences", *SPLITS)} == {
        **{"occurrences": 4, "train": 1, "val": 1, "test": 1}
    }
    assert classes[28]["synset_found_by"] == "manual" and classes[28]["test"] == 1
    assert classes[1]["synset_found_by"] == "none" and classes[1]["occurrences"] == 0
    assert classes[81]["occurrences"] == 5 and classes[81]["train"] == 2
    assert "COCO classes without a box: bicycle, car" in caplog.text
    assert "NUM_CLASSES 82" in caplog.text


def test_a_coco_synset_that_is_too_rare_keeps_its_place_without_boxes(miniature: Path) -> None:
    out = prepare(miniature, *options(miniature), "--num-classes", 4)
    assert len(out["train"]["categories"]) == 80 + 4 - 3
    assert out["train"]["categories"][28]["name"] == "bag.n.06"
    assert [a["id"] for a in out["test"]["annotations"]] == [52]


def test_list_of_synsets(miniature: Path, caplog: pytest.LogCaptureFixture) -> None:
    synsets = miniature / "list.txt"
    synsets.write_text("# mine\nzoo.n.01\nmouse.n.01\n\nyak.n.02\nmouse.n.04\n")
    arguments = options(miniature)[2:]
    out = prepare(miniature, *arguments, "--synsets", synsets)
    names = [c["name"] for c in out["train"]["categories"]]
    assert names[64] == "mouse.n.04" and names[80:] == ["mouse.n.01", "yak.n.02", "zoo.n.01"]
    found = {a["id"]: a["category_id"] for a in out["train"]["annotations"]}
    assert found == {31: 65, 32: 81, 33: 83}
    assert out["summary"]["ties"] == {"kept": [], "left_out": []}
    for text, word in (("", "no synset"), ("zoo", "'zoo'"), ("a.n.01\na.n.01", "twice: a.n.01")):
        synsets.write_text(text)
        with pytest.raises(ValueError, match=f"list.txt.*{word}"):
            prepare(miniature, *arguments, "--synsets", synsets)


@pytest.mark.parametrize("outside", [None, -1, 0, -7, float("nan"), -1.0])
def test_ids_that_are_not_of_coco(
    outside: Any, miniature: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """coco_id -1, say, means the same as null: outside COCO, and so in test."""
    expected = prepare(miniature, *options(miniature))
    images = [{**x, "coco_id": x.get("coco_id") or outside} for x in IMAGES]
    (miniature / "image_data.json").write_text(json.dumps(images))
    assert prepare(miniature, *options(miniature)) == expected
    # Whole numbers as a table with gaps in it has them.
    images = [{**x, "coco_id": float(x["coco_id"] or outside or -1)} for x in images]
    (miniature / "image_data.json").write_text(json.dumps(images))
    assert prepare(miniature, *options(miniature)) == expected


@pytest.mark.parametrize("coco_id", ["500", "", 1.5, True, [500], float("inf")])
def test_ids_of_coco_that_are_none(coco_id: Any, miniature: Path) -> None:
    images = [image_record(1, coco_id=coco_id)]
    (miniature / "image_data.json").write_text(json.dumps(images))
    with pytest.raises(ValueError, match=r"image_data\.json', record .*coco_id must be a whole"):
        prepare(miniature, *options(miniature))


def test_more_classes_than_there_are(miniature: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = prepare(miniature, *options(miniature)[2:])
    assert out["summary"]["chosen_synsets"] == 7 and "Only 7 synsets" in caplog.text


def test_sizes_of_val_and_test(miniature: Path, caplog: pytest.LogCaptureFixture) -> None:
    (miniature / "val_ids.txt").write_text("500\n501\n")
    coco = ("--coco-annotations", miniature / "val_ids.txt")
    out = prepare(miniature, *coco, "--num-val", 1, "--num-test", 2)
    ids = {split: [x["id"] for x in out[split]["images"]] for split in SPLITS}
    # Image 3 is of COCO val2017, and so not for training either.
    assert ids == {"train": [1, 6], "val": [2], "test": [4, 5]}
    assert out["summary"]["images"]["none"] == 1
    assert out["summary"]["objects"]["unused"]["image in no split"] == 3
    out = prepare(miniature, *coco, "--num-test", 0)
    assert [x["id"] for x in out["train"]["images"]] == [1, 4, 5, 6]
    assert "takes all" not in caplog.text
    out = prepare(miniature, *coco)
    assert [x["id"] for x in out["test"]["images"]] == [1, 4, 5]
    assert "Only 3 images are outside COCO" in caplog.text
    with pytest.raises(ValueError, match="--num-test -1"):
        prepare(miniature, *coco, "--num-test", -1)


def test_where_val_comes_from(
    miniature: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(miniature / "data_sets"))
    with pytest.raises(ValueError, match="data_sets.*instances_val2017.json.*--coco-annotations"):
        prepare(miniature)
    assert not list((miniature / "out").glob("instances*"))
    coco = miniature / "data_sets" / "coco" / "annotations" / "instances_val2017.json"
    coco.parent.mkdir(parents=True)
    images = [{"id": 500, "width": 5}, {"id": 501}]
    coco.write_text(json.dumps({"info": {}, "images": images, "annotations": [{"id": 1}]}))
    assert [x["id"] for x in prepare(miniature)["val"]["images"]] == [2, 3]
    assert "names 2 images, COCO val2017 has 5000" in caplog.text
    coco.write_text(json.dumps({"annotations": []}))
    with pytest.raises(ValueError, match="instances_val2017.json.*lists no images"):
        prepare(miniature)
    (miniature / "val_ids.txt").write_text("500\nfive\n")
    with pytest.raises(ValueError, match="val_ids.txt.*one COCO image id a line.*five"):
        prepare(miniature, "--coco-annotations", miniature / "val_ids.txt")
    # Where no image is COCO's, no file is needed.
    coco.unlink()
    images_outside = [{**x, "coco_id": None} for x in IMAGES]
    (miniature / "image_data.json").write_text(json.dumps(images_outside))
    assert prepare(miniature)["val"]["images"] == []


@pytest.mark.parametrize(
    "edit, words",
    [
        (lambda o: o.pop("synsets"), ["'synsets' is missing", "version 1.4"]),
        (lambda o: o.pop("object_id"), ["'object_id' is missing"]),
        (lambda o: o.pop("w"), ["object 11", "'w' is missing"]),
        (lambda o: o.update(synsets="tree.n.01"), ["object 11", "a list"]),
        (lambda o: o.update(object_id="11"), ["object 11"]),
        (lambda o: o.update(x="10"), ["object 11", "numbers", "'10'"]),
        (lambda o: o.update(h=None), ["object 11", "numbers", "None"]),
        (lambda o: o.update(y=True), ["object 11", "numbers", "True"]),
        (lambda o: o.update(x=float("nan")), ["object 11", "numbers", "nan"]),
        (lambda o: o.update(w=float("inf")), ["object 11", "numbers", "inf"]),
    ],
)
def test_broken_objects(miniature: Path, edit: Any, words: List[str]) -> None:
    objects = json.loads(json.dumps(OBJECTS))
    edit(objects[0]["objects"][0])
    (miniature / "objects.json").write_text(json.dumps(objects))
    (miniature / "out").mkdir()
    (miniature / "out" / "instances_vg3k_train.json").write_text("old")
    with pytest.raises(ValueError) as error:
        prepare(miniature, *options(miniature))
    text = str(error.value)
    assert all(word in text for word in ["objects.json", "image 1", *words]), text
    # Nothing half done, nothing of before lost.
    assert [p.name for p in (miniature / "out").iterdir()] == ["instances_vg3k_train.json"]
    assert (miniature / "out" / "instances_vg3k_train.json").read_text() == "old"


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("objects", [3], ["record 3", "list of objects"]),
        ("objects", [{"objects": []}], ["image_id"]),
        ("objects", [{"image_id": "1", "objects": []}], ["image_id"]),
        ("objects", [{"image_id": 1, "objects": None}], ["list of objects"]),
        ("objects", [{"image_id": 1, "objects": [7]}], ["image 1", "object 7"]),
        ("objects", [], ["no object", "synset"]),
        ("objects", {"1": []}, ["a list"]),
        ("image_data", [], ["holds no image"]),
        ("image_data", [7], ["record 7"]),
        ("image_data", [{"image_id": 1}], ["'url' is missing"]),
        ("image_data", [image_record(1, width=0)], ["whole numbers"]),
        ("image_data", [image_record(1, coco_id="5")], ["coco_id must be a whole number"]),
        ("image_data", [image_record(1), image_record(1, width=7)], ["two different", "id 1"]),
    ],
)
def test_broken_files(miniature: Path, name: str, content: Any, words: List[str]) -> None:
    (miniature / f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(ValueError) as error:
        prepare(miniature, *options(miniature))
    assert all(word in str(error.value) for word in [f"{name}.json", *words]), error.value


def test_other_bad_arguments(miniature: Path) -> None:
    with pytest.raises(ValueError, match="--num-classes must be at least 1, got 0"):
        prepare(miniature, "--num-classes", 0)
    (miniature / "out").write_text("a file")
    with pytest.raises(OSError, match="out"):
        prepare(miniature, *options(miniature))


def test_a_box_inside_is_left_alone_and_others_are_cut() -> None:
    inside = (0, 0, 10, 5)
    assert clip_box(inside, 10, 5) is inside
    assert clip_box((-1, -2, 30, 40), 10, 5) == (0, 0, 10, 5)
    assert clip_box((9.5, 4, 1, 1), 10, 5) == (9.5, 4, 0.5, 1)
    assert clip_box((10, 0, 1, 1), 10, 5) is None
    assert clip_box((-3, 0, 3, 3), 10, 5) is None
    assert clip_box((0, 7, 3, 3), 10, 5) is None


def test_ranks_and_ties() -> None:
    counts = {"b.n.01": 3, "a.n.01": 3, "c.n.01": 9, "d.n.01": 1}
    ranked = rank_synsets(counts)
    assert ranked == ["c.n.01", "a.n.01", "b.n.01", "d.n.01"]
    assert ties_at(ranked, counts, 2) == {"kept": ["a.n.01"], "left_out": ["b.n.01"]}
    for size in (1, 3, 4):
        assert ties_at(ranked, counts, size) == {"kept": [], "left_out": []}
    assert rank_synsets(counts, ["d.n.01", "e.n.01", "b.n.01"]) == ["b.n.01", "d.n.01", "e.n.01"]
    # As frequent as each other: the alphabet decides which of them is COCO's cup.
    assert joint_classes(rank_synsets({"cup.n.02": 1, "cup.n.01": 1}))[41].synset == "cup.n.01"


def reference(folder: Path, num_classes: int, val_ids: Set[int]) -> Dict[str, List[Any]]:
    """The annotations by a plain reading of the rules, all in memory, no COCO class occurring."""
    images = {x["image_id"]: x for x in json.loads((folder / "image_data.json").read_text())}
    records = json.loads((folder / "objects.json").read_text())
    counts = Counter(s for r in records for o in r["objects"] for s in o["synsets"])
    most = sorted(sorted(counts), key=lambda s: counts[s], reverse=True)[:num_classes]
    category = {s: 81 + i for i, s in enumerate(sorted(most))}
    outside = [i for i, x in images.items() if x["coco_id"] is None]
    result: Dict[str, List[Any]] = {split: [] for split in SPLITS}
    for r in records:
        x = images[r["image_id"]]
        split = "test" if x["image_id"] in outside[-20:] else "train"
        split = "val" if x["coco_id"] in val_ids else split
        for o in r["objects"]:
            if len(o["synsets"]) == 1 and o["synsets"][0] in category:
                x0, x1 = (min(max(v, 0), 800) for v in (o["x"], o["x"] + o["w"]))
                y0, y1 = (min(max(v, 0), 600) for v in (o["y"], o["y"] + o["h"]))
                if (x1 - x0) * (y1 - y0) > 0:
                    box = [x0, y0, x1 - x0, y1 - y0]
                    key = (o["object_id"], x["image_id"], category[o["synsets"][0]])
                    result[split].append([*key, box])
    return result


def test_made_up_files_against_a_plain_reference(tmp_path: Path) -> None:
    write_vg_like_files(tmp_path, 150, num_synsets=300, seed=3)
    val_ids = set(range(1, 150, 4))
    (tmp_path / "ids.txt").write_text("\n".join(map(str, val_ids)))
    arguments = ("--coco-annotations", tmp_path / "ids.txt", "--num-test", 20)
    out = prepare(tmp_path, *arguments, "--num-classes", 200)
    expected = reference(tmp_path, 200, val_ids)
    for split in SPLITS:
        rows = [
            [a["id"], a["image_id"], a["category_id"], a["bbox"]] for a in out[split]["annotations"]
        ]
        assert rows == expected[split] and len(rows) > 100
        assert all(a["area"] == a["bbox"][2] * a["bbox"][3] for a in out[split]["annotations"])
    assert out["summary"]["boxes"]["clipped"] > 100


def test_registered_data_sets(miniature: Path) -> None:
    annotations = miniature / "visual_genome" / "annotations"
    try:
        register_visual_genome(miniature)
        metadata = MetadataCatalog.get("vg3k_train")
        assert metadata.get("thing_classes") is None  # nothing is there yet, and nothing is read
        assert metadata.json_file == str(annotations / "instances_vg3k_train.json")
        assert metadata.image_root == str(miniature / "visual_genome")
        prepare_visual_genome(
            *(miniature / "image_data.json", miniature / "objects.json", annotations),
            **{"num_classes": NUM_CLASSES, "num_test": 1},
            coco_annotations=miniature / "val_ids.txt",
        )
        dicts = DatasetCatalog.get("vg3k_train")
        assert dicts[1]["file_name"] == str(miniature / "visual_genome/VG_100K_2/2370463.jpg")
        assert [a["category_id"] for a in dicts[1]["annotations"]] == [64, 80]
        assert all("segmentation" not in a for d in dicts for a in d["annotations"])
        for again in (False, True):  # from the file, then from summary.json
            if again:
                register_visual_genome(miniature)
            for name in (
                ("vg3k_train", "vg3k_test", "coco_2017_val_vg3k") if again else ["vg3k_train"]
            ):
                metadata = MetadataCatalog.get(name)
                assert metadata.thing_classes[64] == "mouse.n.04"
                assert metadata.thing_classes[80] == "mouse.n.01"
                assert metadata.display_names[64] == metadata.display_names[80] == "mouse"
                assert metadata.coco_classes == list(range(80))
                assert len(metadata.thing_classes) == len(metadata.display_names) == 82
        assert len(DatasetCatalog.get("vg3k_val")) == 1  # the names agree with those in the file
        (annotations / "summary.json").write_text('{"classes": [{"id": 1}]}')
        with pytest.raises(ValueError, match=r"summary\.json.*prepare-vg"):
            register_visual_genome(miniature)
    finally:
        for name in VISUAL_GENOME_DATA_SETS:
            unregister(name)


def test_benchmark_rows() -> None:
    result = run_prepare_vg_benchmark(60)
    assert [row["name"] for row in result["rows"]] == ["prepare-vg", "json.load"]
    for row in result["rows"]:
        assert row["num_images"] == 60 and row["file_bytes"] > 60 * 35 * 100
        assert row["seconds"] > 0 and row["cpu_seconds"] > 0
        assert row["peak_bytes"] is None or row["peak_bytes"] > 0
    with pytest.raises(ValueError, match="positive"):
        run_prepare_vg_benchmark(0)


def test_made_up_files_have_the_shape_of_the_real_ones(tmp_path: Path) -> None:
    images, objects = (json.loads(p.read_text()) for p in write_vg_like_files(tmp_path, 4))
    assert [x["image_id"] for x in images] == [r["image_id"] for r in objects] == [1, 2, 3, 4]
    assert all(x.keys() == image_record(1).keys() for x in images)
    records = [o for r in objects for o in r["objects"]]
    assert len(records) == 4 * 35 == len({o["object_id"] for o in records})
    assert all(o.keys() == object_record(1, []).keys() for o in records)
    assert {len(o["synsets"]) for o in records} == {0, 1, 2}
