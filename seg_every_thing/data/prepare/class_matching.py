"""Which classes of one data set are those of another."""

import difflib
import re
from collections import Counter, defaultdict
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from ...files import PathLike, read_json
from ..datasets.vg_classes import display_name

Category = Dict[str, Any]

_SYNSET = re.compile(r".+\.[a-z]\.\d+")


class Match(NamedTuple):
    """What became of a source category.

    Attributes:
        target: the category it turns into; None when it has none.
        how: "map", "name", "coco name", "similar name", "synset", or why there is no target:
            "no match", "ambiguous", "map" (mapped to null).
        candidates: names of the targets among which nothing decides, for "ambiguous".
    """

    target: Optional[Category]
    how: str
    candidates: Tuple[str, ...] = ()


def match_categories(
    source: List[Category],
    target: List[Category],
    by: str,
    extra: Optional[Mapping[str, Optional[str]]] = None,
) -> List[Match]:
    """Find the target category of each source category.

    By "name", in this order: equal names; the name of the COCO class that a category stands for
    (``coco_name``, as ``prepare-vg`` writes it); names that are equal without regard to case,
    underscores and the suffix of a synset, if on both sides just one category has such a name and
    the target is not taken.  By "synset": equal synsets (key ``synset``, or names like
    truck.n.01).  Where several targets fit equally well, none is taken.

    Args:
        source, target: COCO categories.
        by: "name" or "synset".
        extra: decides before anything else: source name or synset -> target name or synset, or
            None to drop the class.

    Returns:
        One match for each source category.

    Raises:
        ValueError: for an unknown ``by``, or names in ``extra`` that do not exist.
    """
    if by not in ("name", "synset"):
        raise ValueError(f"--by must be name or synset, got '{by}'")
    matches: List[Optional[Match]] = _by_extra_map(source, target, extra or {})
    if by == "synset":
        _match_on(matches, source, target, "synset", _synset)
    else:
        _match_on(matches, source, target, "name", lambda c: c["name"])
        _match_on(matches, source, target, "coco name", lambda c: c.get("coco_name", c["name"]))
        _match_similar(matches, source, target)
    return [Match(None, "no match") if match is None else match for match in matches]


def _by_extra_map(
    source: List[Category], target: List[Category], extra: Mapping[str, Optional[str]]
) -> List[Optional[Match]]:
    by_key = {key: c for c in reversed(target) for key in _keys(c)}
    known = {key for c in source for key in _keys(c)}
    for name, goal in extra.items():
        if name not in known:
            raise ValueError(f"--map: the source has no class '{name}'{_nearest(name, known)}")
        if goal is not None and goal not in by_key:
            raise ValueError(f"--map: the target has no class '{goal}'{_nearest(goal, by_key)}")
    matches: List[Optional[Match]] = []
    for c in source:
        key = next((k for k in _keys(c) if k in extra), None)
        goal = None if key is None else extra[key]
        found = None if goal is None else by_key[goal]
        matches.append(None if key is None else Match(found, "map"))
    return matches


def _keys(category: Category) -> List[str]:
    synset = _synset(category)
    return [category["name"]] + ([synset] if synset else [])


def _nearest(name: str, known: Any) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{match[0]}'?)" if match else ""


def _synset(category: Category) -> Optional[str]:
    if category.get("synset"):
        return category["synset"]
    return category["name"] if _SYNSET.fullmatch(category["name"]) else None


def _match_on(
    matches: List[Optional[Match]],
    source: List[Category],
    target: List[Category],
    how: str,
    key_of: Callable[[Category], Optional[str]],
) -> None:
    """Fill in, in place, the matches of equal keys."""
    by_key = defaultdict(list)
    for c in target:
        by_key[key_of(c)].append(c)
    for i, c in enumerate(source):
        key = key_of(c)
        found = by_key.get(key, []) if key is not None else []
        if matches[i] is None and found:
            matches[i] = Match(found[0], how) if len(found) == 1 else _ambiguous(found)


def _match_similar(
    matches: List[Optional[Match]], source: List[Category], target: List[Category]
) -> None:
    taken = {m.target["id"] for m in matches if m is not None and m.target is not None}
    by_key = defaultdict(list)
    for c in target:
        if c["id"] not in taken:
            by_key[_plain(c)].append(c)
    open_sources = Counter(_plain(c) for c, match in zip(source, matches) if match is None)
    for i, c in enumerate(source):
        found = by_key.get(_plain(c), [])
        if matches[i] is None and found:
            is_clear = len(found) == 1 and open_sources[_plain(c)] == 1
            matches[i] = Match(found[0], "similar name") if is_clear else _ambiguous(found)


def _plain(category: Category) -> str:
    return display_name(category["name"]).replace("-", " ").casefold()


def _ambiguous(found: List[Category]) -> Match:
    return Match(None, "ambiguous", tuple(c["name"] for c in found))


def read_extra_map(path: PathLike) -> Dict[str, Optional[str]]:
    """Read the file of ``--map``: a JSON object, source class -> target class or null.

    Raises:
        ValueError: when it is something else; the message names it.
    """
    content = read_json(path)
    is_map = isinstance(content, dict)
    if not is_map or not all(v is None or isinstance(v, str) for v in content.values()):
        raise ValueError(
            f"'{path}' must be a JSON object: source class name -> target class name, or null"
        )
    return content
