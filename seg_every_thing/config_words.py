"""What a config file and overrides say, checked for its form before it is merged."""

import difflib
import re
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

import yaml
from detectron2.config import CfgNode

_BASE = "_BASE_"


def check_file(text: str, path: str) -> None:
    """Check the text of one config file, which may have a base.

    Args:
        text: YAML.
        path: of the file, for messages.

    Raises:
        ValueError: when it holds anything else than keys with values or further keys.
        yaml.YAMLError: when it is no YAML, or asks for Python objects, which could run anything.
    """
    words = yaml.safe_load(text)
    if words is None:
        raise ValueError(f"'{path}' is empty: it needs at least one line 'KEY: value'")
    if not isinstance(words, dict):
        raise ValueError(f"'{path}' holds no 'KEY: value' but a {type(words).__name__}")
    bases = words.pop(_BASE, "")
    if not all(isinstance(base, str) for base in (bases if isinstance(bases, list) else [bases])):
        raise ValueError(f"the {_BASE} of '{path}' is {bases!r}, expected the path of a file")
    for key, _ in _entries(words):
        if not isinstance(key, str):
            raise ValueError(f"'{path}' has the key {key!r}, which is no text")


def check_groups(words: Mapping[str, Any], cfg: CfgNode, prefix: str = "") -> None:
    """Check that a file has keys, and no value, where a config has a group of keys.

    Raises:
        ValueError: naming the group.
    """
    for key, value in words.items():
        group = cfg.get(key)
        if isinstance(group, CfgNode):
            if not isinstance(value, dict):
                raise ValueError(f"{prefix}{key} is {value!r}, {_expected(prefix + key, group)}")
            check_groups(value, group, f"{prefix}{key}.")


def check_overrides(opts: Sequence[Any], cfg: CfgNode) -> None:
    """Check that overrides are pairs of a key and a value.

    Raises:
        ValueError: naming what is left over, the key that there is not, or the group of keys.
    """
    if len(opts) % 2:
        raise ValueError(f"'{opts[-1]}' is left over: give pairs KEY VALUE")
    for key in opts[::2]:
        node: Any = cfg
        for part in str(key).split("."):
            if not isinstance(node, CfgNode) or part not in node:
                raise ValueError(with_near_key(f"Non-existent key: {key}", cfg))
            node = node[part]
        if isinstance(node, CfgNode):
            raise ValueError(f"{key} {_expected(key, node)}")


def check_nothing_is_none(cfg: CfgNode, defaults: CfgNode) -> None:
    """Check that no value has become None; yacs lets it replace a value of any type.

    Raises:
        ValueError: naming the key.
    """
    values = dict(_entries(cfg))
    for key, default in _entries(defaults):
        if default is not None and key in values and values[key] is None:
            raise ValueError(f"{key} is None, expected a value such as {default!r}")


def with_near_key(message: str, cfg: CfgNode) -> str:
    """A message of yacs about a key that there is not, with the key that may be meant."""
    found = re.search(r"Non-existent (?:config )?key: (\S+)", message)
    near = difflib.get_close_matches(found[1], dict(_entries(cfg)), n=1) if found else []
    return f"{message} (did you mean {near[0]}?)" if near else message


def _expected(name: str, group: CfgNode) -> str:
    keys: List[str] = [f"{name}.{key}" for key in group]
    more = ", ..." if len(keys) > 3 else ""
    return f"stands for a group of keys: give {', '.join(keys[:3])}{more} a value"


def _entries(words: Mapping[Any, Any], prefix: str = "") -> Iterator[Tuple[Any, Any]]:
    """All keys, with dots between those of groups, and their values; groups are keys, too."""
    for key, value in words.items():
        name = f"{prefix}{key}" if isinstance(key, str) else key
        yield name, value
        if isinstance(value, dict):  # as a CfgNode is
            yield from _entries(value, f"{name}.")


def flatten(cfg: CfgNode) -> Dict[str, Any]:
    """A config as one dict of dotted keys, without its groups."""
    return {key: value for key, value in _entries(cfg) if not isinstance(value, dict)}
