"""detectron2's training loader, able to go on where another one was, bit for bit.

The endless stream of samples is numbered.  What a loader still needs from the past is little: the
number that comes next, those that wait for a batch of their aspect ratio, and the states of the
random generators.  Images are not read again to get there.
"""

import contextlib
import itertools
import os
from typing import Any, Dict, Iterable, Iterator, List, Optional, Set, Tuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset, build_detection_train_loader
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from ..processes import end_with_parent
from .catalog import check_files, checked_loading, training_use
from .random_state import States, generator_states, generators_at, set_generator_states

Sample = Dict[str, Any]

_NUMBER = "number_in_stream"


class TrainingStream(IterableDataset):
    """Mapped samples in the order of detectron2's loader, each with its number.

    Without worker processes the samples draw from the generators of this process, as in detectron2,
    and their states before each sample are kept until it is forgotten.  In worker processes each
    sample has generators of its own, seeded by its number.
    """

    def __init__(
        self, dataset: Dataset, sampler: Sampler, batch_size: int, num_workers: int, grouped: bool
    ) -> None:
        """
        Args:
            dataset: index -> mapped sample, a dict.
            sampler: an endless sampler of detectron2.
            batch_size: samples in a batch of this process.
            num_workers: worker processes that will iterate over copies of the stream.
            grouped: whether batches are formed by aspect ratio, after the workers.
        """
        self.dataset = dataset
        self.sampler = sampler
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.grouped = grouped
        self.process = os.getpid()
        self.seed = torch.initial_seed()  # differs between processes
        # Where to start: the next number, earlier ones to give first, and the generators' states.
        self.start = 0
        self.start_waiting: Dict[int, Optional[States]] = {}
        self.start_states: Optional[States] = None
        # Without workers: the states before each sample that is not forgotten.
        self.states_before: Dict[int, States] = {}

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        return self._in_this_process() if worker is None else self._in_worker(worker.id)

    def _in_this_process(self) -> Iterator[Sample]:
        self.states_before = {}
        # Whoever iterates has drawn from the generators by now, to make its iterator.
        if self.start_states is not None:
            set_generator_states(self.start_states)
        for number, index in self._numbered():
            again = self.start_waiting.get(number)
            self.states_before[number] = again or generator_states()
            with generators_at(again) if again else contextlib.nullcontext():
                sample = self.dataset[index]
            yield {**sample, _NUMBER: number}

    def _in_worker(self, worker: int) -> Iterator[Sample]:
        end_with_parent(self.process)
        in_a_row = 1 if self.grouped else self.batch_size
        for i, (number, index) in enumerate(self._numbered()):
            if i // in_a_row % self.num_workers == worker:
                seed_all_rng(int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0]))
                yield {**self.dataset[index], _NUMBER: number}

    def _numbered(self) -> Iterator[Tuple[int, int]]:
        """(number, index into the data set) of what is still to come."""
        for number, index in enumerate(self._indices()):
            if number >= self.start or number in self.start_waiting:
                yield number, index

    def _indices(self) -> Iterator[int]:
        """Indices in the order in which samples arrive from detectron2's loader.

        Each of its workers takes ``batch_size`` samples in a row.  Where batches are formed after
        the workers, samples arrive from one worker after the other.
        """
        indices = iter(self.sampler)
        if not (self.grouped and self.num_workers > 1):
            yield from indices
        while True:
            shares = [
                [*itertools.islice(indices, self.batch_size)] for _ in range(self.num_workers)
            ]
            yield from itertools.chain.from_iterable(zip(*shares))


class TrainingLoader:
    """Batches (lists of mapped samples) without end, with a state to save and to go on from."""

    def __init__(
        self, batches: Iterable[List[Sample]], stream: TrainingStream, layout: Dict[str, Any]
    ) -> None:
        """
        Args:
            batches: detectron2's loader over ``stream``.
            stream: of samples.
            layout: what must be the same for a state to fit: name -> plain value.
        """
        self._batches = batches
        self._stream = stream
        self._layout = layout
        self._next = 0
        self._waiting: Set[int] = set()

    def __iter__(self) -> Iterator[List[Sample]]:
        stream = self._stream
        self._next, self._waiting = stream.start, set(stream.start_waiting)
        for i, batch in enumerate(self._batches):
            if i == 0 and stream.num_workers and stream.start_states is not None:
                # Starting the workers has drawn from the generators of this process.
                set_generator_states(stream.start_states)
            numbers = [sample.pop(_NUMBER) for sample in batch]
            # The last sample of a batch is the last that has arrived.
            self._waiting.update(range(self._next, numbers[-1] + 1))
            self._waiting.difference_update(numbers)
            self._next = numbers[-1] + 1
            for number in numbers:
                stream.states_before.pop(number, None)
            yield batch

    def state_dict(self) -> Dict[str, Any]:
        """Where the stream is after the last batch, and the generators of this process now."""
        stream = self._stream
        return {
            "layout": self._layout,
            "sampler": _seeds(stream.sampler),
            "seed": stream.seed,
            "next": self._next,
            "waiting": {n: stream.states_before.get(n) for n in sorted(self._waiting)},
            "generators": generator_states(gpu=True),
        }

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Go on, from the next iteration over the loader, where another loader was.

        Raises:
            ValueError: when the state is of another layout; then nothing is changed.
        """
        other = [
            f"{name} was {state['layout'].get(name)}, is {value}"
            for name, value in self._layout.items()
            if state["layout"].get(name) != value
        ]
        if other:
            raise ValueError("; ".join(other))
        vars(self._stream.sampler).update(state["sampler"])
        self._stream.seed = state["seed"]
        self._stream.start = state["next"]
        self._stream.start_waiting = state["waiting"]
        self._stream.start_states = state["generators"]


def _seeds(sampler: Sampler) -> Dict[str, Any]:
    """What distinguishes a sampler from others of its class on the same data."""
    return {
        name: value
        for name, value in vars(sampler).items()
        if isinstance(value, int) or (torch.is_tensor(value) and not value.is_floating_point())
    }


def build_training_loader(
    cfg: CfgNode, mapper: Any, dataset: Optional[List[Dict[str, Any]]] = None
) -> TrainingLoader:
    """detectron2's training loader for a config, with a state.

    Args:
        cfg: a detectron2 config; all of ``DATALOADER`` holds.
        mapper: dataset dict -> sample, a dict.
        dataset: dataset dicts; None = those of ``DATASETS.TRAIN``.

    Raises:
        FileNotFoundError: when one of their files is missing.
        ValueError: when the sampler weights other images.
    """
    sampler_name = cfg.DATALOADER.SAMPLER_TRAIN
    # To weight data sets, detectron2 loads them again; the same images must come.
    again = sampler_name.startswith("Weighted")
    with checked_loading(training_use(cfg)) if again else contextlib.nullcontext():
        arguments = build_detection_train_loader.from_config(cfg, mapper=mapper, dataset=dataset)
    dicts, sampler = arguments.pop("dataset"), arguments.pop("sampler")
    weights = getattr(sampler, "_int_part", dicts)
    if len(weights) != len(dicts):
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN '{sampler_name}' weights {len(weights)} images of "
            f"DATASETS.TRAIN, but those of the training are {len(dicts)}: choose another sampler"
        )
    layout = {
        "number of processes": comm.get_world_size(),
        "number of images": len(dicts),
        "DATASETS.TRAIN": list(cfg.DATASETS.TRAIN),
        "SOLVER.IMS_PER_BATCH": arguments["total_batch_size"],
        "DATALOADER.NUM_WORKERS": arguments["num_workers"],
        "DATALOADER.ASPECT_RATIO_GROUPING": arguments["aspect_ratio_grouping"],
        "DATALOADER.SAMPLER_TRAIN": sampler_name,
    }
    if isinstance(dicts, list):
        check_files(dicts, f"training sets ({', '.join(cfg.DATASETS.TRAIN)})")
        dicts = DatasetFromList(dicts, copy=False)
    stream = TrainingStream(
        MapDataset(dicts, arguments.pop("mapper")),
        sampler,
        batch_size=arguments["total_batch_size"] // comm.get_world_size(),
        num_workers=arguments["num_workers"],
        grouped=arguments["aspect_ratio_grouping"],
    )
    batches = build_detection_train_loader(stream, mapper=None, **arguments)
    return TrainingLoader(batches, stream, layout)
