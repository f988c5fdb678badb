"""COCO files with something wrong: each is refused in one line, or counted in the report."""

from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import numpy as np
import pycocotools.mask as mask_util
import pytest
from annotation_files import BOXES, Content, Files, edited_files, good_content, polygon, rows_of

from seg_every_thing.data.coco_annotations import cleaned_coco
from seg_every_thing.data.data_report import TRAINING, DataReport


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    yield from edited_files(tmp_path)


def first(**changes: Any) -> Callable[[Content], None]:
    """Changes of the first annotation."""
    return lambda content: content["annotations"][0].update(changes)


def all_of(key: str, **changes: Any) -> Callable[[Content], None]:
    return lambda content: [entry.update(changes) for entry in content[key]]


def cleaned(content: Content, on_bad: str = "set_aside") -> Content:
    return cleaned_coco(content, DataReport("x", TRAINING), "all", on_bad)


def test_what_is_in_order_is_used_as_it_is(files: Files) -> None:
    report = files.report(lambda content: None)
    assert rows_of(report) == {"used": 4} and report.altered == 0 and not report.filled_in
    content = good_content()
    result = cleaned(content)
    assert result == content
    assert all(a is b for a, b in zip(result["annotations"], content["annotations"]))


# --- the ids of annotations ---------------------------------------------------------------------


def test_an_id_that_is_given_twice_is_refused(files: Files) -> None:
    def twice(content: Content) -> None:
        content["annotations"][3]["id"] = 1

    message = files.error(twice)
    assert "annotation 1 of image '2.png': its id belongs to another object, too" in message
    report = files.report(twice, on_bad="set_aside")
    assert rows_of(report) == {"used": 3, "dropped with the id of another object": 1}


def test_known_twins_stay(files: Files, tmp_path: Path) -> None:
    """detectron2 lets those of COCO's 2014 minival be, and so do we; evaluation needs ids anew."""
    content = good_content()
    content["annotations"][3]["id"] = 1
    report = DataReport("x", TRAINING, "/data/instances_minival2014.json")
    result = cleaned_coco(content, report, "all", "error")
    assert [a["id"] for a in result["annotations"]] == [1, 2, 3, 4]


@pytest.mark.parametrize("value", [0, -3, None, "a", "1", 1.5, True, [1], {}, 10**30, "gone"])
def test_other_ids_are_given_anew(files: Files, value: Any) -> None:
    """They only tell objects apart; but COCO's evaluation takes one of id 0 for no object."""

    def change(content: Content) -> None:
        content["annotations"][1]["id"] = value
        if value == "gone":
            del content["annotations"][1]["id"]

    report = files.report(change)
    assert rows_of(report) == {"used": 4} and report.filled_in == {"id": 1}
    content = good_content()
    change(content)
    assert [a["id"] for a in cleaned(content)["annotations"]] == [1, 2, 3, 4]


def test_large_ids_stay(files: Files) -> None:
    """As of panoptic tools: 64 bits."""
    content = good_content()
    for annotation in content["annotations"]:
        annotation["id"] += 900100000000
    assert cleaned(content) == content


# --- images -------------------------------------------------------------------------------------


def test_image_ids_of_two_kinds(files: Files) -> None:
    def mix(content: Content) -> None:
        content["images"][0]["id"] = "1"
        for annotation in content["annotations"][:2]:
            annotation["image_id"] = "1"

    for on_bad in ("error", "set_aside"):
        message = files.error(mix, on_bad=on_bad)
        assert "that of '2.png' is the number 2, that of '1.png' the text '1'" in message


@pytest.mark.parametrize("image_ids, words", [("text", "the text '1'"), ("numbers", "the number")])
def test_ids_that_are_text_here_and_numbers_there(files: Files, image_ids: str, words: str) -> None:
    def change(content: Content) -> None:
        if image_ids == "numbers":
            for image in content["images"]:
                image["id"] = str(image["id"])
        else:
            for annotation in content["annotations"]:
                annotation["image_id"] = str(annotation["image_id"])

    message = files.error(change)
    assert f"annotation 1: its image_id is {words}" in message
    assert "ids of the images are " in message
    # With all of them set aside, nothing would be left.
    assert "none of its 4 annotations" in files.error(change, on_bad="set_aside")


def test_text_may_be_an_id(files: Files) -> None:
    def change(content: Content) -> None:
        for key, entries in (("id", content["images"]), ("image_id", content["annotations"])):
            for entry in entries:
                entry[key] = f"image {entry[key]}"

    assert rows_of(files.report(change)) == {"used": 4}


def test_an_image_id_that_is_given_twice(files: Files) -> None:
    def twice(content: Content) -> None:
        content["images"].append({"id": 1, "file_name": "3.png", "width": 96, "height": 80})

    assert "image '3.png': its id 1 is that of '1.png', too" in files.error(twice)
    report = files.report(twice, on_bad="set_aside")
    assert rows_of(report) == {"used": 2, "dropped of an unusable image": 2}


def test_the_same_image_twice_is_one(files: Files) -> None:
    """As where files were joined that share images."""

    def twice(content: Content) -> None:
        content["images"].append(dict(content["images"][0]))

    assert rows_of(files.report(twice)) == {"used": 4}
    content = good_content()
    twice(content)
    assert cleaned(content)["images"] == good_content()["images"]


@pytest.mark.parametrize("key", ["height", "width", "file_name", "id"])
@pytest.mark.parametrize("value", ["gone", None, "", -5, 0, 80.5, [80], float("nan"), 1e30, True])
def test_images_that_lack_something(files: Files, key: str, value: Any) -> None:
    if key == "id" and value in (-5, 0, 80.5, "", 1e30):
        pytest.skip("an id like others")

    def change(content: Content) -> None:
        content["images"][0][key] = value
        if value == "gone":
            del content["images"][0][key]

    message = files.error(change)
    assert message.count("image ") >= 1 and {"id": "it has no id"}.get(key, key) in message
    report = files.report(change, on_bad="set_aside")
    why = "of an image that is not in the file" if key == "id" else "of an unusable image"
    assert rows_of(report) == {"used": 2, f"dropped {why}": 2}
    content = good_content()
    change(content)
    assert cleaned(content)["images"] == good_content()["images"][1:]


def test_images_larger_than_any(files: Files) -> None:
    message = files.error(lambda content: content["images"][0].update(width=10**5, height=10**5))
    assert "'1.png': no picture of 100000 x 100000 pixels (height x width) opens" in message


def test_annotations_of_other_images_are_left_out(files: Files) -> None:
    """As where a file keeps all annotations and some of the images."""
    report = files.report(lambda content: content["images"].pop())
    assert rows_of(report) == {"used": 2, "dropped of an image that is not in the file": 2}


def test_no_annotation_of_any_image(files: Files) -> None:
    def change(content: Content) -> None:
        for image in content["images"]:
            image["id"] += 100

    for on_bad in ("error", "set_aside"):
        message = files.error(change, on_bad=on_bad)
        assert "none of its 4 annotations belongs to one of its 2 images" in message
        assert "the image 2" in message and "first image is 101" in message


@pytest.mark.parametrize("value", [None, [1], {}, True, float("nan")])
def test_image_ids_that_are_none(files: Files, value: Any) -> None:
    assert "annotation 1: its image_id" in files.error(first(image_id=value))
    report = files.report(first(image_id=value), on_bad="set_aside")
    assert rows_of(report) == {"used": 3, "dropped of an image that is not in the file": 1}


# --- categories ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, words",
    [
        (5, "5 is not among the ids of the categories"),
        ("1", "is the text '1', and the ids of the categories are numbers"),
        ("cup", "'cup' is not among"),
        (None, "None is not among"),
        ([1], "[1] is not among"),
        (True, "True is not among"),
        (float("nan"), "nan is not among"),
    ],
)
def test_unknown_categories(files: Files, value: Any, words: str) -> None:
    message = files.error(first(category_id=value))
    assert f"annotation 1 of image '1.png': its category_id {words}" in message
    report = files.report(first(category_id=value), on_bad="set_aside")
    assert rows_of(report) == {"used": 3, "dropped of an unknown category": 1}


def test_a_missing_category(files: Files) -> None:
    assert "its category_id" in files.error(lambda c: c["annotations"][0].pop("category_id"))


def test_a_category_id_that_is_given_twice(files: Files) -> None:
    def twice(content: Content) -> None:
        content["categories"][1]["id"] = 1

    for on_bad in ("error", "set_aside"):
        message = files.error(twice, on_bad=on_bad)
        assert "the category id 1 belongs to 'cup' and to 'dog'" in message


def test_category_ids_of_two_kinds(files: Files) -> None:
    message = files.error(lambda content: content["categories"][0].update(id="1"))
    assert "that of 'dog' is the number 3, that of 'cup' the text '1'" in message


def test_two_categories_of_one_name(files: Files) -> None:
    def same(content: Content) -> None:
        content["categories"][1]["name"] = "cup"

    assert "two categories are called 'cup', their ids are 1 and 3" in files.error(same)
    assert rows_of(files.report(same, on_bad="set_aside")) == {"used": 4}


@pytest.mark.parametrize(
    "entry", [None, 5, "cup", [], {"id": 1}, {"name": "x"}, {"id": 9, "name": 5}]
)
def test_categories_that_are_none(files: Files, entry: Any) -> None:
    assert "a category needs 'id' and 'name'" in files.error(
        lambda content: content["categories"].append(entry)
    )


# --- boxes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bbox",
    [None, "4 6 20 24", [], [4, 6, 20], [4, 6, 20, 24, 1], ["4", "6", "20", "24"]]
    + [[float("nan"), 6, 20, 24], [4, 6, float("inf"), 24], [4, 6, -20, 24], [None] * 4],
)
def test_unusable_boxes(files: Files, bbox: Any) -> None:
    assert "annotation 1 of image '1.png': it" in files.error(first(bbox=bbox))
    report = files.report(first(bbox=bbox), on_bad="set_aside")
    assert rows_of(report) == {"used": 3, "dropped that are unusable": 1}
    named = report.as_json()["rows"][1]["first"]
    assert named[0]["object"] == "annotation 1 of image '1.png'" and "bbox" in named[0]["why"]


def test_a_missing_box(files: Files) -> None:
    message = files.error(lambda content: content["annotations"][1].pop("bbox"))
    assert "annotation 2 of image '1.png': it has no bbox" in message


@pytest.mark.parametrize(
    "bbox, row",
    [
        ([4, 6, 0, 24], "dropped with a box without area"),
        ([200, 6, 20, 24], "dropped with a box outside the image"),
        ([-20, 6, 44, 24], "clipped with a box cut to the image"),
    ],
)
def test_boxes_that_are_set_aside_or_cut(files: Files, bbox: Any, row: str) -> None:
    report = files.report(first(bbox=bbox))
    assert rows_of(report) == {"used": 3, row: 1}


@pytest.mark.parametrize("masks", [True, False])
def test_corners_for_sizes(files: Files, masks: bool) -> None:
    def corners(content: Content) -> None:
        for annotation in content["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["bbox"] = [x, y, x + w, y + h]
            if not masks:
                del annotation["segmentation"]

    for on_bad in ("error", "set_aside"):
        assert "its boxes are x0, y0, x1, y1: read as x, y, width, height" in files.error(
            corners, on_bad=on_bad
        )


# --- masks --------------------------------------------------------------------------------------


def rle_of(box: List[float], height: int = 80, width: int = 96) -> Dict[str, Any]:
    mask = np.zeros((height, width), np.uint8, order="F")
    x, y, w, h = (int(v) for v in box)
    mask[y : y + h, x : x + w] = 1
    rle = mask_util.encode(mask)
    return {"size": [height, width], "counts": rle["counts"].decode()}


BAD_MASKS: Dict[str, Any] = {
    "short compressed RLE": {**rle_of(BOXES[0]), "counts": rle_of(BOXES[0])["counts"][:-4]},
    "bytes as text, short": {
        **rle_of(BOXES[0]),
        "counts": str(rle_of(BOXES[0])["counts"][:-4].encode()),
    },
    "short list of counts": {"size": [80, 96], "counts": [5, 5]},
    "long list of counts": {"size": [80, 96], "counts": [5, 7676]},
    "negative counts": {"size": [80, 96], "counts": [-5, 7685]},
    "fractional counts": {"size": [80, 96], "counts": [5.5, 7674.5]},
    "turned RLE": rle_of(BOXES[0], 96, 80),
    "RLE of another size": rle_of(BOXES[0], 100, 100),
    "no counts": {"size": [80, 96]},
    "flat": polygon(BOXES[0])[0],
    "pairs": [[4, 6], [24, 6], [24, 30], [4, 30]],
    "deep": [[[4, 6], [24, 6], [24, 30], [4, 30]]],
    "NaN": [[4, 6, 24, 6, 24, float("nan"), 4, 30]],
    "Infinity": [[4, 6, 24, 6, 24, float("inf"), 4, 30]],
    "null": [[4, 6, 24, 6, 24, None, 4, 30]],
    "text": [[4, 6, 24, 6, 24, "30", 4, 30]],
    "huge": [[4, 6, 24, 6, 24, 1e300, 4, 30]],
    "bad beside good": [*polygon(BOXES[0]), [4, 6, 24, 6, 24, float("nan")]],
    "a number": 5,
    "a word": "polygon",
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_unusable_masks(files: Files, kind: str) -> None:
    change = first(segmentation=BAD_MASKS[kind])
    assert "annotation 1 of image '1.png': " in files.error(change)
    report = files.report(change, on_bad="set_aside")
    assert rows_of(report) == {"used": 3, "box-only with an unusable mask": 1}
    content = good_content()
    change(content)
    assert cleaned(content)["annotations"][0] == {
        **good_content()["annotations"][0],
        "segmentation": [],
    }


@pytest.mark.parametrize(
    "segmentation, row",
    [
        (None, "box-only without a mask"),
        ([], "box-only without a mask"),
        ([[4, 6, 24, 6]], "box-only with invalid polygons"),
        ([[4, 6, 24, 6, 24, 30, 4]], "box-only with invalid polygons"),
        ([[4, 6, 24, 6, 14, 6]], "box-only with an empty mask"),
        ({"size": [80, 96], "counts": [7680]}, "box-only with an empty mask"),
        ([[204, 6, 224, 6, 224, 30]], "box-only with a mask outside the image"),
        ([[4, 6, 1e9, 6, 1e9, 30, 4, 30]], "clipped with a mask cut to the image"),
        ([[4, 6, 1e7, 6, 1e7, 30, 4, 30]], "clipped with a mask cut to the image"),
        (
            [*polygon(BOXES[0]), [4, 6]],
            "suspicious with a mask of which invalid polygons are left out",
        ),
        (polygon(BOXES[1]), "suspicious with a mask that is not where the box is"),
        (rle_of(BOXES[0]), "used"),
        ({**rle_of(BOXES[0]), "counts": str(rle_of(BOXES[0])["counts"].encode())}, "used"),
    ],
)
def test_masks_that_are_set_aside_cut_or_used(files: Files, segmentation: Any, row: str) -> None:
    report = files.report(first(segmentation=segmentation))
    rows = rows_of(report)
    assert rows.pop("used") == (4 if row == "used" else 3)
    if row != "used" and "mask cut" not in row:
        assert rows == {row: 1}
    elif "mask cut" in row:  # it is larger than its box
        assert list(rows) == [f"{row}, with a mask that is not where the box is"]


def test_a_box_only_object_may_be_cut_as_well(files: Files) -> None:
    report = files.report(first(segmentation=[], bbox=[-20, 6, 44, 24]))
    assert rows_of(report) == {"used": 3, "box-only without a mask, with a box cut to the image": 1}


def test_lists_of_counts_stay(files: Files) -> None:
    """detectron2 and pycocotools encode them; sizes that are no whole numbers they do not take."""
    content = good_content()
    rle = {"size": [80, 96], "counts": [5, 7, 7668]}
    content["annotations"][1].update(segmentation=rle, iscrowd=1)
    assert cleaned(content) == content
    content["annotations"][1]["segmentation"] = {**rle, "size": [80.0, 96.0]}
    assert cleaned(content)["annotations"][1]["segmentation"]["size"] == [80, 96]


# --- masks that may not be used -----------------------------------------------------------------


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_masks_outside_set_a_are_not_judged(files: Files, tmp_path: Path, kind: str) -> None:
    split = tmp_path / "a.txt"
    split.write_text("dog")
    # The first annotation is a cup.
    report = files.report(first(segmentation=BAD_MASKS[kind]), split=str(split))
    rows = rows_of(report)
    assert rows.pop("used") == 1
    assert sum(rows.values()) == 3 and all(row.startswith("box-only") for row in rows)
    report = files.report(first(segmentation=BAD_MASKS[kind]), split="")
    assert all(row.startswith("box-only") for row in rows_of(report))


def test_no_mask_is_not_withheld(files: Files) -> None:
    for nothing in (None, []):
        report = files.report(all_of("annotations", segmentation=nothing), split="")
        assert rows_of(report) == {"box-only without a mask": 4} and report.altered == 0


def test_a_split_that_does_not_fit(files: Files) -> None:
    assert "split 'voc'" in files.error(lambda content: None, split="voc")


# --- iscrowd, area, keypoints -------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", "no", [], float("nan"), -1, {}])
@pytest.mark.parametrize("field", ["iscrowd", "area"])
def test_fields_without_a_value_are_as_if_absent(files: Files, field: str, value: Any) -> None:
    report = files.report(first(**{field: value}))
    assert rows_of(report) == {"used": 4} and report.filled_in == {field: 1}
    content = good_content()
    first(**{field: value})(content)
    assert field not in cleaned(content)["annotations"][0]


def test_absent_fields_are_nothing_to_speak_of(files: Files) -> None:
    def change(content: Content) -> None:
        for annotation in content["annotations"]:
            del annotation["iscrowd"], annotation["area"]

    report = files.report(change)
    assert rows_of(report) == {"used": 4} and report.altered == 0 and not report.filled_in


@pytest.mark.parametrize("value", [1, True, "1", 1.0])
def test_crowds(files: Files, value: Any) -> None:
    assert rows_of(files.report(first(iscrowd=value))) == {"used": 3, "crowd": 1}
    content = good_content()
    first(iscrowd=value)(content)
    assert cleaned(content)["annotations"][0]["iscrowd"] == 1


@pytest.mark.parametrize("value", ["x", [1, 2], [1, 2, None], [1, 2, float("nan")], 5])
def test_unusable_keypoints(files: Files, value: Any) -> None:
    assert "its keypoints" in files.error(first(keypoints=value))
    report = files.report(first(keypoints=value), on_bad="set_aside")
    assert rows_of(report) == {"used": 3, "dropped that are unusable": 1}


def test_keypoints(files: Files) -> None:
    for value in ([1, 2, 2, 0, 0, 0], [], None):
        assert rows_of(files.report(first(keypoints=value))) == {"used": 4}
    content = good_content()
    first(keypoints=None)(content)
    assert cleaned(content) == good_content()


def test_ignore_is_refused_where_it_says_something(files: Files) -> None:
    assert "'ignore'" in files.error(first(ignore=1))
    for value in (0, None, False):
        assert rows_of(files.report(first(ignore=value))) == {"used": 4}


# --- files that are none ------------------------------------------------------------------------


@pytest.mark.parametrize("content", [[], 5, None, "x", {}, {"images": []}, {"annotations": []}])
def test_no_coco_file(files: Files, content: Any) -> None:
    files.error_of(files.register(content))


@pytest.mark.parametrize("key", ["images", "categories"])
@pytest.mark.parametrize("value", [None, {}, [], 5, "gone", [5], [None]])
def test_missing_lists(files: Files, key: str, value: Any) -> None:
    def change(content: Content) -> None:
        content[key] = value
        if value == "gone":
            del content[key]

    for on_bad in ("error", "set_aside"):
        message = files.error(change, on_bad=on_bad)
        assert key in message or "a category needs" in message


@pytest.mark.parametrize("entry", [None, 5, "x", [1]])
def test_annotations_that_are_no_objects(files: Files, entry: Any) -> None:
    change = lambda content: content["annotations"].insert(1, entry)  # noqa: E731
    assert "annotation number 2: it is no JSON object" in files.error(change)
    report = files.report(change, on_bad="set_aside")
    assert rows_of(report) == {"used": 4, "dropped that are unusable": 1}


def test_the_error_names_ten(files: Files) -> None:
    def change(content: Content) -> None:
        content["annotations"] = [
            {**content["annotations"][0], "id": i, "bbox": None} for i in range(1, 26)
        ]

    message = files.error(change)
    assert "25 unusable: annotation 1 of" in message and "annotation 10 of" in message
    assert "annotation 11 of" not in message and "and 15 more" in message
    assert "DATASETS.ON_BAD_ANNOTATION set_aside" in message
