"""The annotated data set: what came in, with the masks that were made."""

from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from ..data.segmentations import shortened
from .encoding import FAITHFUL, CutMask, keep_parts, runs_of, to_polygons, to_rle
from .formats import coco
from .index import Index, IndexedImage
from .options import Options
from .origin import SOURCE, with_mask_of_crowd, with_score, with_tight_box
from .quality import Scores
from .results import Result, Results
from .review_items import CHANGED_BY_POLYGON, EMPTY, FILLED

HUGE_ID = 1_000_000

Annotation = Dict[str, Any]


class Made(NamedTuple):
    """An object that lacked a mask, and what became of it."""

    annotation: Optional[Annotation]  # as it is written; None = dropped
    has_mask: bool  # whether it is written with a mask
    mask: CutMask  # that is written, or would have been; empty where nothing was found
    score: float
    flags: Tuple[str, ...]  # of review_items.FLAGS
    polygon_iou: Optional[float]  # with --format polygon
    image: IndexedImage
    number: int  # place of its annotation in the file

    @property
    def fill(self) -> float:
        """Pixels of the mask / pixels of its window."""
        return self.mask.area / self.mask.pixels.size


class Output:
    """Merges masks into the data set that they were made for, as a stream."""

    def __init__(
        self,
        options: Options,
        index: Index,
        results: Results,
        scores: Scores,
        provenance: Dict[str, Any],
    ) -> None:
        """
        Args:
            options: of the run.
            index: of the input.
            results: the masks; objects that have none there stay as they are.
            scores: of the masks.
            provenance: goes into ``info``.
        """
        self._options, self._index, self._results = options, index, results
        self._scores = scores
        self._provenance = provenance
        ids = list(index.categories)
        self._new_ids = (
            {old: i for i, old in enumerate(ids, 1)} if options.reindex_categories else {}
        )

    def members(self, tell: Callable[[Made], None]) -> Iterator[coco.Member]:
        """The data set, member by member.

        Args:
            tell: is called with every object whose mask was made, in the order of the file.
        """
        objects = _with_results(self._index, self._results)
        wanted = next(objects, None)
        number, has_info = -1, False
        for key, value in coco.read_boxes(self._options.annotations):
            if key == "info":
                has_info = True
                value = {**value, SOURCE: self._provenance} if isinstance(value, dict) else value
            elif key == "categories" and isinstance(value, dict):
                value = self._with_new_id(value, "id")
            elif key == "annotations":
                number += 1
                made = None
                if wanted is not None and wanted[0] == number:
                    made = self.make(value, *wanted)
                    wanted = next(objects, None)
                    tell(made)
                elif self._options.crowd_rle_is_mask:
                    value = with_mask_of_crowd(value)
                if made is not None and made.annotation is None:
                    continue
                value = value if made is None else made.annotation
                value = self._with_new_id(value, "category_id")
            yield key, value
        if not has_info:
            yield "info", {SOURCE: self._provenance}

    def make(
        self, annotation: Annotation, number: int, image: IndexedImage, result: Result
    ) -> Made:
        """Give an object its mask, as far as the options let it."""
        options = self._options
        score_of = self._scores.of(annotation["category_id"])
        score = round(float(score_of([result.features])[0]), 4)
        mask = result.mask._replace(pixels=keep_parts(result.mask.pixels, options.parts))
        flags: List[str] = []
        if not mask.area:
            score = 0.0
            flags.append(EMPTY)
        made = Made(annotation, False, mask, score, tuple(flags), None, image, number)
        if score < options.min_score:
            return made
        if not mask.area and options.on_empty == "drop":
            return made._replace(annotation=None)
        if not mask.area and options.on_empty == "empty":
            return made._replace(annotation={**annotation, "segmentation": []})
        if not mask.area:
            mask = mask._replace(pixels=np.ones_like(mask.pixels))
        if mask.pixels.all():
            flags.append(FILLED)
        segmentation, area, polygon_iou = self._encoded(mask, image)
        if polygon_iou is not None and polygon_iou < FAITHFUL:
            flags.append(CHANGED_BY_POLYGON)
        new = {**annotation, "segmentation": segmentation, "area": area}
        if options.tighten_boxes:
            new = with_tight_box(new, mask.extent())
        if options.crowd_rle_is_mask:
            new = with_mask_of_crowd(new)
        new.setdefault("iscrowd", 0)
        return made._replace(
            annotation=with_score(new, score),
            has_mask=True,
            mask=mask,
            flags=tuple(flags),
            polygon_iou=polygon_iou,
        )

    def _encoded(self, mask: CutMask, image: IndexedImage) -> Tuple[Any, int, Optional[float]]:
        """Segmentation, area, and with polygons their IoU with the mask."""
        size = image.height, image.width
        if self._options.format == "polygon":
            return to_polygons(mask)
        if self._options.format == "rle":
            return to_rle(mask, *size), mask.area, None
        return {"size": list(size), "counts": runs_of(mask, *size)}, mask.area, None

    def _with_new_id(self, value: Any, key: str) -> Any:
        if not self._new_ids or not isinstance(value, dict) or value.get(key) not in self._new_ids:
            return value
        return {**value, key: self._new_ids[value[key]]}


def _with_results(index: Index, results: Results) -> Iterator[Tuple[int, IndexedImage, Result]]:
    """Number, image and result of the objects that want a mask and have one, in order."""
    found = iter(results)
    result = next(found, None)
    for number, image, wanted, _ in index.objects_by_number():
        while result is not None and result.object < number:
            result = next(found, None)
        if wanted and result is not None and result.object == number:
            yield number, index.image(image), result


def category_warnings(categories: Dict[Any, str]) -> List[str]:
    """What about category ids will trouble other tools."""
    numbers = [i for i in categories if isinstance(i, int)]
    if len(numbers) < len(categories):
        text = next(i for i in categories if not isinstance(i, int))
        return [f"category ids such as {shortened(text)} are no whole numbers"]
    warnings = []
    if min(numbers) <= 0:
        name = categories[min(numbers)]
        warnings.append(f"the category id {min(numbers)} ('{name}') is below 1: CVAT refuses it")
    if max(numbers) > HUGE_ID:
        warnings.append(f"the category id {max(numbers)} is huge: FiftyOne makes a list as long")
    elif max(numbers) - min(numbers) + 1 != len(numbers):
        warnings.append(
            f"category ids have gaps ({len(numbers)} from {min(numbers)} to {max(numbers)}): "
            f"detectron2 and others number classes anew"
        )
    return [f"{warning}; --reindex-categories writes 1, 2, ..." for warning in warnings]
