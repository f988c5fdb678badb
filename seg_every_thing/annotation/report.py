"""What a run has made: counts, and what to look at first."""

import heapq
from collections import Counter
from typing import Any, Dict, List, Tuple

from .expectation import size_name
from .index import Index
from .output import Made
from .review_items import CHANGED_BY_POLYGON, EMPTY, FILLED
from .tables_on_disk import id_key

MOST_LISTED = 100
MOST_REVIEWED = 10_000
_THIN = 0.15  # share of its box below which a mask is an outlier
_BINS = 20


class Tally:
    """Counts what :class:`~seg_every_thing.annotation.output.Output` tells; memory is bounded."""

    def __init__(self, index: Index) -> None:
        """
        Args:
            index: of the input.
        """
        self._names = {id_key(i): name for i, name in index.categories.items()}
        self.made = self.below = self.dropped = self.left_empty = 0
        self.flags: Counter = Counter()
        self.scores_by_class: Dict[str, Tuple[int, float]] = {}
        """How many masks were made of a class, and the sum of their scores."""
        self.scores_by_size: Dict[str, Tuple[int, float]] = {}
        self._histogram = [0] * _BINS
        self._worst: List[Tuple[float, int, Any]] = []  # -score, -number, id
        self._thin: List[Any] = []
        self._polygons = (0, 0.0, 1.0)  # how many, sum and minimum of their IoU

    def add(self, made: Made) -> None:
        """Count an object."""
        self.flags.update(made.flags)
        if not made.has_mask or made.annotation is None:
            empty = EMPTY in made.flags
            self.dropped += made.annotation is None
            self.left_empty += empty and made.annotation is not None
            self.below += not empty
            return
        self.made += 1
        annotation = made.annotation
        name = self._names.get(id_key(annotation["category_id"]), "?")
        for table, row in (
            (self.scores_by_class, name),
            (self.scores_by_size, size_name(*annotation["bbox"][2:])),
        ):
            count, total = table.get(row, (0, 0.0))
            table[row] = count + 1, total + made.score
        self._histogram[min(int(made.score * _BINS), _BINS - 1)] += 1
        if made.polygon_iou is not None:
            count, total, least = self._polygons
            self._polygons = count + 1, total + made.polygon_iou, min(least, made.polygon_iou)
        if made.fill < _THIN and len(self._thin) < MOST_LISTED:
            self._thin.append({"id": annotation["id"], "fill": round(made.fill, 4)})
        entry = (-made.score, -made.number, annotation["id"])
        if len(self._worst) < MOST_REVIEWED:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heappushpop(self._worst, entry)

    def worst(self) -> List[Tuple[int, Any, float]]:
        """(number, id, score) of at most :data:`MOST_REVIEWED` masks, the lowest scores first."""
        return [(-n, own_id, -score) for score, n, own_id in sorted(self._worst, reverse=True)]

    def as_json(self) -> Dict[str, Any]:
        """Counts and lists."""
        content: Dict[str, Any] = {
            "made": self.made,
            "below_min_score": self.below,
            "dropped_as_empty": self.dropped,
            "left_empty": self.left_empty,
            "nothing_found": self.flags[EMPTY],
            "whole_box": self.flags[FILLED],
            "scores": {
                "edges": [round(i / _BINS, 2) for i in range(_BINS + 1)],
                "objects": self._histogram,
            },
            "lowest_scores": [
                {"id": own_id, "score": score} for _, own_id, score in self.worst()[:MOST_LISTED]
            ],
            f"masks_below_{100 * _THIN:.0f}_percent_of_their_box": self._thin,
        }
        count, total, least = self._polygons
        if count:
            content["polygons"] = {
                "mean_IoU_with_mask": round(total / count, 4),
                "least_IoU_with_mask": round(least, 4),
                "changed": self.flags[CHANGED_BY_POLYGON],
                "lost": "holes: polygons of COCO have none",
            }
        return content
