"""The stream of training samples: detectron2's order, and going on where another one was."""

import collections
import itertools
import random
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import pytest
import torch
from conftest import Annotation, MakeDataset, box_polygon
from detectron2.config import CfgNode, get_cfg
from detectron2.data import build_detection_train_loader
from detectron2.utils.env import seed_all_rng

from seg_every_thing import add_seg_every_thing_config
from seg_every_thing.data.partial import load_training_dicts
from seg_every_thing.data.random_state import (
    generator_states,
    generators_at,
    set_generator_states,
)
from seg_every_thing.data.training_stream import TrainingLoader, build_training_loader

Drawn = List[Tuple[Any, ...]]

# Wide and tall images in no pattern, so that samples wait for a batch of their aspect ratio.
RECORDS: List[Dict[str, Any]] = [
    {"image_id": i, "width": 30 if i % 3 else 20, "height": 25, "annotations": [{"category_id": 0}]}
    for i in range(23)
]


def draw(record: Dict[str, Any]) -> Dict[str, Any]:
    """A mapper whose augmentation is three numbers from three generators."""
    chance = (random.random(), np.random.rand(), torch.rand(1).item())
    return {**record, "chance": chance}


def config(workers: int, grouped: bool, sampler: str = "TrainingSampler") -> CfgNode:
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.DATALOADER.NUM_WORKERS = workers
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouped
    cfg.DATALOADER.SAMPLER_TRAIN = sampler
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    return cfg


def steps(loader: Any, count: int) -> Iterator[Drawn]:
    """What a training sees in some steps, the numbers that its model draws included."""
    for batch in itertools.islice(loader, count):
        seen = [(sample["image_id"], *sample["chance"]) for sample in batch]
        yield [*seen, (torch.rand(1).item(),)]


def ids(loader: Any, count: int) -> List[List[int]]:
    return [[sample["image_id"] for sample in batch] for batch in itertools.islice(loader, count)]


@pytest.mark.parametrize("workers, grouped", [(0, True), (0, False), (2, True), (2, False)])
def test_order_is_that_of_detectron2(workers: int, grouped: bool) -> None:
    cfg = config(workers, grouped)
    seed_all_rng(3)
    stock = ids(build_detection_train_loader(cfg, mapper=dict, dataset=RECORDS), 14)
    seed_all_rng(3)
    batches = list(itertools.islice(build_training_loader(cfg, dict, RECORDS), 14))
    assert [[sample["image_id"] for sample in batch] for batch in batches] == stock
    assert all(sample in RECORDS for batch in batches for sample in batch)  # nothing is added


def test_without_workers_the_numbers_drawn_are_those_of_detectron2() -> None:
    cfg = config(0, True)
    seed_all_rng(3)
    stock = list(steps(build_detection_train_loader(cfg, mapper=draw, dataset=RECORDS), 14))
    seed_all_rng(3)
    assert list(steps(build_training_loader(cfg, draw, RECORDS), 14)) == stock


@pytest.mark.parametrize(
    "workers, grouped, sampler",
    [
        (0, True, "TrainingSampler"),
        (0, False, "RepeatFactorTrainingSampler"),
        (0, True, "RandomSubsetTrainingSampler"),
        (2, True, "TrainingSampler"),
        (2, False, "TrainingSampler"),
    ],
)
def test_goes_on_bit_for_bit(workers: int, grouped: bool, sampler: str, tmp_path: Path) -> None:
    cfg = config(workers, grouped, sampler)
    seed_all_rng(5)
    loader = build_training_loader(cfg, draw, RECORDS)
    expected = []
    states = []
    for seen in steps(loader, 9):
        expected.append(seen)
        states.append(loader.state_dict())
    samples = [sample for seen in expected for sample in seen[:-1]]
    assert len({chance for sample in samples for chance in sample[1:]}) == 9 * 4 * 3  # all differ
    assert not grouped or any(state["waiting"] for state in states)
    for k in (0, 3, 6):
        torch.save(states[k], tmp_path / "state.pth")
        state = torch.load(tmp_path / "state.pth", weights_only=True)
        seed_all_rng(99)  # another process, with another seed
        again = build_training_loader(cfg, draw, RECORDS)
        again.load_state_dict(state)
        assert list(steps(again, 8 - k)) == expected[k + 1 :], k
        # A second interruption, without a step in between or at the end.
        assert again.state_dict()["next"] == states[-1]["next"]
        assert again.state_dict()["waiting"].keys() == states[-1]["waiting"].keys()


def test_with_workers_chance_depends_on_seed_and_position_alone() -> None:
    def drawn(workers: int, seed: int) -> Dict[int, Tuple[Any, ...]]:
        seed_all_rng(seed)
        cfg = config(workers, False, "RepeatFactorTrainingSampler")  # its order: cfg.SEED's
        loader = build_training_loader(cfg, draw, RECORDS)
        return {i: x for i, x in enumerate(s for step in steps(loader, 5) for s in step[:-1])}

    assert drawn(1, 7) == drawn(2, 7)
    assert not {x[1:] for x in drawn(1, 7).values()} & {x[1:] for x in drawn(1, 8).values()}


def test_what_does_not_fit_is_named_and_changes_nothing() -> None:
    state = build_training_loader(config(0, True), draw, RECORDS).state_dict()
    cfg = config(1, True)
    seed_all_rng(5)
    other = build_training_loader(cfg, draw, RECORDS[:-3])
    words = "number of images was 23, is 20; DATALOADER.NUM_WORKERS was 0, is 1"
    with pytest.raises(ValueError, match=words):
        other.load_state_dict(state)
    seed_all_rng(5)
    fresh = ids(build_training_loader(cfg, draw, RECORDS[:-3]), 3)
    assert ids(other, 3) == fresh


def test_random_subset_is_the_same_subset() -> None:
    cfg = config(0, False, "RandomSubsetTrainingSampler")
    seed_all_rng(5)
    loader = build_training_loader(cfg, draw, RECORDS)
    subset = {i for batch in ids(loader, 20) for i in batch}
    assert len(subset) == 11
    seed_all_rng(6)
    again = build_training_loader(cfg, draw, RECORDS)
    assert isinstance(again, TrainingLoader)
    before = {i for batch in ids(again, 20) for i in batch}
    again.load_state_dict(loader.state_dict())
    assert {i for batch in ids(again, 20) for i in batch} == subset != before


def test_generators_come_back() -> None:
    seed_all_rng(1)
    random.gauss(0, 1)  # of a pair of numbers, one waits in the generator
    np.random.randn()
    states = generator_states(gpu=True)

    def draw_all() -> List[float]:
        numbers = [random.gauss(0, 1), random.random(), np.random.randn(), np.random.rand()]
        return [*numbers, *torch.randn(3).tolist()]

    first = draw_all()
    with generators_at(states):
        assert draw_all() == first
    second = draw_all()
    assert second != first
    set_generator_states(states)
    assert draw_all() + draw_all() == first + second


def test_a_missing_image_is_named_before_the_first_step() -> None:
    records = [{"file_name": "/nowhere/1.png", "width": 4, "height": 4}]
    with pytest.raises(FileNotFoundError, match="1 of 1 files of the training sets .*/nowhere/1"):
        build_training_loader(config(0, False), draw, records)


# --- samplers that weight data sets -------------------------------------------------------------

WEIGHTED = ["WeightedTrainingSampler", "WeightedCategoryTrainingSampler"]
TOO_SHORT = [[1.0, 2, 3, 4]]  # a mask that detectron2 throws away, and its object with it
BAD_RLE = {"counts": [6]}  # one that it cannot read


def weighted(sampler: str, *names: str) -> CfgNode:
    cfg = config(0, False, sampler)
    add_seg_every_thing_config(cfg)
    cfg.MODEL.MASK_ON = True
    cfg.SOLVER.IMS_PER_BATCH = 3
    cfg.DATASETS.TRAIN = names
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [(names[0], 1), (names[-1], 4)]
    cfg.DATASETS.ON_BAD_ANNOTATION = "set_aside"
    return cfg


@pytest.mark.parametrize("sampler", WEIGHTED)
@pytest.mark.parametrize("segmentation", [TOO_SHORT, BAD_RLE])
def test_each_data_set_has_its_weight(
    sampler: str, segmentation: Any, make_dataset: MakeDataset
) -> None:
    box = [4, 5, 10, 20]
    good: Annotation = {"bbox": box, "category_id": 1, "segmentation": box_polygon(box)}
    bad = {**good, "segmentation": segmentation}
    first, second = make_dataset([[bad]] * 3 + [[good]] * 3), make_dataset([[good]] * 6)
    cfg = weighted(sampler, first, second)
    loader = build_training_loader(cfg, dict, load_training_dicts(cfg))
    files = [x["file_name"] for batch in itertools.islice(loader, 10) for x in batch]
    drawn = collections.Counter((first in file, file) for file in files)  # of 6 * 1 + 6 * 4 images
    assert len(drawn) == 12
    assert all(count == (1 if of_first else 4) for (of_first, _), count in drawn.items())


def test_images_other_than_those_of_the_weights_are_refused(make_dataset: MakeDataset) -> None:
    cfg = weighted(WEIGHTED[0], make_dataset([[{"bbox": [4, 5, 10, 20], "category_id": 1}]] * 4))
    dicts = load_training_dicts(cfg)
    with pytest.raises(ValueError, match="SAMPLER_TRAIN 'Weighted.*' weights 4 images.* are 3"):
        build_training_loader(cfg, dict, dicts[:3])
