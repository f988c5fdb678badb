"""Runs the rows of a study: a detector a seed, its features once, then the rows on top of it."""

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from detectron2.config import CfgNode

from ...config import load_config
from ...files import make_output_dir
from ..definitions.comparison import check_changes
from ..definitions.rows import Row
from ..definitions.suites import Suite
from .done import finished
from .given_boxes import body_cache_name, cache_body, given_boxes_parent, train_given_boxes
from .scheduler import Job, Record, run_jobs
from .stages import (
    cache_features,
    features_complete,
    fingerprint,
    row_fingerprint,
    train_model,
    train_row,
)

logger = logging.getLogger(__name__)

# Iterations of these stages take about so many times as long as those of a cached row.
_WEIGHTS = {
    **{"detector": 2.0, "stage_two": 1.0, "end_to_end": 3.0, "fcn": 1.5, "tiramisu": 3.0},
    **{"reference": 0.1, "given_boxes": 3.0},
}


@dataclass(frozen=True)
class Run:
    """A row trained on a split ("" = without sets A and B) with a seed."""

    row: Row
    split: str
    seed: int

    @property
    def name(self) -> str:
        """Path of its folder below the output folder, and its key in ``results.json``."""
        parts = [self.split, self.row.name] if self.row.has_sets else [self.row.name]
        return "/".join([f"seed{self.seed}", *parts])


class StudyRunner:
    """Trains runs of a suite on this machine; what is complete already is used again."""

    def __init__(
        self,
        suite: Suite,
        output: Path,
        register_data: Callable[[], None],
        overrides: Sequence[str] = (),
    ) -> None:
        """
        Args:
            suite: with a detector to train as stage one, where rows stand on one.
            output: folder for all results.
            register_data: registers the data sets; picklable, as each process calls it.
            overrides: KEY, VALUE, ... on top of every row.
        """
        self.suite = suite
        self.output = make_output_dir(output, utf_8=True)
        self.register_data = register_data
        self.overrides = list(overrides)
        self._fingerprints: Dict[int, str] = {}
        register_data()

    def folder(self, run: Run) -> Path:
        """Where a run's results are."""
        return self.output / run.name

    def config(self, run: Run) -> CfgNode:
        """The complete config of a run."""
        cfg = row_config(self.suite, run, self.overrides)
        cfg.OUTPUT_DIR = str(self.folder(run))
        if run.row.on_detector:
            cfg.MODEL.WEIGHTS = str(self.folder(self.detector(run.seed)) / "model_final.pth")
        return cfg

    def detector(self, seed: int) -> Run:
        """Stage one of a seed."""
        if self.suite.detector is None:
            raise ValueError(f"the suite '{self.suite.name}' trains no detector")
        return Run(self.suite.detector, "", seed)

    def teacher(self, run: Run) -> Optional[Run]:
        """The run whose masks a run of self-training learns from."""
        name = run.row.teacher
        return replace(run, row=self.suite.rows()[name]) if name else None

    def completed(self, run: Run) -> Optional[Record]:
        """The record of a run that is complete, and was made as it would be made now."""
        return finished(self.folder(run), self._fingerprint(run))

    def train(self, runs: Sequence[Run], workers: int) -> Dict[str, Record]:
        """Train runs, and the detectors and teachers that they need.

        Args:
            runs: without detectors.
            workers: how many jobs run at a time, with one thread each
                (``Suite.detector_threads`` for a detector).

        Returns:
            Records by :attr:`Run.name`, detectors and teachers included; a run that failed has
            ``{"error"}``, one that was complete before ``{"reused": True}``.
        """
        runs = self._with_teachers(runs)
        seeds = dict.fromkeys(run.seed for run in runs if run.row.on_detector)
        detectors = [self.detector(seed) for seed in seeds]
        records: Dict[str, Record] = {}
        for run in [*detectors, *runs]:
            record = self.completed(run)
            if record:
                records[run.name] = {**record, "reused": True}
        if records:
            logger.info("Reusing %d results in %s", len(records), self.output)
        jobs = self._jobs(detectors, [run for run in runs if run.name not in records], records)
        if jobs:
            done = run_jobs(jobs, workers, self.register_data)
            wanted = {run.name for run in [*detectors, *runs]}
            records.update({name: r for name, r in done.items() if name in wanted})
        return records

    def _jobs(
        self, detectors: Sequence[Run], runs: Sequence[Run], records: Dict[str, Record]
    ) -> List[Job]:
        """What stands on nothing, detectors first; then, seed by seed, features and rows."""
        alone = [detector for detector in detectors if detector.name not in records]
        alone += [run for run in runs if not run.row.on_detector]
        jobs: List[Job] = []
        for run in alone:
            if run.row.has_sets:
                jobs += self._given_boxes_jobs(run, [job.name for job in jobs])
            else:
                jobs.append(self._job(run, train_model, (self._fresh(run),), ()))
        for detector in detectors:
            mine = [run for run in runs if run.row.on_detector and run.seed == detector.seed]
            stage_two = [run for run in mine if run.row.stage == "stage_two"]
            parent = self._parent(detector.seed)
            cache = self.folder(detector) / f"features_{parent}"
            features = f"{detector.name}/features"
            if stage_two and not features_complete(cache):
                jobs.append(
                    Job(
                        *(features, cache_features, (self.config(stage_two[0]), cache), cache),
                        needs=(detector.name,),
                        threads=self.suite.detector_threads,
                    )
                )
            for run in mine:
                cached = run.row.stage == "stage_two"
                arguments = (self._fresh(run), cache if cached else None, parent)
                jobs.append(
                    self._job(run, train_row, arguments, (features if cached else detector.name,))
                )
        return jobs

    def _given_boxes_jobs(self, run: Run, planned: Sequence[str]) -> List[Job]:
        """A row, and before it the features of its body, unless they are there or planned."""
        cfg, other = self._fresh(run), self.teacher(run)
        teacher = (self.folder(other), self._fingerprint(other)) if other else None
        needs = [other.name] if other else []
        if not (run.row.learns and cfg.MODEL.FREEZE_DETECTOR):
            return [self._job(run, train_given_boxes, (cfg, run.row, None, teacher), needs)]
        name = body_cache_name(cfg)
        cache = self.output / name
        arguments = (cfg, run.row, cache, teacher)
        row = self._job(run, train_given_boxes, arguments, [name, *needs])
        if name in planned or features_complete(cache):
            return [row]
        return [Job(name, cache_body, (cfg, cache), cache), row]

    def _job(
        self,
        run: Run,
        function: Callable[..., Record],
        arguments: Tuple[Any, ...],
        needs: Sequence[str],
    ) -> Job:
        return Job(
            *(run.name, function, arguments, self.folder(run), tuple(needs)),
            iterations=arguments[0].SOLVER.MAX_ITER if run.row.learns else 0,
            weight=_WEIGHTS[run.row.stage],
            threads=self.suite.detector_threads if run.row.stage == "detector" else 1,
        )

    def _fresh(self, run: Run) -> CfgNode:
        """The config of a run whose folder holds nothing that an interrupted run left behind."""
        folder = self.folder(run)
        if folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return self.config(run)

    def _with_teachers(self, runs: Sequence[Run]) -> List[Run]:
        """Runs, each after the teachers that it needs."""
        found: Dict[str, Run] = {}
        for run in runs:
            chain = [run]
            while (teacher := self.teacher(chain[-1])) and not self.completed(chain[-1]):
                chain.append(teacher)
            found.update((link.name, link) for link in reversed(chain))
        return list(found.values())

    def _fingerprint(self, run: Run) -> str:
        """That of the record of a run, if it is made now."""
        cfg, teacher = self.config(run), self.teacher(run)
        if run.row.on_detector:
            return row_fingerprint(cfg, self._parent(run.seed))
        if run.row.has_sets:
            known = self._fingerprint(teacher) if teacher else ""
            return row_fingerprint(cfg, given_boxes_parent(run.row, known))
        return fingerprint(cfg)

    def _parent(self, seed: int) -> str:
        if seed not in self._fingerprints:
            self._fingerprints[seed] = fingerprint(self.config(self.detector(seed)))
        return self._fingerprints[seed]


def row_config(suite: Suite, run: Run, overrides: Sequence[str]) -> CfgNode:
    """Base config, row, overrides for every row, and seed; weights and output are not set."""
    options = [*row_options(suite, run), *overrides, "SEED", str(run.seed)]
    return load_config(suite.bases[run.row.stage], options)


def row_differences(suite: Suite, run: Run, overrides: Sequence[str]) -> Dict[str, Any]:
    """Key -> [value of the baseline, value of this row], checked against what is declared.

    Raises:
        ValueError: when a row differs from its baseline in more or less than it declares.
    """
    baseline = suite.rows().get(run.row.baseline)
    if baseline is None:
        return {}
    other = Run(baseline, run.split, run.seed)
    return check_changes(
        run.row, row_config(suite, run, overrides), row_config(suite, other, overrides)
    )


def row_options(suite: Suite, run: Run) -> List[str]:
    """KEY, VALUE, ... of a run on top of its suite's base config, its seed aside."""
    placeholders = {"{seed}": str(run.seed), "{suite}": suite.name}
    options = []
    for key, value in run.row.overrides:
        text = str(value)
        for placeholder, meaning in placeholders.items():
            text = text.replace(placeholder, meaning)
        options += [key, text]
    if not run.row.has_sets:
        return options
    mask_classes = run.row.mask_classes or run.split
    return [*options, "DATASETS.MASK_CLASSES", mask_classes, "TEST.CLASS_SPLIT", run.split]
