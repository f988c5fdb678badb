"""COCO-format files: what of their annotations may be used, for training and evaluation alike."""

from typing import Any, Dict, MutableSet, Optional

from ..files import PathLike
from .annotations import BAD_CATEGORY, UNUSABLE, Annotation, ObjectChecker
from .coco_tables import CocoTables, Id, is_id, misfit, same_but_for_kind, shown
from .data_report import DROPPED, DataReport
from .json_stream import COCO_LISTS, iter_members
from .segmentations import shortened, usable_segmentation

NO_IMAGE = "of an image that is not in the file"
BAD_IMAGE = "of an unusable image"
TWIN = "with the id of another object"


def examine_coco(path: PathLike, report: DataReport, split: str, on_bad: str) -> None:
    """Check a COCO file as a stream, however large it is.

    Args:
        path: of the file.
        report: gets the counts.
        split: whose set A may use its masks, as ``DATASETS.MASK_CLASSES``; "" = no class.
        on_bad: "error", or "set_aside" to go on as long as anything is left.

    Raises:
        ValueError: for what is no COCO file or holds what is unusable; the message names the first
            ten.
    """
    # Twice, because categories often come last, and an annotation says little without them.
    tables = CocoTables(iter_members(path, report.data_set), report)
    checker = CocoChecker(tables, report, split, str(path))
    for key, annotation in iter_members(path, report.data_set):
        if key == "annotations":
            checker.check(annotation)
    checker.finish(on_bad)


def cleaned_coco(
    content: Dict[str, Any], report: DataReport, split: str, on_bad: str
) -> Dict[str, Any]:
    """The content of a COCO file without what is unusable.

    Arguments and errors are those of :func:`examine_coco`, but for ``content``, which is not
    changed.  What needs no mending is in the result as it is.
    """
    tables = _tables_of(content, report)
    cleaned = {**content, "images": tables.usable(content["images"])}
    checker = CocoChecker(tables, report, split, report.file)
    checked = [checker.check(annotation) for annotation in content.get("annotations", ())]
    checker.finish(on_bad)
    kept = [annotation for annotation in checked if annotation is not None]
    if checker.renumber:
        kept = [{**annotation, "id": i} for i, annotation in enumerate(kept, start=1)]
    if "annotations" in content:  # without them, nothing is evaluated
        cleaned["annotations"] = kept
    return cleaned


def without_annotations(content: Dict[str, Any]) -> Dict[str, Any]:
    """The content of a COCO file but for its objects: enough to know the classes.

    Raises:
        ValueError: as :class:`CocoTables`.
    """
    tables = _tables_of(content, DataReport("", ""))
    return {**content, "images": tables.usable(content["images"]), "annotations": []}


def _tables_of(content: Dict[str, Any], report: DataReport) -> CocoTables:
    for key in COCO_LISTS:
        if not isinstance(content.get(key, []), list):
            raise ValueError(f"its '{key}' is no list but {shortened(content[key])}")
    members = ((k, e) for k in ("images", "categories") for e in content.get(k, ()))
    return CocoTables(members, report)


class CocoChecker:
    """Checks the annotations of a COCO file one after another."""

    def __init__(
        self,
        tables: CocoTables,
        report: DataReport,
        split: str,
        path: str,
        seen: Optional[MutableSet[Id]] = None,
    ) -> None:
        """
        Args:
            tables: of the file.
            report: gets the counts.
            split: whose set A may use its masks; "" = no class.
            path: of the file.
            seen: an empty set that gets the ids, such as one on disk; default one in memory.
        """
        self._tables, self._report = tables, report
        self._objects = ObjectChecker(report)
        self._mask_categories = tables.mask_categories(split)
        self._twins_are_known = "minival" in path  # COCO 2014; detectron2 lets them be, too
        self._seen: MutableSet[Id] = set() if seen is None else seen
        self._with_image = 0
        self._lost_image: Id = None
        self.renumber = False
        """Whether ids have to be given anew.  Evaluation takes an object of id 0 for none at all.
        """

    def check(self, annotation: Any) -> Optional[Annotation]:
        """As :meth:`ObjectChecker.check`, and whether the ids of the annotation mean something."""
        checked = self._checked(annotation)
        self._report.altered += checked is not annotation
        return checked

    def finish(self, on_bad: str) -> None:
        """Judge the file as a whole, after its last annotation.

        Raises:
            ValueError: as :func:`examine_coco`.
        """
        self._objects.votes.check()
        self._report.check(on_bad)
        if not any(image.size for image in self._tables.images.values()):
            raise ValueError(f"none of its {len(self._tables.images)} images is usable")
        if self._report.objects and not self._with_image:
            raise ValueError(
                f"none of its {self._report.objects} annotations belongs to one of its "
                f"{len(self._tables.images)} images: one names the image {shown(self._lost_image)},"
                f" and the first image is {shown(next(iter(self._tables.images)))}"
            )

    def _checked(self, annotation: Any) -> Optional[Annotation]:
        number = self._report.objects + 1
        if not isinstance(annotation, dict):
            why = f"it is no JSON object but {shortened(annotation)}"
            self._objects.refuse(UNUSABLE, f"annotation number {number}", why)
            return None
        own_id, image_id = annotation.get("id"), annotation.get("image_id")
        category_id = annotation.get("category_id")
        name = f"annotation {shown(own_id)}"
        if not is_id(own_id):
            name = f"annotation number {number} (without an id)"
        image = self._tables.images.get(image_id) if is_id(image_id) else None
        if image is None:
            self._count_lost(name, image_id)
            return None
        self._with_image += 1
        name = f"{name} of image {image.file_name!r}"
        if not is_id(category_id) or category_id not in self._tables.categories:
            why = f"its category_id {misfit(category_id, self._tables.categories, 'categories')}"
            self._objects.refuse(BAD_CATEGORY, name, why)
        elif image.size is None:
            self._report.count(DROPPED, BAD_IMAGE, name)
        elif not self._has_good_id(own_id):
            self._objects.refuse(TWIN, name, "its id belongs to another object, too")
        elif self._mask_categories is None or category_id in self._mask_categories:
            return self._objects.check(annotation, name, image.size, may_use_mask=True)
        else:
            loadable = _loadable(annotation)
            return self._objects.check(loadable, name, image.size, may_use_mask=False)
        return None

    def _count_lost(self, name: str, image_id: Any) -> None:
        """Count an annotation whose image is not in the file."""
        self._lost_image = image_id
        if is_id(image_id) and same_but_for_kind(image_id) not in self._tables.images:
            # Files of all annotations beside a few of the images are common.
            self._report.count(DROPPED, NO_IMAGE, name)
            return
        why = f"its image_id {misfit(image_id, self._tables.images, 'images')}"
        self._objects.refuse(NO_IMAGE, name, why)

    def _has_good_id(self, own_id: Any) -> bool:
        """Whether an id is one of its own; what is no whole number above 0 will get a new one."""
        if not is_id(own_id) or type(own_id) is not int or own_id <= 0:
            self._report.filled_in["id"] += 1
            self._report.altered += 1
            self.renumber = True
        if not is_id(own_id):
            return True
        if own_id in self._seen:
            self.renumber = self.renumber or self._twins_are_known
            return self._twins_are_known
        self._seen.add(own_id)
        return True


def _loadable(annotation: Annotation) -> Annotation:
    """An annotation whose mask is not used, but which detectron2's loader must not fail on: it
    encodes counts that are a list, and counts the numbers of polygons."""
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        return annotation
    if isinstance(segmentation, list):
        usable: Any = [
            p for p in segmentation if isinstance(p, list) and len(p) % 2 == 0 and len(p) >= 6
        ]
        unchanged = len(usable) == len(segmentation)
    elif isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str):
        unchanged = True
    else:
        unchanged = False
        try:
            usable = usable_segmentation(segmentation)
        except ValueError:
            usable = []
    if unchanged:
        return annotation
    rest = {k: v for k, v in annotation.items() if k != "segmentation"}
    return {**rest, "segmentation": usable} if usable else rest
