"""Whoever loads a data set gets it checked: once for each file, and the same for all."""

import json
import logging
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List
from unittest import mock

import numpy as np
import pytest
from annotation_files import (
    BOXES,
    Content,
    Files,
    config_of,
    edited_files,
    good_content,
    polygon,
    rows_of,
    write_content,
)
from conftest import unregister
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from pycocotools.coco import COCO

from seg_every_thing import PartialCOCOEvaluator
from seg_every_thing.data import catalog
from seg_every_thing.data.catalog import (
    Use,
    check_files,
    class_names_of,
    evaluation_use,
    examine,
    training_use,
)
from seg_every_thing.data.data_report import EVALUATION, TRAINING, DataReport
from seg_every_thing.data.partial import load_training_dicts


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    yield from edited_files(tmp_path)


def all_wrong(content: Content) -> None:
    """A box, a mask, a category and an image that are unusable, one good object; and a crowd."""
    first, second, third, fourth = content["annotations"]
    first["bbox"] = [4, 6, float("nan"), 24]
    second["segmentation"] = [[1, 2, 3, None, 5, 6]]
    third["category_id"] = 99
    content["annotations"].append({**fourth, "id": 5, "iscrowd": "1"})
    content["images"].append({"id": 3, "file_name": "3.png"})
    content["annotations"].append({**fourth, "id": 6, "image_id": 3})


# --- what training and evaluation get -----------------------------------------------------------


def test_training_and_evaluation_are_refused_the_same(files: Files) -> None:
    name = files.edited(all_wrong)
    messages = []
    for load in (
        lambda: load_training_dicts(config_of(name)),
        lambda: PartialCOCOEvaluator(name),
        lambda: examine(name, Use(TRAINING)),
    ):
        with pytest.raises(ValueError) as e:
            load()
        messages.append(str(e.value))
    assert len(set(messages)) == 1
    for words in ("image '3.png': its height", "annotation 1 of", "annotation 2 of", "99 is not"):
        assert words in messages[0]


def test_training_and_evaluation_get_the_same_objects(files: Files) -> None:
    name = files.edited(all_wrong)
    reports: List[DataReport] = []
    dicts = load_training_dicts(config_of(name, ON_BAD_ANNOTATION="set_aside"), reports)
    assert rows_of(reports[0]) == {
        "used": 1,
        "crowd": 1,
        "box-only with an unusable mask": 1,
        "dropped of an unknown category": 1,
        "dropped of an unusable image": 1,
        "dropped that are unusable": 1,
    }
    in_training = [
        (d["image_id"], tuple(a["bbox"]), bool(a.get("segmentation")), bool(a["iscrowd"]))
        for d in dicts
        for a in d["annotations"]
    ]
    truth = PartialCOCOEvaluator(name, on_bad_annotation="set_aside")._coco_api
    in_evaluation = [
        (a["image_id"], tuple(a["bbox"]), bool(a.get("segmentation")), bool(a["iscrowd"]))
        for a in truth.dataset["annotations"]
    ]
    assert in_training == in_evaluation
    assert [d["image_id"] for d in dicts] == truth.getImgIds() == [1, 2]


def test_loading_a_file_in_order_changes_nothing(files: Files) -> None:
    name = files.register(good_content())
    stock = DatasetCatalog.get(name)
    assert load_training_dicts(config_of(name)) == stock
    assert PartialCOCOEvaluator(name)._coco_api.dataset == good_content()


def test_other_code_of_the_process_sees_files_as_they_are(files: Files) -> None:
    name = files.edited(all_wrong)
    with pytest.raises(ValueError):
        load_training_dicts(config_of(name))
    truth = COCO(str(files.folder / f"{name}.json"))
    assert len(truth.dataset["annotations"]) == 6


@pytest.mark.parametrize("on_bad", ["error", "set_aside"])
def test_class_names_do_not_depend_on_annotations(files: Files, on_bad: str) -> None:
    assert class_names_of(files.edited(all_wrong)) == ["cup", "dog", "kite"]


def test_class_names_of_ids_of_two_kinds(files: Files) -> None:
    name = files.edited(lambda content: content["categories"][0].update(id="1"))
    with pytest.raises(ValueError, match="some category ids are numbers and some are text"):
        class_names_of(name)


def test_an_id_of_zero_counts_in_evaluation(files: Files) -> None:
    """pycocotools keeps the id of what a result matches, and takes 0 for no match."""

    def zero(content: Content) -> None:
        content["annotations"] = content["annotations"][:1]
        content["annotations"][0]["id"] = 0

    truth = PartialCOCOEvaluator(files.edited(zero))._coco_api
    assert list(truth.anns) == [1]


def test_masks_of_set_b_may_be_broken(files: Files, tmp_path: Path) -> None:
    """Training does not read them, so it must not stop for them; evaluation needs them."""
    split = tmp_path / "a.txt"
    split.write_text("cup")

    def scrambled(content: Content) -> None:
        content["annotations"][1]["segmentation"] = [[float("nan")] * 6]  # a dog
        content["annotations"][2]["segmentation"] = {"size": [1, 2], "counts": [-5]}  # a kite

    name = files.edited(scrambled)
    dicts = load_training_dicts(config_of(name, MASK_CLASSES=str(split)))
    kept = load_training_dicts(config_of(files.register(good_content()), MASK_CLASSES=str(split)))
    for mine, theirs in zip(dicts, kept):
        for annotation in (*mine["annotations"], *theirs["annotations"]):
            if annotation["category_id"] != 0:
                annotation.pop("segmentation", None)
        assert mine["annotations"] == theirs["annotations"]
    with pytest.raises(ValueError, match="annotation 2 of image"):
        PartialCOCOEvaluator(name)
    # Boxes alone need no masks.
    assert PartialCOCOEvaluator(name, tasks=("bbox",))


def test_what_is_wrong_with_an_unneeded_mask_is_no_concern(files: Files) -> None:
    name = files.edited(lambda c: c["annotations"][0].update(segmentation=[[1, 2, None, 4, 5, 6]]))
    cfg = config_of(name)
    cfg.MODEL.MASK_ON = False
    assert len(load_training_dicts(cfg)) == 2
    assert training_use(cfg).split == evaluation_use(cfg).split == ""


def test_a_value_of_the_key_that_there_is_not(files: Files) -> None:
    cfg = config_of(files.register(good_content()), ON_BAD_ANNOTATION="ignore")
    with pytest.raises(ValueError, match="DATASETS.ON_BAD_ANNOTATION is 'error' or 'set_aside'"):
        load_training_dicts(cfg)


def test_a_split_that_does_not_fit_is_no_fault_of_the_file(files: Files) -> None:
    name = files.register(good_content())
    with pytest.raises(ValueError) as error:
        load_training_dicts(config_of(name, MASK_CLASSES="voc"))
    assert str(error.value).startswith("DATASETS.MASK_CLASSES for '")
    assert f"of the data set '{name}': split 'voc' " in str(error.value)


def test_a_byte_order_mark(files: Files) -> None:
    name = files.register(good_content())
    path = Path(MetadataCatalog.get(name).json_file)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(ValueError, match="broken annotation file .* byte order mark: save it as"):
        load_training_dicts(config_of(name))


def test_missing_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "2.png").symlink_to("nowhere.png")
    records = [
        {"file_name": str(tmp_path / f"{i}.png"), "sem_seg_file_name": "a\n"} for i in (1, 2)
    ]
    records.append({"file_name": "https://example.org/3.png"})
    with pytest.raises(FileNotFoundError) as error:
        check_files(records, "training sets (x)")
    assert "3 of 5 files of the training sets (x) do not exist; the first is 'a\\n'" in str(
        error.value
    )
    check_files(records[2:], "x")


# --- once for each file -------------------------------------------------------------------------


def test_a_file_is_examined_once(files: Files) -> None:
    name = files.register(good_content())
    with mock.patch.object(catalog, "examine_coco", wraps=catalog.examine_coco) as examined:
        for _ in range(3):
            load_training_dicts(config_of(name))
        assert examined.call_count == 1
        for _ in range(2):
            PartialCOCOEvaluator(name)  # for another purpose
        assert examined.call_count == 2
        path = files.folder / f"{name}.json"
        content = good_content()
        content["annotations"].pop()
        write_content(path, content)
        load_training_dicts(config_of(name))
        assert examined.call_count == 3


def test_a_file_in_order_is_not_gone_through_again(files: Files) -> None:
    name = files.register(good_content())
    with mock.patch.object(catalog, "cleaned_coco", wraps=catalog.cleaned_coco) as cleaned:
        load_training_dicts(config_of(name))
        assert not cleaned.called
        load_training_dicts(config_of(files.edited(all_wrong), ON_BAD_ANNOTATION="set_aside"))
        assert cleaned.call_count == 1


def test_the_log_has_a_table_and_names_what_is_left_out(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    name = files.edited(all_wrong)
    with caplog.at_level(logging.INFO, "seg_every_thing"):
        examine(name, Use(TRAINING, on_bad="set_aside"))
    (table,) = [m for m in caplog.messages if m.startswith(f"Annotations of '{name}' for training")]
    assert "6 objects" in table and "| dropped  |         1 | of an unknown category" in table
    assert (
        f"{name}: 1 objects of an unknown category are left out: annotation 3 of image '2.png'"
        in caplog.messages
    )
    assert f"{name}: set aside as unusable: image '3.png': its height" in caplog.text
    assert f"{name}: filled in: iscrowd (1)" in caplog.messages


# --- data sets of other kinds -------------------------------------------------------------------


def test_evaluation_of_a_data_set_made_by_a_function(tmp_path: Path) -> None:
    """detectron2 converts it into a COCO file, and evaluation reads that."""
    from detectron2.structures import BoxMode

    box = {"bbox": list(BOXES[0]), "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    good = {**box, "segmentation": polygon(BOXES[0])}
    bad = {**box, "segmentation": [[float("nan")] * 6]}
    record = {"file_name": "1.png", "image_id": 1, "height": 80, "width": 96}
    names = ["evaluated_function", "another_one"]
    for name in names:
        DatasetCatalog.register(name, lambda: [{**record, "annotations": [good, dict(bad)]}])
        MetadataCatalog.get(name).thing_classes = ["cup"]
    try:
        with pytest.raises(ValueError, match="object 1 of image '1.png'"):
            PartialCOCOEvaluator(names[0], output_dir=str(tmp_path))
        evaluator = PartialCOCOEvaluator(
            names[1], output_dir=str(tmp_path), on_bad_annotation="set_aside"
        )
        found = [bool(a.get("segmentation")) for a in evaluator._coco_api.dataset["annotations"]]
    finally:
        for name in names:
            unregister(name)
    assert found == [True, False]


def test_a_function_that_reads_a_file(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """What is left out of the file on the way is counted, too."""
    from detectron2.data.datasets import load_coco_json

    inner = files.edited(all_wrong)
    path = str(files.folder / f"{inner}.json")
    name = f"{inner}_by_hand"
    DatasetCatalog.register(name, lambda: load_coco_json(path, str(files.folder), name))
    try:
        with pytest.raises(ValueError, match="its height"):
            load_training_dicts(config_of(name))
        reports: List[DataReport] = []
        load_training_dicts(config_of(name, ON_BAD_ANNOTATION="set_aside"), reports)
    finally:
        unregister(name)
    on_the_way, in_the_end = reports
    assert on_the_way.objects == 6 and in_the_end.objects == 3
    assert rows_of(in_the_end) == {"used": 1, "crowd": 1, "box-only without a mask": 1}


def test_lvis_in_cocos_format(tmp_path: Path) -> None:
    root = Path(os.getenv("DETECTRON2_DATASETS", "datasets"))
    path = root / "lvis" / "annotations" / "lvis_v0.5_val_61.json"
    if not path.is_file():
        pytest.skip("needs LVIS annotations below DETECTRON2_DATASETS")
    register_coco_instances("lvis_61", {}, str(path), str(root / "lvis" / "images"))
    try:
        (report,) = examine("lvis_61", Use(EVALUATION))
    finally:
        unregister("lvis_61")
    assert report.objects == len(json.loads(path.read_text())["annotations"])
    assert report.number("used", "") > 0.95 * report.objects and report.altered == 0


def test_real_coco_is_used_as_it_is(coco_root: Path) -> None:
    """Real boxes and masks are in order; those of crowds are not used."""
    for name in ("coco_2017_train", "coco_2017_val"):
        (report,) = examine(name, Use(TRAINING))
        rows: Dict[str, Any] = rows_of(report)
        suspicious = sum(n for row, n in rows.items() if row.startswith("suspicious"))
        assert suspicious <= 0.002 * report.objects and report.altered == 0
        assert rows["used"] + rows["crowd"] + suspicious == report.objects


def test_voc_in_cocos_format(coco_root: Path) -> None:
    path = coco_root / "voc_sample" / "instances_train.json"
    if not path.is_file():
        pytest.skip("needs voc_sample below DETECTRON2_DATASETS")
    register_coco_instances("voc_rle", {}, str(path), str(path.parent))
    try:
        (report,) = examine("voc_rle", Use(TRAINING))
    finally:
        unregister("voc_rle")
    counts: Dict[str, int] = {}
    for annotation in json.loads(path.read_text())["annotations"]:
        kind = "used" if annotation.get("segmentation") else "box-only without a mask"
        kind = "crowd" if annotation["iscrowd"] else kind
        counts[kind] = counts.get(kind, 0) + 1
    found: Dict[str, int] = {}
    for row, number in rows_of(report).items():
        kind = row if row.startswith("box") else row.split()[0].replace("suspicious", "used")
        found[kind] = found.get(kind, 0) + number
    assert found == counts and report.altered == 0
    assert np.all(np.array(list(counts.values())) > 100)
