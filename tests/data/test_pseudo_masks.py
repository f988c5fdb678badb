"""Pseudo-masks as files: which objects, finding them again, damage, and what the mapper makes."""

import json
import logging
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
import torch
from conftest import HEIGHT, WIDTH, Annotation, MakeDataset, Untouchable, mapper_of, record_of
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T

from seg_every_thing.data.pseudo_masks import (
    INDEX,
    MASKS,
    PseudoMasks,
    box_only_objects,
    write_pseudo_masks,
)

NAMES = ["cup", "dog", "kite"]


def sized(record: Dict[str, Any]) -> Dict[str, Any]:
    return {**record, "height": HEIGHT, "width": WIDTH}


def written(folder: Path, records: List[Dict[str, Any]], classes: Any = None) -> PseudoMasks:
    """The masks of the i-th object in all: a ramp from left to right, and in its corner i."""
    objects = [box_only_objects(record, classes) for record in records]
    masks = np.tile(np.arange(8, dtype=np.uint8) * 30, (sum(len(x[1]) for x in objects), 8, 1))
    masks[:, 0, 0] = np.arange(len(masks))
    return write_pseudo_masks(folder, records, objects, masks, NAMES, {"teacher": {"sha256": "0"}})


def test_objects_without_a_usable_mask(
    image_file: str, mixed_objects: Dict[str, Annotation]
) -> None:
    kinds = ["polygon", "rle", "uncompressed", "empty", "absent", "crowd"]
    objects = [{**mixed_objects[kind], "category_id": i} for i, kind in enumerate(kinds)]
    record = sized(record_of(image_file, objects))
    found = box_only_objects(record, None)
    assert found.classes.tolist() == [3, 4]
    assert found.boxes.tolist() == [[4, 44, 24, 70], [34, 44, 56, 70]]
    for i in (0, 1, 2):  # masks outside set A are not even looked at
        record["annotations"][i]["segmentation"] = Untouchable()
    assert box_only_objects(record, {3, 4}).classes.tolist() == [0, 1, 2, 3, 4]


def test_boxes_are_clipped_and_those_without_area_left_out(image_file: str) -> None:
    boxes = [[-5, 70, 20, 30], [10, 10, 0, 5], [WIDTH + 3, 1, 4, 4]]
    record = sized(record_of(image_file, [{"bbox": b, "category_id": 1} for b in boxes]))
    assert box_only_objects(record, None).boxes.tolist() == [[0, 70, 15, HEIGHT]]
    assert box_only_objects(sized({"file_name": "x"}), None).boxes.shape == (0, 4)


def test_a_broken_mask_of_set_a_is_named(image_file: str) -> None:
    broken = {"bbox": [1, 2, 3, 4], "category_id": 0, "segmentation": [[0, 0, "x"] * 2]}
    record = sized(record_of(image_file, [broken]))
    with pytest.raises(ValueError, match=f"{image_file}, object with box .1, 2, 3, 4.: "):
        box_only_objects(record, None)


def test_masks_are_found_again(tmp_path: Path, make_dataset: MakeDataset) -> None:
    box = [4, 6, 20, 24]
    first = [
        {"bbox": box, "category_id": 1},
        {"bbox": box, "category_id": 3},
        {"bbox": [40.123456, 7, 20, 24], "category_id": 1},
    ]
    records = DatasetCatalog.get(make_dataset([first, [{"bbox": box, "category_id": 1}]]))
    masks = written(tmp_path / "taught", records)
    assert len(masks) == 4 and masks.side == 8 and masks.is_intact()
    again = PseudoMasks(tmp_path / "taught", NAMES)
    found = [again.of(r, a)[0, 0] for r in records for a in r["annotations"]]
    assert found == [0, 1, 2, 3]
    # Wherever the folder of the data set lies; but not for another image, class or box.
    record, annotation = records[0], records[0]["annotations"][0]
    moved = "/elsewhere/" + "/".join(Path(record["file_name"]).parts[-2:])
    assert again.of({**record, "file_name": moved}, annotation)[0, 0] == 0
    assert again.of({**record, "image_id": 9}, annotation) is None
    assert again.of(record, {**annotation, "category_id": 2}) is None
    assert again.of(record, {**annotation, "bbox": [4, 6, 20, 24.1]}) is None


def test_cover_is_counted(
    tmp_path: Path, make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    box_only = [{"bbox": [i, 6, 20, 24], "category_id": 1} for i in range(3)]
    records = DatasetCatalog.get(make_dataset([box_only]))
    masks = written(tmp_path, [{**records[0], "annotations": records[0]["annotations"][:2]}])
    caplog.set_level(logging.INFO)
    masks.log_cover(records, None)
    assert "2 of 3 objects without a mask have one" in caplog.text
    with pytest.raises(ValueError, match="were made for other annotations"):
        masks.log_cover([{**records[0], "image_id": 8}], None)


def test_damage_is_named(tmp_path: Path, make_dataset: MakeDataset) -> None:
    records = DatasetCatalog.get(make_dataset([[{"bbox": [4, 6, 20, 24], "category_id": 1}]]))
    folder = tmp_path / "taught"
    with pytest.raises(ValueError, match="cannot read .*taught/index.json"):
        PseudoMasks(folder)
    written(folder, records)
    with pytest.raises(ValueError, match=r"are of other classes \(cup, dog, kite"):
        PseudoMasks(folder, ["dog", "cup", "kite"])
    np.save(folder / MASKS, np.ones((1, 8, 8), np.uint8))
    assert not PseudoMasks(folder).is_intact()
    np.save(folder / MASKS, np.ones((2, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="damaged: 'index.json' lists 1 objects, 'masks.npy' has"):
        PseudoMasks(folder)
    (folder / MASKS).write_bytes(b"x")
    with pytest.raises(ValueError, match="taught' are damaged"):
        PseudoMasks(folder)
    written(folder, records)
    index = json.loads((folder / INDEX).read_text())
    del index["images"]
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="taught' are damaged"):
        PseudoMasks(folder)


def test_mapper_gives_them_to_objects_without_a_mask(
    tmp_path: Path, mixed_record: Dict[str, Any], mixed_objects: Dict[str, Annotation]
) -> None:
    record = sized(mixed_record)
    masks = written(tmp_path, [record])  # of the kinds empty and absent, after three with a mask
    sample = mapper_of(pseudo_masks=masks)(record)["instances"]
    assert sample.gt_has_mask.tolist() == [True, True, True, False, False]
    assert sample.gt_has_pseudo.tolist() == [False, False, False, True, True]
    assert sample.gt_pseudo_masks.shape == (5, 8, 8)
    assert sample.gt_pseudo_masks.dtype == torch.uint8
    assert sample.gt_pseudo_masks[:, 0, 0].tolist() == [0, 0, 0, 0, 1]
    assert sample.gt_pseudo_masks[4, 1].tolist() == [30 * i for i in range(8)]
    assert not sample.gt_pseudo_masks[:3].any()

    flipped = mapper_of([T.RandomFlip(1.0)], pseudo_masks=masks)(record)["instances"]
    assert torch.equal(flipped.gt_pseudo_masks, sample.gt_pseudo_masks.flip(2))
    resized = mapper_of([T.Resize((160, 100))], pseudo_masks=masks)(record)["instances"]
    assert torch.equal(resized.gt_pseudo_masks, sample.gt_pseudo_masks)


def test_mapper_crops_them_with_their_boxes(tmp_path: Path, mixed_record: Dict[str, Any]) -> None:
    record = sized(mixed_record)
    masks = written(tmp_path, [record])
    crop = T.CropTransform(45, 40, 51, 40)  # the right half of "absent" (34 to 56)
    sample = mapper_of([crop], pseudo_masks=masks, recompute_boxes=True)(record)["instances"]
    assert sample.gt_boxes.tensor.tolist() == [[0, 4, 11, 30]]  # objects without a pixel are gone
    expected = (torch.arange(4, 8) * 30).repeat_interleave(2).tolist()
    assert sample.gt_pseudo_masks[0, 1].tolist() == expected


def test_mapper_refuses_what_turns_boxes(tmp_path: Path, mixed_record: Dict[str, Any]) -> None:
    record = sized(mixed_record)
    masks = written(tmp_path, [record])
    rotated = mapper_of([T.RandomRotation([90, 90])], pseudo_masks=masks)
    with pytest.raises(ValueError, match=r"1.png, object with box .*was turned or bent"):
        rotated(record)


def test_an_image_without_objects(tmp_path: Path, mixed_record: Dict[str, Any]) -> None:
    masks = written(tmp_path, [sized(mixed_record)])
    empty = sized({**mixed_record, "annotations": []})
    assert len(mapper_of(pseudo_masks=masks)(empty)["instances"]) == 0
