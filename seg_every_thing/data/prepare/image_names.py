"""File names of images that are known by a URL alone, as LVIS's are."""

import os
from typing import Any, Dict, NoReturn, Optional, Tuple
from urllib.parse import unquote, urlsplit

from ...files import PathLike


class ImageNames:
    """File names of a file's images: their ``file_name``, or what their ``coco_url`` says.

    LVIS v1 names ``http://images.cocodataset.org/train2017/000000391895.jpg`` and no file.  Names
    are relative to the folder that all such images share: 000000391895.jpg below ``train2017``, as
    in COCO's own files; where a file has images of several folders, as lvis_v1_val.json has,
    train2017/000000391895.jpg below the folder of both.  All images are to be seen before the first
    is named.
    """

    def __init__(self, source: PathLike) -> None:
        """
        Args:
            source: of the images, for messages.
        """
        self._source = source
        self._parents: Optional[Tuple[str, ...]] = None
        self._seen: Dict[Tuple[str, ...], Any] = {}  # path -> id

    @property
    def folder(self) -> Optional[str]:
        """What the URLs have in common ("" = no folder), None when none was needed."""
        return None if self._parents is None else "/".join(self._parents)

    def see(self, image: Any) -> None:
        """Take note of an image.

        Raises:
            ValueError: when it has neither a file name nor a URL that ends in one, or the URL of
                another image; the message names it.
        """
        if self._has_name(image):
            return
        path = self._path_of(image)
        if path in self._seen:
            self._fail(image, f"its coco_url names the file of image {self._seen[path]}")
        self._seen[path] = image.get("id")
        parents = [path[:-1], path[:-1] if self._parents is None else self._parents]
        self._parents = tuple(os.path.commonprefix(parents))

    def name_of(self, image: Dict[str, Any]) -> str:
        """The file name of an image that was seen."""
        if self._has_name(image):
            return image["file_name"]
        return "/".join(self._path_of(image)[len(self._parents or ()) :])

    def _has_name(self, image: Any) -> bool:
        if not isinstance(image, dict):
            raise ValueError(f"'{self._source}', image {str(image)[:60]}: it is no JSON object")
        name = image.get("file_name")
        if name is not None and (not isinstance(name, str) or not name):
            self._fail(image, f"its file_name is {name!r:.60}, not a name")
        return name is not None

    def _path_of(self, image: Dict[str, Any]) -> Tuple[str, ...]:
        """Folders and file of its URL."""
        url = image.get("coco_url")
        if url is None:
            self._fail(image, "it has neither a file_name nor a coco_url, which tells it for LVIS")
        if not isinstance(url, str):
            self._fail(image, f"its coco_url is {url!r:.60}, not a URL")
        try:
            path = unquote(urlsplit(url.strip().replace("\\", "/")).path)
        except ValueError:  # such as "http://[1/2.jpg"
            path = ""
        parts = tuple(part for part in path.split("/") if part not in ("", "."))
        if not parts or ".." in parts or "." not in parts[-1] or path.endswith("/"):
            self._fail(image, f"its coco_url '{url[:200]}' does not end in the name of a file")
        return parts

    def _fail(self, image: Dict[str, Any], reason: str) -> NoReturn:
        raise ValueError(f"'{self._source}', image {image.get('id')}: {reason}")
