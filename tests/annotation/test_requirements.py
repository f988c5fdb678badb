"""The twelve requirements of a tool that gives boxes masks, each with tests of its name."""

import json
import logging
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pycocotools.mask as mask_util
import pytest
from annotating import (
    HEIGHT,
    WIDTH,
    annotated,
    ellipse,
    masks_are_ellipses,
    nothing_is_found,
    options_for,
    report_of,
    rle_of,
    write_data,
)
from conftest import bitmaps, unregister
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.datasets import register_coco_instances
from PIL import Image
from pycocotools.coco import COCO

from seg_every_thing.annotation.annotator import annotate_file, dry_run
from seg_every_thing.annotation.encoding import CutMask
from seg_every_thing.annotation.index import Index
from seg_every_thing.annotation.making import Masker, Work
from seg_every_thing.annotation.masker import MadeMask

BOX = [10.0, 8.0, 24.0, 18.0]
MASK = rle_of(ellipse(BOX))
POLYGON = [[10.0, 8.0, 34.0, 8.0, 34.0, 26.0, 10.0, 26.0]]


def made_for(annotation: Dict[str, Any], folder: Path, **options: Any) -> Dict[str, Any]:
    """What a run makes of the only object of a data set."""
    make_masker = options.pop("make_masker", masks_are_ellipses)
    (found,) = annotated(write_data(folder, [[annotation]]), make_masker, **options)["annotations"]
    return found


def decoded(segmentation: Any) -> np.ndarray:
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, HEIGHT, WIDTH))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, HEIGHT, WIDTH)
    return mask_util.decode(segmentation).astype(bool)


# --- 1: ids, order, unknown keys ----------------------------------------------------------------


def test_requirement_01_everything_but_the_masks_is_as_it_was(tmp_path: Path) -> None:
    extra = {"info": {"by": "me", "x": 1.50}, "licenses": [], "mine": {"é": [1, None, 2.5e-7]}}
    odd = {"bbox": [5, 5, 9, 9], "note": "Ü ' \" \u2028", "nested": {"a": [1.0, {}]}, "id": 7}
    path = write_data(
        tmp_path / "d",
        [[odd, {"bbox": BOX}], [], [{"bbox": BOX, "segmentation": MASK, "id": 3, "area": 5}]],
        extra,
    )
    before, after = json.loads(path.read_text()), annotated(path)
    assert list(after) == list(before)
    for key in ("licenses", "mine", "images", "categories"):
        assert json.dumps(after[key]) == json.dumps(before[key])
    assert {k: v for k, v in after["info"].items() if k != "seg_every_thing"} == before["info"]
    made = ("segmentation", "area", "iscrowd", "score", "attributes")
    for old, new in zip(before["annotations"], after["annotations"]):
        kept = {k: v for k, v in new.items() if k in old or k not in made}
        assert json.dumps(kept) == json.dumps(old)
    assert [a["id"] for a in after["annotations"]] == [7, 20, 3]


def test_requirement_01_ids_that_repeat_fail_at_the_start(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX, "id": 4}, {"bbox": BOX, "id": 4}]])
    with pytest.raises(ValueError, match=r"boxes\.json.*annotation 4 .*its id belongs to another"):
        annotated(path)
    assert not (tmp_path / "d" / "out.json").exists()


def test_requirement_01_an_object_without_an_id_fails_at_the_start(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}, {"bbox": BOX, "id": None}]])
    with pytest.raises(ValueError, match="annotation number 2 has no id: give it one"):
        annotated(path)


def test_requirement_01_ids_may_be_text(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX, "id": "a"}, {"bbox": BOX, "id": "b"}]])
    assert [a["id"] for a in annotated(path)["annotations"]] == ["a", "b"]


# --- 2: crowds ----------------------------------------------------------------------------------


def test_requirement_02_rle_is_no_crowd_and_crowds_stay(tmp_path: Path) -> None:
    crowd = {"bbox": BOX, "iscrowd": 1, "segmentation": rle_of(ellipse(BOX), False), "area": 9.5}
    boxed_crowd = {"bbox": BOX, "iscrowd": 1}
    given = {"bbox": BOX, "iscrowd": 0}
    path = write_data(tmp_path / "d", [[{"bbox": BOX}, given, crowd, boxed_crowd]])
    before = json.loads(path.read_text())["annotations"]
    after = annotated(path, overwrite=True)["annotations"]
    assert [a["iscrowd"] for a in after] == [0, 0, 1, 1]
    assert after[2:] == before[2:]


def test_requirement_02_crowds_of_cvat_are_masks_on_request(tmp_path: Path) -> None:
    crowd = {"bbox": BOX, "iscrowd": 1, "segmentation": rle_of(ellipse(BOX), False)}
    path = write_data(tmp_path / "d", [[crowd, {"bbox": BOX, "iscrowd": 1, "segmentation": []}]])
    after = annotated(path, crowd_rle_is_mask=True)["annotations"]
    assert after[0] == {**json.loads(path.read_text())["annotations"][0], "iscrowd": 0}
    assert after[1]["iscrowd"] == 1
    assert report_of(path)["input"]["crowds_as_masks"] == 1


# --- 3: formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["rle", "rle-uncompressed", "polygon"])
def test_requirement_03_formats(form: str, tmp_path: Path) -> None:
    found = made_for({"bbox": BOX}, tmp_path / "d", format=form)["segmentation"]
    if form == "polygon":
        assert all(isinstance(p, list) and len(p) % 2 == 0 and len(p) >= 6 for p in found)
        overlap = decoded(found) & ellipse(BOX), decoded(found) | ellipse(BOX)
        assert overlap[0].sum() / overlap[1].sum() >= 0.95
        return
    assert found["size"] == [HEIGHT, WIDTH]
    assert isinstance(found["counts"], str if form == "rle" else list)
    np.testing.assert_array_equal(decoded(found), ellipse(BOX))


@pytest.mark.parametrize("form", ["rle", "rle-uncompressed", "polygon"])
def test_requirement_03_detectron2_trains_on_each_format(form: str, tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}]])
    annotated(path, format=form)
    images = str(path.parent / "images")
    register_coco_instances("annotated", {}, str(path.parent / "out.json"), images)
    try:
        (record,) = DatasetCatalog.get("annotated")
    finally:
        unregister("annotated")
    mapper = DatasetMapper(
        True,
        augmentations=[],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="polygon" if form == "polygon" else "bitmask",
    )
    instances = mapper(record)["instances"]
    found = bitmaps(instances)[0].numpy()
    assert instances.gt_boxes.tensor.tolist() == [[10, 8, 34, 26]]
    overlap = found & ellipse(BOX), found | ellipse(BOX)
    assert overlap[0].sum() / overlap[1].sum() >= (0.95 if form == "polygon" else 1)


# --- 4: parts and holes -------------------------------------------------------------------------


def five_rings(work: Work, index: Index) -> Masker:
    """Five parts of different sizes, the largest with a hole."""
    pixels = np.zeros((18, 24), bool)
    pixels[:9, :9] = True
    pixels[3:6, 3:6] = False
    for x, y, side in ((12, 0, 5), (12, 8, 4), (0, 12, 3), (20, 14, 2)):
        pixels[y : y + side, x : x + side] = True

    def make(image: np.ndarray, boxes: np.ndarray, categories: Any) -> List[MadeMask]:
        (mask,) = masks_are_ellipses(work, index)(image, boxes, categories)
        return [MadeMask(CutMask(pixels, 10, 8), mask.features)]

    return make


@pytest.mark.parametrize(
    ("parts", "area"), [("all", 72 + 25 + 16 + 9 + 4), ("largest", 72), ("external", 81 + 54)]
)
def test_requirement_04_parts_and_holes(parts: str, area: int, tmp_path: Path) -> None:
    found = made_for({"bbox": BOX}, tmp_path / "d", parts=parts, make_masker=five_rings)
    assert found["area"] == decoded(found["segmentation"]).sum() == area
    assert decoded(found["segmentation"])[12, 14] == (parts == "external")


def test_requirement_04_polygons_say_what_is_lost(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}]])
    (found,) = annotated(path, five_rings, format="polygon")["annotations"]
    assert len(found["segmentation"]) == 5
    report = report_of(path)["masks"]["polygons"]
    assert report["mean_IoU_with_mask"] == pytest.approx(126 / 135, abs=1e-4)
    assert report["changed"] == 1
    assert "holes" in report["lost"]


# --- 5: area and box ----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["rle", "polygon"])
@pytest.mark.parametrize("box", [BOX, [9.6, 8.4, 24.3, 17.7], [-5.0, 20.5, 30.0, 60.0]])
def test_requirement_05_area_box_and_a_mask_inside_it(
    box: List[float], form: str, tmp_path: Path
) -> None:
    found = made_for({"bbox": box, "area": 1.0}, tmp_path / "d", format=form)
    mask = decoded(found["segmentation"])
    assert found["area"] == mask.sum() > 0
    assert found["bbox"] == box
    x0, y0, x1, y1 = (int(round(v)) for v in (box[0], box[1], box[0] + box[2], box[1] + box[3]))
    mask[max(y0, 0) : y1, max(x0, 0) : x1] = False  # what FiftyOne keeps of it
    assert not mask.any()


def test_requirement_05_boxes_are_tightened_on_request(tmp_path: Path) -> None:
    found = made_for({"bbox": BOX}, tmp_path / "d", tighten_boxes=True, make_masker=five_rings)
    assert found["bbox"] == [10, 8, 22, 16]
    assert found["bbox"] == mask_util.toBbox(found["segmentation"]).tolist()


# --- 6: categories ------------------------------------------------------------------------------


def test_requirement_06_category_ids_pass_through_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX, "category_id": 0}]])
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 74673216, "name": "huge"}, {"id": 0, "name": "none"}]
    path.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        after = annotated(path)
    assert after["annotations"][0]["category_id"] == 0
    assert after["categories"] == content["categories"]
    assert [w.split(";")[0] for w in report_of(path)["warnings"]] == [
        "the category id 0 ('none') is below 1: CVAT refuses it",
        "the category id 74673216 is huge: FiftyOne makes a list as long",
    ]
    assert "the category id 0" in caplog.text


def test_requirement_06_category_ids_are_renumbered_on_request(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX, "category_id": 7}, {"bbox": BOX}]])
    after = annotated(path, reindex_categories=True)
    assert [(c["id"], c["name"]) for c in after["categories"]] == [(1, "cup"), (2, "dog")]
    assert [a["category_id"] for a in after["annotations"]] == [2, 1]


# --- 7: masks that are there, and where the others come from ------------------------------------


def test_requirement_07_masks_are_kept_and_provenance_is_written(tmp_path: Path) -> None:
    given = {"bbox": BOX, "segmentation": POLYGON, "area": 432.0, "iscrowd": 0}
    path = write_data(tmp_path / "d", [[given, {"bbox": BOX}]])
    after = annotated(path)
    kept, made = after["annotations"]
    assert kept == json.loads(path.read_text())["annotations"][0]
    assert made["attributes"]["source"] == "seg_every_thing"
    about = after["info"]["seg_every_thing"]
    assert about["version"]
    assert len(about["model"]["sha256"]) == len(about["source"]["sha256"]) == 64


def test_requirement_07_masks_are_replaced_on_request(tmp_path: Path) -> None:
    found = made_for({"bbox": BOX, "segmentation": POLYGON}, tmp_path / "d", overwrite=True)
    np.testing.assert_array_equal(decoded(found["segmentation"]), ellipse(BOX))


def test_requirement_07_attributes_of_the_user_stay(tmp_path: Path) -> None:
    attributes = {"source": "drone 7", "occluded": True}
    found = made_for({"bbox": BOX, "attributes": attributes, "score": 0.25}, tmp_path / "d")
    score = found["attributes"].pop("score")
    assert found["attributes"] == {**attributes, "mask_source": "seg_every_thing"}
    assert found["score"] == 0.25
    assert 0.5 < score < 1


# --- 8: scores ----------------------------------------------------------------------------------


def test_requirement_08_a_score_for_each_mask_as_filter(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}]])
    (found,) = annotated(path)["annotations"]
    assert found["score"] == found["attributes"]["score"]
    assert 0 < found["score"] < 1
    report = report_of(path)
    assert not report["quality"]["measured"]
    assert report["made_by"]["score"] == "certainty, not calibrated"
    (left,) = annotated(path, min_score=found["score"] + 1e-3)["annotations"]
    assert left == json.loads(path.read_text())["annotations"][0]
    assert report_of(path)["masks"]["below_min_score"] == 1


def test_requirement_08_scores_are_calibrated_on_masks_that_are_held_out(tmp_path: Path) -> None:
    # Every true mask is the left half of the ellipse, so every IoU is about a half.
    half = ellipse(BOX) & (np.mgrid[:HEIGHT, :WIDTH][1] < 22)
    iou = half.sum() / ellipse(BOX).sum()
    given = {"bbox": BOX, "segmentation": rle_of(half)}
    path = write_data(tmp_path / "d", [[given] * 5] * 14 + [[{"bbox": BOX}]])
    after = annotated(path, holdout=0.5)
    quality = report_of(path)["quality"]
    assert quality["calibrated"]
    assert quality["held_out_masks"] == 35
    assert quality["held_out_mean_IoU"] == pytest.approx(100 * iou, abs=0.05)
    assert quality["expected_mean_IoU"] == pytest.approx(100 * iou, abs=0.05)
    assert quality["by_class"]["cup"]["held_out"] == 35
    assert after["annotations"][-1]["score"] == pytest.approx(iou, abs=1e-3)
    assert after["info"]["seg_every_thing"]["score"] == "expected IoU"
    assert (path.parent / "out_report.png").read_bytes()[:4] == b"\x89PNG"


# --- 9: streams, resuming ------------------------------------------------------------------------
# See test_resuming.py for killed processes, and test_memory.py for memory.


def test_requirement_09_a_second_run_changes_nothing(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}], [{"bbox": [1, 2, 30, 20]}]])
    annotated(path)
    files = [path.parent / name for name in ("out.json", "out_report.json")]
    before = [(f.read_bytes(), f.stat().st_mtime_ns) for f in files]

    def fail(*_: Any) -> Any:
        raise AssertionError("a model was asked for")

    annotated(path, fail)
    assert [(f.read_bytes(), f.stat().st_mtime_ns) for f in files] == before
    assert not (path.parent / "out.json.part").exists()


def test_requirement_09_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}], [{"bbox": [1, 2, 30, 20]}]])
    annotated(path)
    annotated(path, output=path.parent / "again.json")
    assert (path.parent / "out.json").read_bytes() == (path.parent / "again.json").read_bytes()


def test_requirement_09_the_input_is_never_written_to(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}]])
    before = path.read_bytes()
    link = path.parent / "link.json"
    link.symlink_to(path)
    for output in (path, link):
        with pytest.raises(ValueError, match="would be written over"):
            annotated(path, output=output)
    assert path.read_bytes() == before


def test_requirement_09_files_of_others_are_not_written_over(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}]])
    (path.parent / "out.json").write_text("{}")
    with pytest.raises(ValueError, match="exists, and was not written by annotate"):
        annotated(path)
    assert (path.parent / "out.json").read_text() == "{}"


# --- 10: sizes of RLE and orientation -----------------------------------------------------------


def save_turned(path: Path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def test_requirement_10_exif_orientation_is_applied(tmp_path: Path) -> None:
    """The annotation is of the turned image; the model sees it turned."""
    seen = []

    def looks(work: Work, index: Index) -> Masker:
        def make(image: np.ndarray, boxes: np.ndarray, categories: Any) -> List[MadeMask]:
            seen.append(image)
            return masks_are_ellipses(work, index)(image, boxes, categories)

        return make

    path = write_data(tmp_path / "d", [[{"bbox": BOX}]])
    upright = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    upright[:10, :20] = 255
    save_turned(path.parent / "images" / "1.png", np.rot90(upright).copy(), 6)
    (found,) = annotated(path, looks)["annotations"]
    assert found["segmentation"]["size"] == [HEIGHT, WIDTH]
    np.testing.assert_array_equal(seen[0], upright)


def test_requirement_10_annotations_of_the_image_before_it_was_turned(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}], [{"bbox": BOX}]])
    save_turned(path.parent / "images" / "1.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8), 6)
    annotated(path)
    (reason,) = report_of(path)["failed_images"].values()
    assert "EXIF orientation (6) turns it" in reason


# --- 11: empty masks, broken images -------------------------------------------------------------


@pytest.mark.parametrize("policy", ["box", "empty", "drop"])
def test_requirement_11_nothing_found(policy: str, tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}, {"bbox": BOX, "segmentation": POLYGON}]])
    after = annotated(path, nothing_is_found, on_empty=policy)["annotations"]
    masks = report_of(path)["masks"]
    assert masks["nothing_found"] == 1
    assert after[-1]["segmentation"] == POLYGON
    if policy == "box":
        assert decoded(after[0]["segmentation"]).sum() == after[0]["area"] == 24 * 18
        assert after[0]["score"] == 0
    elif policy == "empty":
        assert after[0]["segmentation"] == []
        assert masks["left_empty"] == 1
    else:
        assert len(after) == 1
        assert masks["dropped_as_empty"] == 1


@pytest.mark.parametrize("objects", [[{"bbox": BOX}], []])
def test_requirement_11_no_object_is_left(objects: Any, tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [objects])
    after = annotated(path, nothing_is_found, on_empty="drop")
    assert after["annotations"] == [] and len(after["images"]) == 1
    assert COCO(str(path.with_name("out.json"))).getAnnIds() == []


def test_requirement_11_broken_images_are_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}] for _ in range(4)])
    images = path.parent / "images"
    (images / "1.png").unlink()
    (images / "2.png").write_bytes((images / "2.png").read_bytes()[:200])
    (images / "3.png").write_bytes(b"")
    after = annotated(path)["annotations"]
    assert ["segmentation" in a for a in after] == [False, False, False, True]
    failed = report_of(path)["failed_images"]
    assert list(failed) == ["1.png", "2.png", "3.png"]
    assert "does not exist" in failed["1.png"]


def test_requirement_11_no_image_at_all_is_an_error(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}], [{"bbox": BOX}]])
    for image in (path.parent / "images").iterdir():
        image.unlink()
    with pytest.raises(ValueError, match=r"no image can be used: .*1\.png' does not exist.*1 more"):
        annotated(path)
    assert not (path.parent / "out.json").exists()


@pytest.mark.parametrize(
    "box",
    [
        [10, 10, 1, 1],
        [10.2, 10.3, 0.4, 0.4],
        [0, 0, WIDTH, HEIGHT],
        [-9, -9, 99, 99],
        [60, 40, 9, 9],
    ],
)
def test_requirement_11_boxes_of_any_size(box: List[float], tmp_path: Path) -> None:
    found = made_for({"bbox": box}, tmp_path / "d", make_masker=nothing_is_found)
    assert found["bbox"] == box
    assert decoded(found["segmentation"]).sum() == found["area"] > 0


@pytest.mark.parametrize("box", [[10, 10, 0, 5], [200, 10, 5, 5]])
def test_requirement_11_boxes_that_hold_no_pixel_stay_boxes(
    box: List[float], tmp_path: Path
) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": box}, {"bbox": BOX}]])
    after = annotated(path)["annotations"]
    assert after[0] == json.loads(path.read_text())["annotations"][0]
    assert after[1]["segmentation"]
    assert report_of(path)["input"]["unusable"] == 1


def test_requirement_11_unusable_annotations_stay_on_request(tmp_path: Path) -> None:
    bad = [{"bbox": "wide"}, {"bbox": BOX, "category_id": 99}, {"bbox": BOX, "image_id": "99"}]
    path = write_data(tmp_path / "d", [[*bad, {"bbox": BOX, "segmentation": 5}, {"bbox": BOX}]])
    with pytest.raises(
        ValueError, match=r"'wide'.* a segmentation must be .* got 5.*DATASETS.ON_BAD_ANN"
    ):
        annotated(path)
    options = options_for(path)
    opts = (*options.opts, "DATASETS.ON_BAD_ANNOTATION", "set_aside")
    after = annotated(path, opts=opts)["annotations"]
    assert after[:3] == json.loads(path.read_text())["annotations"][:3]
    assert all(a["segmentation"]["size"] == [HEIGHT, WIDTH] for a in after[3:])
    rows = report_of(path)["input"]["annotations_in_detail"]
    assert sum(row["objects"] for row in rows) == 5
    assert any("wide" in str(row["first"]) for row in rows)


@pytest.mark.parametrize("mode", ["L", "I;16", "CMYK", "RGBA", "P", "LA", "1"])
def test_requirement_11_images_of_any_mode(mode: str, tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}]])
    file = path.parent / "images" / "1.png"
    grey = np.linspace(0, 255, HEIGHT * WIDTH).astype(np.uint8).reshape(HEIGHT, WIDTH)
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 256).save(file)
    else:
        Image.fromarray(grey).convert(mode).save(file, "TIFF" if mode == "CMYK" else "PNG")
    (found,) = annotated(path)["annotations"]
    np.testing.assert_array_equal(decoded(found["segmentation"]), ellipse(BOX))
    assert not report_of(path)["failed_images"]


# --- 12: the report -----------------------------------------------------------------------------


def test_requirement_12_report(tmp_path: Path) -> None:
    objects = [[{"bbox": BOX}, {"bbox": BOX, "category_id": 7}], [{"bbox": [1, 1, 8, 8]}]]
    path = write_data(tmp_path / "d", objects)
    annotated(path)
    report = report_of(path)
    assert report["input"]["wanted"] == report["masks"]["made"] == 3
    assert report["validation"] == {"masks": 3, "faults": 0, "first": []}
    assert {x["id"] for x in report["masks"]["lowest_scores"]} == {10, 20, 30}
    assert sum(report["masks"]["scores"]["objects"]) == 3
    assert len(COCO(str(path.parent / "out.json")).anns) == 3


def test_requirement_12_masks_that_hardly_fill_their_box_are_listed(tmp_path: Path) -> None:
    def thin(work: Work, index: Index) -> Masker:
        def make(image: np.ndarray, boxes: np.ndarray, categories: Any) -> List[MadeMask]:
            (mask,) = masks_are_ellipses(work, index)(image, boxes, categories)
            mask.mask.pixels[1:] = False
            return [mask]

        return make

    path = write_data(tmp_path / "d", [[{"bbox": BOX}]])
    annotated(path, thin)
    (listed,) = report_of(path)["masks"]["masks_below_15_percent_of_their_box"]
    assert listed["id"] == 10


def test_requirement_12_a_page_to_review_the_masks(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}], [{"bbox": [1, 1, 1, 1]}]])
    page = path.parent / "page"
    annotated(path, report=page)
    assert (page / "index.html").is_file()
    annotated(path, report=page, format="polygon")
    mine = path.parent / "mine" / "index.html"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(ValueError, match="mine"):
        annotated(path, output=path.parent / "more.json", report=mine.parent)
    assert mine.read_text() == "mine"
    assert not (path.parent / "more.json").exists()


def test_requirement_12_a_page_that_is_asked_for_too_late(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}]])
    before = annotated(path)
    page, out = path.parent / "page", path.parent / "out.json"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"out\.json' is complete, and .*page' has no page of"):
            annotated(path, report=page)
        annotated(path, report=page, output=path.parent / "other.json", min_score=0.1)
    out.unlink()
    assert annotated(path, report=page) == before
    files = {f: f.stat().st_mtime_ns for f in page.rglob("*")}
    assert annotated(path, report=page) == before
    assert {f: f.stat().st_mtime_ns for f in page.rglob("*")} == files


def test_requirement_12_a_dry_run_says_what_would_be_done(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d", [[{"bbox": BOX}], [{"bbox": BOX, "segmentation": MASK}]])
    (path.parent / "images" / "1.png").unlink()
    before = sorted(path.parent.rglob("*"))
    found = dry_run(options_for(path))
    assert found["counts"]["wanted"] == found["counts"]["with_masks"] == 1
    assert list(found["failed_images"]) == ["1.png"]
    assert sorted(path.parent.rglob("*")) == sorted({*before, path.parent / "weights.pth"})


def test_names_may_be_anything(tmp_path: Path) -> None:
    path = write_data(tmp_path / "d%?# ü", [[{"bbox": BOX}]])
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = "<script>alert('x')</script>"
    path.write_text(json.dumps(content))
    assert annotated(path)["categories"] == content["categories"]
    assert annotate_file(options_for(path), masks_are_ellipses)["masks"]["made"] == 1
