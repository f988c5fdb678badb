"""Runs the rows of a study: one detector, its features once, then the rows, side by side."""

import json
import logging
import multiprocessing
import os
import shutil
import threading
import time
import traceback
from concurrent.futures import Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any, Callable, Dict, Sequence

import torch
from detectron2.config import CfgNode

from ..cli.common import load_config
from ..files import make_output_dir
from .feature_cache import FeatureCache
from .rows import CONFIGS, Row
from .stages import cache_features, fingerprint, finished, train_detector, train_row

logger = logging.getLogger(__name__)

Record = Dict[str, Any]

_POLL_SECONDS = 15


class StudyRunner:
    """Trains the rows of a study for one seed; what is complete already is used again."""

    def __init__(
        self,
        output: Path,
        seed: int,
        register_data: Callable[[], None],
        overrides: Sequence[str] = (),
    ) -> None:
        """
        Args:
            output: folder for all results.
            seed: of training; the data stay the same.
            register_data: registers the data sets; picklable, as each process calls it.
            overrides: KEY, VALUE, ... on top of every row.
        """
        self.output = make_output_dir(output)
        self.seed = seed
        self.register_data = register_data
        self.overrides = list(overrides)
        register_data()

    def config(self, row: Row, detector: str = "") -> CfgNode:
        """The complete config of a row; ``detector`` names the weights of stage one."""
        options = [*row.overrides, *self.overrides, "SEED", str(self.seed)]
        cfg = load_config(str(CONFIGS / row.config), options)
        cfg.OUTPUT_DIR = str(self.output / f"seed{self.seed}" / row.name)
        cfg.MODEL.WEIGHTS = detector
        os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
        return cfg

    def run_detector(self, row: Row) -> Record:
        """Stage one, on all cores."""
        cfg = self.config(row)
        record = finished(Path(cfg.OUTPUT_DIR), fingerprint(cfg))
        if record:
            logger.info("%s: reusing the result in %s", row.title, cfg.OUTPUT_DIR)
            return {**record, "reused": True}
        logger.info("Stage one: training the detector (%s)", row.title)
        return train_detector(cfg)

    def run_rows(self, detector: Row, rows: Sequence[Row], jobs: int) -> Dict[str, Record]:
        """Stage two, ``jobs`` rows at a time with one thread each.

        Returns:
            Records by row name; a row that failed has ``{"error": its last line}``.
        """
        parent = fingerprint(self.config(detector))
        detector_dir = Path(self.config(detector).OUTPUT_DIR)
        configs = {
            row.name: self.config(row, str(detector_dir / "model_final.pth")) for row in rows
        }
        records: Dict[str, Record] = {}
        for row in rows:
            cfg = configs[row.name]
            record = finished(Path(cfg.OUTPUT_DIR), fingerprint(cfg, parent))
            if record:
                logger.info("%s: reusing the result in %s", row.title, cfg.OUTPUT_DIR)
                records[row.name] = {**record, "reused": True}
        waiting = [row for row in rows if row.name not in records]
        if not waiting:
            return records
        for row in waiting:  # what an interrupted run left would be appended to
            shutil.rmtree(configs[row.name].OUTPUT_DIR)
            os.makedirs(configs[row.name].OUTPUT_DIR)
        cache = detector_dir / f"features_{parent}"
        if not FeatureCache.is_complete(cache):
            cache_features(configs[waiting[0].name], cache)
        work = [(configs[r.name], str(cache), parent, self.register_data) for r in waiting]
        records.update(_run_parallel(_train_row_process, waiting, work, jobs))
        return records


def _run_parallel(
    function: Callable[..., Record], rows: Sequence[Row], work: Sequence[Any], jobs: int
) -> Dict[str, Record]:
    """Run rows in processes of their own, reporting progress until the last is done."""
    start = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(jobs, len(rows)), context, initializer=_end_with_parent, initargs=(os.getpid(),)
    )
    with pool:
        futures = {row.name: pool.submit(function, *item) for row, item in zip(rows, work)}
        configs = {row.name: item[0] for row, item in zip(rows, work)}
        while wait(futures.values(), timeout=_POLL_SECONDS).not_done:
            _log_progress(futures, configs, time.perf_counter() - start)
        return {name: future.result() for name, future in futures.items()}


def _train_row_process(
    cfg: CfgNode, cache: str, parent: str, register_data: Callable[[], None]
) -> Record:
    """One row in its own process; an error is its result, so that it does not end the others."""
    torch.set_num_threads(1)
    _log_to_file_only(cfg.OUTPUT_DIR)
    register_data()
    try:
        return train_row(cfg, Path(cache), parent)
    except Exception as e:
        logger.error("failed:\n%s", traceback.format_exc())
        return {"error": f"{type(e).__name__}: {e} (see {cfg.OUTPUT_DIR}/log.txt)"}


def _end_with_parent(parent: int) -> None:
    """A killed study must not leave rows behind that go on training."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _log_to_file_only(folder: str) -> None:
    """Rows that run side by side write to their files; on the console they would interleave."""
    for name in ("detectron2", "fvcore", "seg_every_thing"):
        log = logging.getLogger(name)
        handler = logging.FileHandler(os.path.join(folder, "log.txt"))
        handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s]: %(message)s"))
        log.handlers, log.propagate = [handler], False
        log.setLevel(logging.INFO)


def _last_iteration(cfg: CfgNode) -> int:
    path = Path(cfg.OUTPUT_DIR) / "metrics.json"
    if not path.is_file():
        return 0
    lines = path.read_text().splitlines()
    try:
        return int(json.loads(lines[-1])["iteration"]) + 1 if lines else 0
    except (ValueError, KeyError):  # the line is being written
        return 0


def _log_progress(
    futures: Dict[str, "Future[Record]"], configs: Dict[str, CfgNode], elapsed: float
) -> None:
    done, total, parts = 0, 0, []
    for name, future in futures.items():
        iterations = configs[name].SOLVER.MAX_ITER
        at = iterations if future.done() else min(_last_iteration(configs[name]), iterations)
        done, total = done + at, total + iterations
        parts.append(f"{name} {at}/{iterations}")
    remaining = f"{elapsed / done * (total - done):.0f} s" if done else "unknown"
    logger.info("Stage two: %s; ETA %s", ", ".join(parts), remaining)
