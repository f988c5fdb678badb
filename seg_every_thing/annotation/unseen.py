"""What masks of classes without any are worth: the model does not tell, but a second one does.

Classes with masks teach by them, and their held-out masks are no measure of those of other classes.
So a second model is trained as the first one, with the masks of half of these classes hidden.
What it makes of the hidden ones is what the first model makes of classes without masks.
"""

import dataclasses
import logging
from typing import Any, List, Optional

from ..files import make_output_dir, read_json
from .expectation import Expectation
from .index import Index
from .index_building import build_index
from .making import MakeMasker, make_all_masks
from .options import Options
from .provenance import Prints
from .quality import FEWEST
from .results import Results, result_files
from .training import PLAN, train_model

logger = logging.getLogger(__name__)

_FEWEST_CLASSES = 4  # with masks, of which half can be hidden


def hidden_categories(options: Options, index: Index) -> List[Any]:
    """Ids of the categories whose masks are hidden from the second model; [] = there is none.

    Every second one of those with masks, by their number. There is a second model where the first
    one is trained on these data, some of which are of classes without masks, and scores of the
    others are calibrated.
    """
    counts = index.masks_by_class()
    by_number = sorted(counts, key=lambda i: -counts[i])  # stable: then by id
    hidden = by_number[1::2]
    if (
        options.is_trained
        or not index.wants_without_masks()
        or index.counts["held_out"] < FEWEST
        or len(counts) < _FEWEST_CLASSES
        or sum(counts[i] for i in hidden) < FEWEST
    ):
        return []
    return hidden


def expect_unseen(
    options: Options,
    index: Index,
    prints: Prints,
    make_masker: MakeMasker,
) -> Optional[Expectation]:
    """Train the second model, and compare its masks of the hidden classes with the true ones.

    What is done already is not done again.

    Args:
        options: of the run.
        index: of the input.
        prints: of the run.
        make_masker: builds what makes masks, in each process.

    Returns:
        None where there is no second model.

    Raises:
        ValueError: when no image of the hidden classes can be used.
        OSError: when something cannot be written.
    """
    hidden = hidden_categories(options, index)
    if not hidden:
        return None
    folder = make_output_dir(options.work_dir / "unseen")
    second = dataclasses.replace(options, output=folder / "masks.json")
    path = make_output_dir(second.work_dir) / "index.sqlite"
    if not path.exists():
        build_index(path, second, prints.on_bad, {}, hidden)
    names = index.categories
    logger.info(
        "A second model, which does not see the masks of %d of %d classes (%s), tells what masks "
        "of classes without any are worth",
        *(len(hidden), len(index.masks_by_class()), ", ".join(names[i] for i in hidden)),
    )
    part = Index(path)
    try:
        # As long as the first one, which is there.
        plan = read_json(options.model_dir / PLAN)
        model = train_model(second, part, prints.masks, lambda *_: plan)
        make_all_masks(second, part, model, make_masker)
        results = Results(result_files(second.work_dir))
        expectation = Expectation(part, results.compared())
        results.close()
    finally:
        part.close()
    return expectation
