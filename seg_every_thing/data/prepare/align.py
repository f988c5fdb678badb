"""Rewrite one data set's annotations into the classes of another."""

import difflib
import logging
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from ...files import PathLike, check_targets, read_json, write_json, written_atomically
from ..datasets.vg_classes import display_name
from ..json_stream import MemberWriter, encode, iter_members

logger = logging.getLogger(__name__)

Category = Dict[str, Any]

_BATCH = 1000  # annotations written at a time
_ID_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")  # of LVIS's images
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


def align(
    source: PathLike,
    target: PathLike,
    output: PathLike,
    *,
    by: str = "name",
    extra: Optional[Mapping[str, Optional[str]]] = None,
    report: Optional[PathLike] = None,
) -> Dict[str, Any]:
    """Write the source's images and annotations with the target's categories.

    All images stay; annotations of classes without a match are left out.  Memory does not grow
    with the number of annotations.

    Args:
        source, target: COCO-format files (COCO, LVIS, Objects365, Visual Genome, ...).
        output: the file to write, with all the target's categories.
        by, extra: see :func:`match_categories`.
        report: where the report goes; default :func:`default_report`.

    Returns:
        The report: ``matched``, ``unmatched`` and ``ambiguous`` classes with their numbers of
        annotations, ``targets_without_source``, and totals.

    Raises:
        ValueError: for broken files, when no class matches at all, or when a file would be written
            over.
        OSError: when the output cannot be written.
    """
    output = Path(output)
    if report is None:
        report = default_report(output)
    check_targets([source, target], [output, report])
    categories, new_categories = _read_categories(source), _read_categories(target)
    matches = match_categories(categories, new_categories, by, extra)
    new_id = {c["id"]: m.target["id"] for c, m in zip(categories, matches) if m.target is not None}
    if not new_id:
        raise ValueError(
            f"no class of '{source}' has a match in '{target}' by {by} (source classes: "
            f"{_first_names(categories)}; target classes: {_first_names(new_categories)}): try "
            f"the other --by, or give --map"
        )
    counts: Counter[int] = Counter()
    images = 0
    missing = ["images", "annotations"]
    rest: Dict[str, Any] = {}
    with written_atomically(output) as f:
        writer = MemberWriter(f)
        writer.put("categories", new_categories)
        for key, batch in _batches(source, rest):
            if writer.open_list != key:
                writer.start_list(key)
                missing.remove(key)
            if key == "images":
                images += len(batch)
                writer.extend(encode(_aligned_image(image, new_id)) for image in batch)
            else:
                writer.extend(_aligned(batch, new_id, counts, source))
        for key, value in (*rest.items(), *((key, []) for key in missing)):
            writer.put(key, value)
        writer.finish()
    content = _report(categories, new_categories, matches, counts)
    content["images"] = images
    write_json(report, content)
    _log(content, source, report)
    return content


def default_report(output: PathLike) -> Path:
    """Beside an output ``<name>.json`` the file ``<name>_report.json``."""
    output = Path(output)
    return output.with_name(f"{output.stem}_report.json")


def _read_categories(path: PathLike) -> List[Category]:
    categories = []
    for key, value in iter_members(path, "categories"):
        if key == "categories":
            is_category = isinstance(value, dict) and isinstance(value.get("name"), str)
            if not is_category or type(value.get("id")) is not int:
                raise ValueError(f"'{path}', category {str(value)[:60]}: it needs an id and a name")
            categories.append(value)
        elif categories:
            break  # what takes long may come after them
    if not categories:
        raise ValueError(f"'{path}' has no categories: it is not a COCO-format file")
    repeated = [i for i, n in Counter(c["id"] for c in categories).items() if n > 1]
    if repeated:
        raise ValueError(f"'{path}' has several categories with the id {repeated[0]}")
    return categories


def _batches(path: PathLike, rest: Dict[str, Any]) -> Iterator[Tuple[str, List[Any]]]:
    """Images and annotations, some at a time; all other members, but categories, go to ``rest``."""
    batch: List[Any] = []
    batch_key = ""
    for key, value in iter_members(path, "aligning"):
        if key in ("images", "annotations"):
            if batch and (key != batch_key or len(batch) == _BATCH):
                yield batch_key, batch
                batch = []
            batch_key = key
            batch.append(value)
        elif key != "categories":
            rest[key] = value
    if batch:
        yield batch_key, batch


def _aligned_image(image: Any, new_id: Mapping[int, int]) -> Any:
    for key in _ID_LISTS:
        if isinstance(image, dict) and key in image:
            image[key] = sorted({new_id[i] for i in image[key] if i in new_id})
    return image


def _aligned(
    batch: List[Any], new_id: Mapping[int, int], counts: "Counter[int]", path: PathLike
) -> Iterator[str]:
    for annotation in batch:
        try:
            category_id = annotation["category_id"]
            counts[category_id] += 1
            if category_id in new_id:
                yield encode({**annotation, "category_id": new_id[category_id]})
        except (KeyError, TypeError, ValueError) as e:
            reason = f"the key {e} is missing" if isinstance(e, KeyError) else str(e)
            raise ValueError(f"'{path}', annotation {str(annotation)[:60]}: {reason}") from e


def _report(
    source: List[Category], target: List[Category], matches: List[Match], counts: "Counter[int]"
) -> Dict[str, Any]:
    content: Dict[str, Any] = {"matched": [], "unmatched": [], "ambiguous": []}
    reached = set()
    kept = 0
    for c, match in zip(source, matches):
        row = {"source": c["name"], "annotations": counts[c["id"]], "how": match.how}
        if match.target is not None:
            row["target"] = match.target["name"]
            reached.add(match.target["id"])
            kept += counts[c["id"]]
            content["matched"].append(row)
        elif match.candidates:
            content["ambiguous"].append({**row, "candidates": list(match.candidates)})
        else:
            content["unmatched"].append(row)
    content["targets_without_source"] = [c["name"] for c in target if c["id"] not in reached]
    content["annotations"] = {"kept": kept, "left_out": sum(counts.values()) - kept}
    return content


def _log(content: Dict[str, Any], source: PathLike, report: PathLike) -> None:
    lost = content["unmatched"] + content["ambiguous"]
    logger.info(
        "%d of %d classes of '%s' have a match; %d annotations kept, %d left out; details in '%s'",
        *(len(content["matched"]), len(content["matched"]) + len(lost), source),
        *content["annotations"].values(),
        report,
    )
    lost = sorted((row for row in lost if row["annotations"]), key=lambda row: -row["annotations"])
    if lost:
        rows = ", ".join(f"{row['source']} ({row['annotations']})" for row in lost[:20])
        more = f" and {len(lost) - 20} more" if len(lost) > 20 else ""
        logger.warning("Classes left out, with their annotations: %s%s", rows, more)


def _first_names(categories: List[Category]) -> str:
    return ", ".join(c["name"] for c in categories[:3])


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
