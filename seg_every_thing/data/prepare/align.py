"""Rewrite one data set's annotations into the classes of another."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from ...files import PathLike, check_targets, write_json, written_atomically
from ..json_stream import MemberWriter, encode, iter_members
from .class_matching import Category, Match, match_categories
from .image_names import ImageNames

logger = logging.getLogger(__name__)

_BATCH = 1000  # annotations written at a time
_ID_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")  # of LVIS's images


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

    All images stay; those without a ``file_name``, as LVIS's, get it from their ``coco_url``, see
    :class:`ImageNames`.  Annotations of classes without a match are left out.  Memory does not grow
    with their number.

    Args:
        source, target: COCO-format files (COCO, LVIS, Objects365, Visual Genome, ...).
        output: the file to write, with all the target's categories.
        by, extra: see :func:`match_categories`.
        report: where the report goes; default :func:`default_report`.

    Returns:
        The report: ``matched``, ``unmatched`` and ``ambiguous`` classes with their numbers of
        annotations, ``targets_without_source``, totals, and the ``image_folder`` of names that come
        from URLs.

    Raises:
        ValueError: for broken files, when no class matches at all, or when a file would be written
            over.
        OSError: when the output cannot be written.
    """
    output = Path(output)
    if report is None:
        report = default_report(output)
    check_targets([source, target], [output, report])
    names = ImageNames(source)
    categories, new_categories = _read_categories(source, names), _read_categories(target)
    matches = match_categories(categories, new_categories, by, extra)
    new_id = {c["id"]: m.target["id"] for c, m in zip(categories, matches) if m.target is not None}
    unclear = next((m.candidates for m in matches if m.candidates), None)
    if not new_id and unclear is not None:
        raise ValueError(
            f"no class of '{source}' has a match in '{target}' by {by}: several of its classes fit "
            f"equally well ({', '.join(unclear)}): make their names unique, or give --map"
        )
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
                writer.extend(encode(_aligned_image(image, new_id, names)) for image in batch)
            else:
                writer.extend(_aligned(batch, new_id, counts, source))
        for key, value in (*rest.items(), *((key, []) for key in missing)):
            writer.put(key, value)
        writer.finish()
    content = _report(categories, new_categories, matches, counts)
    content["images"] = images
    if names.folder is not None:
        content["image_folder"] = names.folder
    write_json(report, content)
    _log(content, source, report)
    return content


def default_report(output: PathLike) -> Path:
    """Beside an output ``<name>.json`` the file ``<name>_report.json``."""
    output = Path(output)
    return output.with_name(f"{output.stem}_report.json")


def _read_categories(path: PathLike, names: Optional[ImageNames] = None) -> List[Category]:
    """The categories of a file; ``names`` gets to see its images."""
    categories = []
    no_image_yet = names is not None
    for key, value in iter_members(path, "categories"):
        if key == "categories":
            is_category = isinstance(value, dict) and isinstance(value.get("name"), str)
            if not is_category or type(value.get("id")) is not int:
                raise ValueError(f"'{path}', category {str(value)[:60]}: it needs an id and a name")
            for word in ("synset", "coco_name"):
                if not isinstance(value.get(word) or "", str):
                    raise ValueError(
                        f"'{path}', category '{value['name']}': its {word} is {value[word]}, which "
                        f"is no text"
                    )
            categories.append(value)
        elif key == "images" and names is not None:
            names.see(value)
            no_image_yet = False
        elif categories and not no_image_yet:
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


def _aligned_image(
    image: Dict[str, Any], new_id: Mapping[int, int], names: ImageNames
) -> Dict[str, Any]:
    image = {**image, "file_name": names.name_of(image)}
    for key in _ID_LISTS:
        if isinstance(image.get(key), list):
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
    if "image_folder" in content:
        logger.info(
            "Images have no file_name: it is taken from coco_url, as a path below '%s'; register "
            "that folder as the image root",
            content["image_folder"] or "/",
        )
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
