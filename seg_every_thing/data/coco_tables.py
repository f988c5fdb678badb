"""The images and categories of a COCO-format file, which its annotations point to."""

import re
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Iterable,
    List,
    Mapping,
    MutableMapping,
    NamedTuple,
    Optional,
    Set,
    Tuple,
)

from .data_report import DataReport
from .segmentations import MAX_PIXELS, Size, are_numbers, shortened
from .splits import resolve_class_split

Id = Any  # a number or text, as long as all of a file are of one kind

_MAX_ID = 1 << 53


class CocoImage(NamedTuple):
    """What its annotations need of an image."""

    file_name: str
    size: Optional[Size]  # (height, width); None = the image is unusable


class CocoTables:
    """Images and categories by id, checked."""

    def __init__(
        self,
        members: Iterable[Tuple[str, Any]],
        report: DataReport,
        images: Optional[MutableMapping[Id, CocoImage]] = None,
    ) -> None:
        """
        Args:
            members: keys and elements of the lists of the file, in any order.
            report: gets what is wrong with an image, and names that two categories share.
            images: an empty mapping that gets the images, such as one on disk; default a dict.

        Raises:
            ValueError: when there are no images or no categories, when a category is unusable, or
                ids are numbers here and text there.
        """
        self._report = report
        self._entries = 0
        self.images: MutableMapping[Id, CocoImage] = {} if images is None else images
        self.categories: Dict[Id, str] = {}
        for key, value in members:
            if key == "images":
                self._add_image(value)
            elif key == "categories":
                self._add_category(value)
        if not self.images or not self.categories:
            missing = "categories" if self.images else "images"
            raise ValueError(f"it has no list '{missing}', or no usable entry in it")
        _check_one_kind("image", self.images, lambda image: image.file_name)
        _check_one_kind("category", self.categories, str)
        self._check_names()

    def usable(self, images: List[Any]) -> List[Any]:
        """Those of the file's images that are usable, each once."""
        kept = {
            image["id"]: image
            for image in images
            if isinstance(image, dict)
            and is_id(image.get("id"))
            and self.images[image["id"]].size is not None
        }
        return list(kept.values())

    def mask_categories(self, split: str) -> Optional[Set[Id]]:
        """Ids of the categories of a split's set A; None = all.  The split "" has none.

        Raises:
            ValueError: when the split does not fit.
        """
        if split in ("", "all"):
            return None if split else set()
        ids = sorted(self.categories)  # as detectron2 sorts them
        set_a = resolve_class_split(split, [self.categories[i] for i in ids]).set_a
        return {ids[i] for i in set_a}

    def _add_image(self, image: Any) -> None:
        self._entries += 1
        image_id = image.get("id") if isinstance(image, dict) else None
        if not is_id(image_id):
            self._refuse_image(f"number {self._entries}", f"it has no id: {shortened(image)}")
            return
        name, size, why = _described(image)
        known = self.images.get(image_id)
        if known is not None and known != CocoImage(name, size):
            why = f"its id {shown(image_id)} is that of {known.file_name!r}, too"
        if why:
            self._refuse_image(repr(name), why)
            size = None
        self.images[image_id] = CocoImage(name, size)

    def _refuse_image(self, name: str, why: str) -> None:
        self._report.refuse(f"image {name}: {why}")
        self._report.altered += 1

    def _add_category(self, category: Any) -> None:
        category_id = category.get("id") if isinstance(category, dict) else None
        if not is_id(category_id) or not isinstance(category.get("name"), str):
            raise ValueError(f"a category needs 'id' and 'name', and one is {shortened(category)}")
        name = category["name"]
        if category_id in self.categories:
            raise ValueError(
                f"the category id {shown(category_id)} belongs to "
                f"{self.categories[category_id]!r} and to {name!r}: each needs one of its own"
            )
        self.categories[category_id] = name

    def _check_names(self) -> None:
        by_name: Dict[str, Id] = {}
        for category_id, name in self.categories.items():
            if name in by_name:
                ids = f"{shown(by_name[name])} and {shown(category_id)}"
                self._report.refuse(f"two categories are called {name!r}, their ids are {ids}")
            by_name[name] = category_id


def is_id(value: Any) -> bool:
    """Whether a value of a file can be an id: text, or a number that numpy keeps apart from others.

    COCO's evaluation puts ids into arrays.
    """
    if isinstance(value, str):
        return True
    return type(value) in (int, float) and abs(value) <= _MAX_ID  # NaN is not


def shown(value: Id) -> str:
    """An id in a message."""
    return str(value) if type(value) is int else shortened(value)


def same_but_for_kind(value: Id) -> Id:
    """The number that a text spells, the text of a number; None where there is none."""
    if not isinstance(value, str):
        return str(value)
    return int(value) if re.fullmatch(r"\s*-?\d{1,18}\s*", value) else None


def misfit(value: Any, known: Collection[Id], what: str) -> str:
    """Why an id is none of the known ones, to follow "its image_id"."""
    if not is_id(value) or same_but_for_kind(value) not in known:
        return f"{shown(value)} is not among the ids of the {what}"
    if isinstance(value, str):
        return f"is the text {shown(value)}, and the ids of the {what} are numbers"
    return f"is the number {shown(value)}, and the ids of the {what} are text"


def _described(image: Dict[str, Any]) -> Tuple[str, Optional[Size], str]:
    """File name and size of an image, and what is wrong with it."""
    name = image.get("file_name")
    size: Any = image.get("height"), image.get("width")
    if not isinstance(name, str) or not name:
        return f"with id {shown(image['id'])}", None, f"its file_name is {shortened(name)}"
    if not are_numbers(size) or not all(0 < v < MAX_PIXELS and v == int(v) for v in size):
        return name, None, f"its height is {shortened(size[0])}, its width {shortened(size[1])}"
    height, width = map(int, size)
    if height * width >= MAX_PIXELS:
        return name, None, f"no picture of {height} x {width} pixels (height x width) opens"
    return name, (height, width), ""


def _check_one_kind(what: str, known: Mapping[Id, Any], name_of: Callable[[Any], str]) -> None:
    text = next((i for i in known if isinstance(i, str)), None)
    number = next((i for i in known if not isinstance(i, str)), None)
    if text is not None and number is not None:
        raise ValueError(
            f"some {what} ids are numbers and some are text: that of {name_of(known[number])!r} is "
            f"the number {shown(number)}, that of {name_of(known[text])!r} the text {shown(text)}. "
            f"Write all of them as numbers"
        )
