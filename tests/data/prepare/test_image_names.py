"""File names out of URLs."""

from typing import Any, Dict, List

import pytest

from seg_every_thing.data.prepare.image_names import ImageNames

HOST = "http://images.cocodataset.org"


def named(*images: Dict[str, Any]) -> Any:
    names = ImageNames("x.json")
    for image in images:
        names.see(image)
    return names.folder, [names.name_of(image) for image in images]


def urls(*values: str) -> List[Dict[str, Any]]:
    return [{"id": i, "coco_url": value} for i, value in enumerate(values)]


def test_file_names_stay() -> None:
    image = {"id": 1, "file_name": "a/1.jpg", "coco_url": f"{HOST}/train2017/2.jpg"}
    assert named(image) == (None, ["a/1.jpg"])
    # One without a name beside it; null is none.
    other = {"id": 2, "file_name": None, "coco_url": f"{HOST}/train2017/2.jpg"}
    assert named(image, other) == ("train2017", ["a/1.jpg", "2.jpg"])


@pytest.mark.parametrize(
    ("values", "folder", "expected"),
    [
        ([f"{HOST}/train2017/1.jpg", f"{HOST}/train2017/2.jpg"], "train2017", ["1.jpg", "2.jpg"]),
        (
            [f"{HOST}/train2017/1.jpg", f"{HOST}/val2017/1.jpg", f"{HOST}/train2017/3.jpg"],
            "",
            ["train2017/1.jpg", "val2017/1.jpg", "train2017/3.jpg"],
        ),
        # The same place in the path, but below folders that differ, is not in common.
        ([f"{HOST}/a/x/1.jpg", f"{HOST}/b/x/2.jpg"], "", ["a/x/1.jpg", "b/x/2.jpg"]),
        ([f"{HOST}/a/x/1.jpg", f"{HOST}/a/2.jpg"], "a", ["x/1.jpg", "2.jpg"]),
        ([f"{HOST}/a/2.jpg", f"{HOST}/a/x/1.jpg"], "a", ["2.jpg", "x/1.jpg"]),
        # Odd ones.
        ([f"{HOST}/train2017/1.jpg?size=full#top"], "train2017", ["1.jpg"]),
        ([f" {HOST}//train2017/./a%20b.jpg\n"], "train2017", ["a b.jpg"]),
        (["HTTPS://elsewhere:80/1.jpg"], "", ["1.jpg"]),
        (["train2017/1.jpg"], "train2017", ["1.jpg"]),
        (["http:\\\\host\\train2017\\1.jpg"], "train2017", ["1.jpg"]),
    ],
)
def test_names_below_the_common_folder(values: List[str], folder: str, expected: List[str]) -> None:
    assert named(*urls(*values)) == (folder, expected)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ({}, "neither a file_name nor a coco_url"),
        ({"file_name": None, "coco_url": None}, "neither a file_name nor a coco_url"),
        ({"file_name": ""}, "its file_name is '', not a name"),
        ({"file_name": 9}, "its file_name is 9, not a name"),
        ({"coco_url": 9}, "its coco_url is 9, not a URL"),
        ({"coco_url": ["http://a/1.jpg"]}, "not a URL"),
        ({"coco_url": ""}, "does not end in the name of a file"),
        ({"coco_url": HOST}, "does not end in the name of a file"),
        ({"coco_url": f"{HOST}/train2017/"}, "does not end in the name of a file"),
        ({"coco_url": f"{HOST}/get?id=3"}, "does not end in the name of a file"),
        ({"coco_url": f"{HOST}/train2017/../../etc/1.jpg"}, "does not end in the name of a file"),
        ({"coco_url": f"{HOST}/%2e%2e/1.jpg"}, "does not end in the name of a file"),
        ({"coco_url": "http://[1/2.jpg"}, "does not end in the name of a file"),
    ],
)
def test_images_without_a_usable_name(image: Dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as error:
        named({"id": 5, **image})
    assert str(error.value).startswith("'x.json', image 5: ") and words in str(error.value)
    assert "\n" not in str(error.value)


def test_two_images_of_one_url() -> None:
    with pytest.raises(ValueError, match="image 1: its coco_url names the file of image 0"):
        named(*urls(f"{HOST}/a/1.jpg?id=1", f"{HOST}/a/1.jpg?id=2"))


def test_what_is_no_image() -> None:
    with pytest.raises(ValueError, match="x.json', image 7: it is no JSON object"):
        ImageNames("x.json").see(7)
