"""How much memory a run of annotate takes, with a stub in the place of a model.

OMP_NUM_THREADS=1 PYTHONPATH=.:tests python tests/measure_annotate_memory.py 1000 100000
"""

import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

from annotating import CATEGORIES, HEIGHT, WIDTH, masks_are_ellipses, options_for, write_data

from seg_every_thing.annotation.annotator import annotate_file
from seg_every_thing.data.json_stream import MemberWriter, encode


def write_many(folder: Path, images: int) -> Path:
    """A COCO file of so many images with two objects each, all of them in one picture file."""
    path = write_data(folder, [[]])
    with path.open("w") as f:
        writer = MemberWriter(f)
        writer.start_list("images")
        size = {"file_name": "1.png", "height": HEIGHT, "width": WIDTH}
        for i in range(images):
            writer.extend([encode({"id": i, **size})])
        writer.start_list("annotations")
        # Two passes over the images, so that an image's objects are far apart in the file.
        for i in range(2 * images):
            place = {"image_id": i % images, "category_id": 3, "bbox": [9, 8, 30, 20]}
            writer.extend([encode({"id": i, **place})])
        writer.put("categories", CATEGORIES)
        writer.finish()
    return path


def measure(*images: int) -> List[Dict[str, Any]]:
    """Peak memory of processes of their own that annotate so many images."""
    done = subprocess.run(
        [sys.executable, __file__, "--run", *map(str, images)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def _run(images: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_many(Path(folder) / "data", images)
        start = time.perf_counter()
        report = annotate_file(options_for(path), masks_are_ellipses)
        found = {
            "images": images,
            "masks": report["masks"]["made"],
            "seconds": round(time.perf_counter() - start, 1),
            "peak_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--run":
        for count in map(int, sys.argv[2:]):  # each begins with what the imports take
            process = multiprocessing.get_context("fork").Process(target=_run, args=(count,))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(process.exitcode)
    else:
        for found in measure(*map(int, sys.argv[1:])):
            sys.stdout.write(f"{found}\n")
