"""The images of a data set, found by the names that annotation files have for them."""

from pathlib import Path
from typing import Dict, List, Optional, Tuple

from ...files import PathLike, printable
from ...visualization.pictures import size_of

ENDINGS = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageFolder:
    """A folder of images."""

    def __init__(self, root: PathLike) -> None:
        """
        Args:
            root: of the folder.

        Raises:
            ValueError: when it does not exist.
        """
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"the image folder '{printable(root)}' does not exist")
        self._by_end: Optional[Dict[str, List[str]]] = None

    def names(self) -> List[str]:
        """All images, relative to the folder, sorted."""
        return sorted(
            path.relative_to(self.root).as_posix()
            for path in self.root.rglob("*")
            if path.suffix.lower() in ENDINGS and path.is_file()
        )

    def find(self, name: str) -> str:
        """The image that a name means: a path in the folder, or one that ends like the name.

        Raises:
            ValueError: when there is none, or several.
        """
        name = name.replace("\\", "/")
        if not name.startswith("/") and ".." not in name and (self.root / name).is_file():
            return Path(name).as_posix()
        if self._by_end is None:
            self._by_end = {}
            for path in self.names():
                self._by_end.setdefault(path.rsplit("/", 1)[-1], []).append(path)
        parts = [part for part in name.split("/") if part not in ("", ".", "..")]
        same_file = self._by_end.get(parts[-1], []) if parts else []
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            fit = [path for path in same_file if f"/{path}".endswith(f"/{end}")]
            if len(fit) > 1:
                raise ValueError(
                    f"the image '{printable(name)}' can be '{printable(fit[0])}' or "
                    f"'{printable(fit[1])}' of '{printable(self.root)}': write more of its path"
                )
            if fit:
                return fit[0]
        raise ValueError(f"the image '{printable(name)}' is not in '{printable(self.root)}'")

    def size(self, name: str) -> Tuple[int, int]:
        """Height and width of an image, turned as its EXIF says.

        Raises:
            FileNotFoundError: when it is missing.
            ValueError: when it cannot be read.
        """
        height, width = size_of(self.root / name)
        return height, width
