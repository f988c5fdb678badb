"""Time and memory of ``prepare-vg`` beside ``json.load`` of the same file, on made-up files."""

import json
import logging
import os
import platform
import tempfile
import time
from functools import partial
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any, Callable, Dict, List, Optional, Tuple

from .. import __version__
from ..data.prepare.vg_prepare import prepare_visual_genome
from ..files import PathLike, write_text, written_atomically
from ..leftovers import temporary_folder
from .measuring import FreshProcess, OutOfMemoryError, peak_resident, processor_name

logger = logging.getLogger(__name__)

FULL_SIZE = 108_077
"""Images of Visual Genome."""

_URL = "https://cs.stanford.edu/people/rak248/VG_100K_2/"
_COCO_SHARE = 0.47  # of Visual Genome's images


def write_vg_like_files(
    folder: PathLike,
    num_images: int,
    *,
    objects_per_image: int = 35,
    num_synsets: int = 8000,
    seed: int = 0,
) -> Tuple[Path, Path]:
    """Write files shaped like Visual Genome's, of any size in little memory.

    Frequencies fall as those of words do.  Some objects have no synset or two, some boxes leave
    their image.

    Args:
        folder: where to.
        num_images, objects_per_image, num_synsets: sizes.
        seed: decides everything.

    Returns:
        Paths of image_data.json and objects.json.
    """
    folder, rng = Path(folder), Random(seed)
    synsets = [f"thing_{i}.n.{1 + i % 3:02d}" for i in range(num_synsets)]
    weights = list(accumulate(1 / (i + 3) for i in range(num_synsets)))
    paths = folder / "image_data.json", folder / "objects.json"
    with written_atomically(paths[0]) as image_data, written_atomically(paths[1]) as objects:
        for i in range(1, num_images + 1):
            coco_id = i if rng.random() < _COCO_SHARE else None
            image = {"width": 800, "url": f"{_URL}{i}.jpg", "height": 600, "image_id": i}
            image.update(coco_id=coco_id, flickr_id=None)
            drawn = rng.choices(synsets, cum_weights=weights, k=objects_per_image)
            first_id = 1_000_000 + i * objects_per_image
            record = {
                "image_id": i,
                "objects": [_object(rng, s, first_id + j) for j, s in enumerate(drawn)],
                "image_url": f"{_URL}{i}.jpg",
            }
            before = ", " if i > 1 else "["
            image_data.write(before + json.dumps(image))
            objects.write(before + json.dumps(record))
        image_data.write("]")
        objects.write("]")
    return paths


def _object(rng: Random, synset: str, object_id: int) -> Dict[str, Any]:
    chance = rng.random()
    synsets = [] if chance < 0.04 else [synset, "thing_0.n.01"] if chance > 0.98 else [synset]
    return {
        "synsets": synsets,
        "h": rng.randint(5, 300),
        "object_id": object_id,
        "merged_object_ids": [object_id + 10_000_000] if chance > 0.9 else [],
        "names": [synset[:-5]],
        "w": rng.randint(5, 300),
        "y": rng.randint(0, 500),
        "x": rng.randint(0, 700),
    }


class _Task:
    """Something to do once, measured."""

    def __init__(self, folder: str, kind: str) -> None:
        self._folder, self._kind = Path(folder), kind

    def measure(self) -> Dict[str, Any]:
        run: Callable[[], Any] = self._prepare if self._kind == "ours" else self._load
        times: List[float] = []

        def timed() -> None:
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            times.extend((time.perf_counter() - start, time.process_time() - cpu_start))

        peak: Optional[int] = peak_resident(timed)
        if peak is None:  # this system does not tell
            timed()
        return {"seconds": times[0], "cpu_seconds": times[1], "peak_bytes": peak}

    def _prepare(self) -> None:
        coco_ids = self._folder / "coco_val_ids.txt"
        prepare_visual_genome(
            self._folder / "image_data.json",
            self._folder / "objects.json",
            self._folder / "output",
            coco_annotations=coco_ids,
        )

    def _load(self) -> Any:
        with open(self._folder / "objects.json", encoding="utf-8") as f:
            return json.load(f)


def run_prepare_vg_benchmark(
    num_images: int = FULL_SIZE, *, repeats: int = 1, folder: Optional[PathLike] = None
) -> Dict[str, Any]:
    """Measure ``prepare-vg`` and ``json.load`` of its objects.json, each in a fresh process.

    Args:
        num_images: size of the made-up files; about 5 KB an image, and as much for the output.
        repeats: runs of each, taking turns; the fastest counts.
        folder: where the files are made, and removed again; default the system's temporary folder.

    Returns:
        ``{"rows", "versions", "processor"}``.  A row has ``name`` ("prepare-vg" or "json.load"),
        ``num_images``, ``file_bytes``, ``seconds`` and ``cpu_seconds`` of the fastest run, and
        ``peak_bytes``, the most by which the process grew (None except on Linux); or ``skipped``,
        why nothing was measured.

    Raises:
        ValueError: for numbers that are not positive.
    """
    if num_images < 1 or repeats < 1:
        raise ValueError(f"num_images and repeats must be positive: {num_images}, {repeats}")
    beside = Path(folder or tempfile.gettempdir(), "prepare-vg")
    with temporary_folder(beside) as place:
        logger.info("writing files of %d images to '%s'", num_images, place)
        _, objects = write_vg_like_files(place, num_images)
        val_ids = "".join(f"{i}\n" for i in range(1, num_images + 1, 20))
        write_text(Path(place, "coco_val_ids.txt"), val_ids)
        common = {"num_images": num_images, "file_bytes": os.path.getsize(objects)}
        names = {"ours": "prepare-vg", "load": "json.load"}
        rows: Dict[str, Dict[str, Any]] = {
            kind: {"name": name, **common} for kind, name in names.items()
        }
        for _ in range(repeats):
            for kind, row in rows.items():
                logger.info("measuring %s", row["name"])
                _keep_fastest(row, _measured(str(place), kind))
    return {
        "rows": list(rows.values()),
        "versions": {"python": platform.python_version(), "seg_every_thing": __version__},
        "processor": processor_name("cpu"),
    }


def _measured(place: str, kind: str) -> Dict[str, Any]:
    process = FreshProcess(partial(_Task, place, kind))
    try:
        return process.ask("measure")
    except OutOfMemoryError as e:
        return {"skipped": str(e)}
    finally:
        process.close()


def _keep_fastest(row: Dict[str, Any], run: Dict[str, Any]) -> None:
    if "skipped" in run or run["seconds"] < row.get("seconds", float("inf")):
        row.update(run)
