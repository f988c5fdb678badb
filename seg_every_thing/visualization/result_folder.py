"""Folders of pictures and their page, which the next run replaces as a whole."""

import hashlib
import os
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set

from ..files import PathLike, make_output_dir, printable, write_json, written_atomically

NOTES = ".written.sha256"
_LONGEST = 200  # bytes of a name, so that endings and temporary names fit into 255


class ResultFolder:
    """A folder that holds the files of one run, and may hold others that no run wrote.

    What is written is noted in the hidden file ``.written.sha256``, in the form of sha256sum.  The
    next run removes what is noted there and has not changed since, so that no page shows pictures
    of two runs.  Other files are neither removed nor written over.
    """

    def __init__(self, path: PathLike) -> None:
        """
        Args:
            path: of the folder; nothing is read or written yet.
        """
        self.path = Path(path)
        self._taken: Set[str] = set()  # names, in lower case

    def check(self, names: Sequence[str]) -> None:
        """Make sure that the folder has no other files of these names.

        Raises:
            ValueError: naming the file that nothing here has written.
            OSError: when the folder cannot be read.
        """
        noted = self._noted()
        for name in names:
            if os.path.lexists(self.path / name) and not self._is_ours(name, noted):
                raise ValueError(
                    f"the file '{printable(self.path / name)}' was not written by this command, or "
                    f"was changed since: give another folder, or remove it"
                )

    def clear(self) -> None:
        """Make the folder, or remove what a former run wrote.

        Raises:
            OSError: naming the folder that cannot be written.
        """
        make_output_dir(self.path)
        noted = self._noted()
        for name in noted:
            if self._is_ours(name, noted):
                (self.path / name).unlink()
        (self.path / NOTES).unlink(missing_ok=True)
        self._taken = {path.name.lower() for path in self.path.iterdir()}

    def free_names(self, stem: str, endings: Sequence[str]) -> List[str]:
        """Names of files that are not there yet, also where upper and lower case are the same.

        Args:
            stem: what they begin with; characters that cannot be written everywhere become "_".
            endings: with their dot.

        Returns:
            A name for each ending; they stay reserved.
        """
        stem = "".join(c if c.isprintable() else "_" for c in stem)
        while len(stem.encode()) > _LONGEST:
            stem = stem[:-1]
        names, number = [stem + ending for ending in endings], 1
        while any(name.lower() in self._taken for name in names):
            number += 1
            names = [f"{stem}_{number}{ending}" for ending in endings]
        self._taken.update(name.lower() for name in names)
        return names

    def write(self, name: str, data: bytes) -> None:
        """Write a file and note it.

        Raises:
            OSError: when it cannot be written.
        """
        with written_atomically(self.path / name, "wb") as f:
            f.write(data)
        self.note(name)

    def write_json(self, name: str, content: Any) -> None:
        """As :func:`write` does; strict JSON."""
        write_json(self.path / name, content)
        self.note(name)

    def note(self, name: str) -> None:
        """Note a file that was written, as what a later run may remove.

        Raises:
            OSError: when the folder cannot be written.
        """
        try:
            with open(self.path / NOTES, "a", encoding="utf-8") as f:
                f.write(f"{_digest(self.path / name)}  {name}\n")
        except OSError as e:
            file = printable(self.path / NOTES)
            raise OSError(f"cannot write '{file}': {e.strerror or e}") from e

    def _noted(self) -> Dict[str, str]:
        """Digests by name."""
        try:
            lines = (self.path / NOTES).read_text(encoding="utf-8", errors="replace").splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return {}
        entries = (line.partition("  ") for line in lines)
        return {name: digest for digest, _, name in entries if name == os.path.basename(name)}

    def _is_ours(self, name: str, noted: Dict[str, str]) -> bool:
        path = self.path / name
        return name in noted and path.is_file() and _digest(path) == noted[name]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
