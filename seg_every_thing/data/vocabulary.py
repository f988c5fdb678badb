"""The names of a model's classes: what a data set says of them, and what a person may call them."""

import dataclasses
import difflib
import functools
import logging
from pathlib import Path
from typing import Callable, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple, Union

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

from .catalog import class_names_of
from .splits import resolve_class_split

logger = logging.getLogger(__name__)

_NAMED = 3  # unknown names that a message tells of


class Classes(NamedTuple):
    """What a config's data set says of the classes."""

    names: List[str]
    category_ids: List[Union[int, str]]  # the data set's own ids
    set_a: Optional[FrozenSet[int]]  # class indices; None = no sets


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Classes by index, with the names that a person may use for them.

    Attributes:
        names: unique, as in the data set ("truck.n.01").
        display_names: as one says them ("truck"); several classes may share one.
        category_ids: the data set's own ids.
        set_a: indices of the classes of set A; None = there are no sets.
        added: indices of the classes that were added at test time.
    """

    names: List[str]
    display_names: List[str]
    category_ids: List[Union[int, str]]
    set_a: Optional[FrozenSet[int]] = None
    added: FrozenSet[int] = frozenset()

    def find(self, name: str) -> List[int]:
        """Indices of the classes of a name or display name; upper and lower case are the same.

        A name as it stands in the data set means that class alone, a display name all that share
        it.
        """
        for form, index in self._indices:
            if form(name) in index:
                return index[form(name)]
        return []

    def find_all(self, names: Sequence[str], source: str) -> FrozenSet[int]:
        """Indices of the classes of any of the names.

        Raises:
            ValueError: for unknown names; the message says the nearest, and the source.
        """
        unknown = [name for name in names if not self.find(name)]
        if unknown:
            told = "; ".join(f"'{name}'{self._nearest(name)}" for name in unknown[:_NAMED])
            more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
            raise ValueError(
                f"{source}: the model's {len(self.names)} classes have none called {told}{more}"
            )
        return frozenset(i for name in names for i in self.find(name))

    def with_class(self, name: str) -> "Vocabulary":
        """A vocabulary with one class more, at the end.

        Raises:
            ValueError: when a class has the name already.
        """
        same = self.find(name)
        if same:
            raise ValueError(
                f"a class called '{name}' exists (index {same[0]}): give the added one another name"
            )
        # Where ids are text, so is the new one: its name, unless that is the id of another class.
        numbers = [known for known in self.category_ids if not isinstance(known, str)]
        free = f"{name} (added)" if name in self.category_ids else name
        new = free if len(numbers) < len(self.category_ids) else max(numbers, default=0) + 1
        return Vocabulary(
            [*self.names, name],
            [*self.display_names, name],
            [*self.category_ids, new],
            self.set_a,
            self.added | {len(self.names)},
        )

    @functools.cached_property
    def _indices(self) -> List[Tuple[Callable[[str], str], Dict[str, List[int]]]]:
        """Indices of the classes by name and by display name, as written and in lower case."""
        tables: List[Tuple[Callable[[str], str], Dict[str, List[int]]]] = []
        for names in (self.names, self.display_names):
            for form in (str, str.casefold):
                table: Dict[str, List[int]] = {}
                for i, name in enumerate(names):
                    table.setdefault(form(name), []).append(i)
                tables.append((form, table))
        return tables

    def _nearest(self, name: str) -> str:
        known: Dict[str, str] = {}
        for each in (*self.display_names, *self.names):
            known.setdefault(each.casefold(), each)
        near = difflib.get_close_matches(name.casefold(), known, n=3, cutoff=0.5)
        return f" (nearest: {', '.join(known[n] for n in near)})" if near else ""


def class_filter(wanted: str, vocabulary: Vocabulary) -> FrozenSet[int]:
    """Read the value of ``--classes``.

    Args:
        wanted: names or display names with commas between them, or a file with one a line.
        vocabulary: of the model.

    Returns:
        The class indices.

    Raises:
        ValueError: for an unknown name, no name at all, or an unreadable file.
    """
    path = Path(wanted)
    if wanted.endswith(".txt") or (not vocabulary.find(wanted) and path.is_file()):
        try:
            names = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise ValueError(f"--classes: cannot read the class list '{wanted}': {e}") from e
        source = f"--classes '{wanted}'"
    else:
        names, source = ([wanted] if vocabulary.find(wanted) else wanted.split(",")), "--classes"
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise ValueError(f"{source} names no class")
    return vocabulary.find_all(names, source)


def vocabulary_of(cfg: CfgNode) -> Vocabulary:
    """The vocabulary of a config's data set: :func:`classes_of`, and the metadata's
    ``display_names``, a list as long as ``thing_classes``, where there is one.

    Raises:
        ValueError: when the split does not fit the classes.
    """
    classes = classes_of(cfg)
    data_sets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    metadata = MetadataCatalog.get(data_sets[0]) if data_sets else None
    display_names = classes.names
    if metadata is not None and list(metadata.get("thing_classes") or []) == classes.names:
        display_names = [str(n) for n in metadata.get("display_names") or classes.names]
    if len(display_names) != len(classes.names):
        logger.warning(
            "The metadata of '%s' have %d display_names for %d classes: they are not used",
            *(data_sets[0], len(display_names), len(classes.names)),
        )
        display_names = classes.names
    return Vocabulary(classes.names, display_names, classes.category_ids, classes.set_a)


def classes_of(cfg: CfgNode) -> Classes:
    """Names and ids of the classes of a config's data set, and which of them are in set A.

    The annotation file may be absent as long as the metadata know the classes.  Where they do not,
    or where the model has another number of classes, classes are named by their index.

    Raises:
        ValueError: when the split does not fit the classes.
    """
    split = cfg.TEST.CLASS_SPLIT or cfg.DATASETS.MASK_CLASSES
    num_classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    ids: List[Union[int, str]] = list(range(num_classes))
    data_sets = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    try:
        names = _known_names(data_sets[0]) if data_sets else []
    except (OSError, ValueError) as e:
        logger.warning("Class names are not known: %s", e)
        names = []
    if len(names) != num_classes:
        logger.warning(
            "Classes are named by their index: the model has %d classes, the data set %d%s",
            *(num_classes, len(names)),
            "" if split == "all" else f"; nor are the sets of the split '{split}' told apart",
        )
        return Classes([str(i) for i in ids], ids, None)
    to_index = MetadataCatalog.get(data_sets[0]).get("thing_dataset_id_to_contiguous_id") or {}
    if sorted(to_index.values()) == ids:
        ids = sorted(to_index, key=to_index.__getitem__)
    if split == "all":
        return Classes(names, ids, None)
    return Classes(names, ids, frozenset(resolve_class_split(split, names).set_a))


def _known_names(data_set: str) -> List[str]:
    return list(MetadataCatalog.get(data_set).get("thing_classes") or class_names_of(data_set))
