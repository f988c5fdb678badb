"""How fast a review page is in Chromium: ``python tests/measure_review_page.py [OBJECTS]``.

Prints JSON.  No test, since the time depends on what else the machine does.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

from review_browser import chromium, made_up_items

from seg_every_thing.annotation.review import write_review

LOADED = "return [...document.querySelectorAll('.tile img')].every(i => i.complete)"

FRAME = """
const done = arguments[arguments.length - 1];
const start = performance.now();
act();
const script = performance.now() - start;
// After the next frame was drawn, a message arrives.
const { port1, port2 } = new MessageChannel();
port1.onmessage = () => done([script, performance.now() - start]);
requestAnimationFrame(() => port2.postMessage(0));
"""


def measure(page: Path) -> Dict[str, Any]:
    """Medians and maxima in milliseconds."""
    with chromium() as browser:
        paints, complete = [], []
        for _ in range(7):
            browser.get("about:blank")
            browser.get(page.as_uri())
            while not browser.execute_script(LOADED):
                time.sleep(0.005)
            complete.append(browser.execute_script("return performance.now()"))
            entry = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            paints.append(browser.execute_script(f"return {entry}"))

        def frames(act: str, repeats: int = 100) -> List[Any]:
            script = f"const act = () => {{ {act} }};" + FRAME
            return [browser.execute_async_script(script) for _ in range(repeats)]

        key = "document.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}))"
        listen = key.replace("document.", "document.body.")
        result = {
            "first paint": summary(paints),
            "all pictures in sight": summary(complete),
            "key accept": both(frames(listen % "a")),
            "key next": both(frames(listen % "n")),
            "key undo": both(frames(listen % "u")),
            "scroll by a screen": both(
                frames("const l = document.getElementById('list'); l.scrollTop += l.clientHeight")
            ),
            "filter": both(
                frames(
                    "const e = document.querySelector('#filters').elements.scoreFrom;"
                    "e.value = Math.random().toFixed(2);"
                    "e.dispatchEvent(new Event('input', { bubbles: true }))"
                )
            ),
        }
        used = "return performance.memory.usedJSHeapSize"
        return {**result, "heap MiB": round(browser.execute_script(used) / 2**20, 1)}


def summary(values: List[float]) -> Dict[str, float]:
    return {"median": round(statistics.median(values), 1), "max": round(max(values), 1)}


def both(values: List[Any]) -> Dict[str, Any]:
    script, frame = zip(*values)
    return {"script": summary(script), "until drawn": summary(frame)}


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        items = list(made_up_items(Path(folder, "images"), count // 10, 10, scale=2))
        start = time.perf_counter(), time.process_time()
        report = write_review(Path(folder, "report"), items, {})
        seconds = time.perf_counter() - start[0], time.process_time() - start[1]
        files = [f for f in report.parent.rglob("*") if f.is_file()]
        written = {
            "objects": count,
            "written in s": round(seconds[0], 1),
            "CPU s": round(seconds[1], 1),
            "files": len(files),
            "MiB": round(sum(f.stat().st_size for f in files) / 2**20, 1),
            "MiB of masks": round(
                sum(f.stat().st_size for f in files if f.parent.name == "masks") / 2**20, 1
            ),
        }
        print(json.dumps({**written, **measure(report)}, indent=1))  # noqa: T201
