"""The configs of the project by name, in a checkout and where the package is installed."""

import contextlib
import difflib
import io
import os
from pathlib import Path
from typing import IO, Any, Callable, Dict, Iterator
from unittest import mock

from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager

from .config_words import check_file

_PACKAGE = Path(__file__).resolve().parent
# A wheel carries configs/ inside the package; in a checkout it stands beside it.
CONFIGS = next(
    (f for f in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if f.is_dir()),
    _PACKAGE / "configs",
)


def config_files() -> Dict[str, Path]:
    """Name ("coco/maskx_R_50_FPN_1x.yaml") -> file, for every config of the project."""
    return {p.relative_to(CONFIGS).as_posix(): p for p in sorted(CONFIGS.rglob("*.yaml"))}


def get_config_file(config_path: str) -> str:
    """The path of a config of the project, as ``detectron2.model_zoo.get_config_file`` does.

    Args:
        config_path: name such as ``"coco/maskx_R_50_FPN_1x.yaml"``.

    Raises:
        ValueError: for an unknown name; the message has those that are near.
    """
    files = config_files()
    if config_path in files:
        return str(files[config_path])
    near = difflib.get_close_matches(config_path, files, n=3, cutoff=0.5)
    folders = sorted({f"{name.rpartition('/')[0]}/" for name in files})
    raise ValueError(
        f"no config '{config_path}' in the model zoo ("
        + (f"near: {', '.join(near)}" if near else f"it has: {', '.join(folders)}")
        + ")"
    )


def get_config(config_path: str) -> CfgNode:
    """A config of the project, complete with detectron2's defaults and ours.

    It is what every command reads: see :func:`seg_every_thing.config.load_config`.

    Args:
        config_path: name such as ``"coco/maskx_R_50_FPN_1x.yaml"``.

    Raises:
        ValueError: for an unknown name; the message has those that are near.
    """
    from .config import load_config  # which looks names up here

    return load_config(get_config_file(config_path))


def find_config_file(path_or_name: str) -> str:
    """The path of a config file that is there, else of the project's config of that name.

    Raises:
        ValueError: when there is neither.
    """
    if os.path.isfile(path_or_name):
        return path_or_name
    try:
        return get_config_file(path_or_name)
    except ValueError as e:
        raise ValueError(f"the config file '{path_or_name}' does not exist, and {e}") from e


@contextlib.contextmanager
def bases_from_the_zoo(config_file: str) -> Iterator[None]:
    """Let a config file name a config of the project as its ``_BASE_``.

    detectron2 looks for a base beside the file that names it.  What is not there is looked up by
    the rest of its path, under which the project's configs find their own bases, too.
    """
    with _opening_bases(config_file, lambda path: PathManager.open(path, "r")):
        yield


def own_words(config_file: str) -> Dict[str, Any]:
    """What a config file says, and its bases as far as they are not the project's."""

    def read(path: str) -> IO[Any]:
        ours = CONFIGS.resolve() in Path(path).resolve().parents
        return io.StringIO("{}") if ours else PathManager.open(path, "r")

    with _opening_bases(config_file, read):
        return CfgNode.load_yaml_with_base(config_file)


@contextlib.contextmanager
def _opening_bases(config_file: str, read: Callable[[str], IO[Any]]) -> Iterator[None]:
    folder = os.path.dirname(config_file) or "."

    def open_config(filename: str) -> IO[Any]:
        if not PathManager.isfile(filename):
            try:
                filename = get_config_file(Path(os.path.relpath(filename, folder)).as_posix())
            except ValueError as e:
                raise ValueError(f"the _BASE_ '{filename}' does not exist, and {e}") from e
        with read(filename) as f:
            text = f.read()
        check_file(text, filename)
        return io.StringIO(text)

    with mock.patch.object(CfgNode, "_open_cfg", staticmethod(open_config)):
        yield
