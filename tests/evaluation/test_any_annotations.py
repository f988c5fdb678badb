"""1,000 COCO files with anything in them: used and counted, or refused in one line."""

import contextlib
import copy
import json
import logging
import signal
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import cv2
import numpy as np
import pytest
import torch
from annotation_files import config_of, polygon
from conftest import bitmaps, unregister
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

from seg_every_thing import PartialCOCOEvaluator, PartialSupervisionMapper
from seg_every_thing.data.data_report import DataReport
from seg_every_thing.data.partial import load_training_dicts

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import HealthCheck, Phase, example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

HEIGHT, WIDTH = 12, 16
NAME = "any_annotations"
SECONDS = 5.0
NAN, INFINITY = float("nan"), float("inf")


def good_content() -> Dict[str, Any]:
    """Two images, two classes; polygons, RLE in three spellings, a crowd, a box without a mask."""
    boxes = [[1, 2, 6, 5], [8, 1, 7, 9], [2, 3, 5, 8], [0, 0, 9, 4], [5, 5, 6, 6]]
    compressed = {"size": [HEIGHT, WIDTH], "counts": "k0840000000Y3"}
    masks: List[Any] = [
        [polygon(boxes[0])[0], [1.5, 2, 3, 2, 3, 4.25]],
        {"size": [HEIGHT, WIDTH], "counts": "b'048000000000000000d2'"},
        compressed,
        {"size": [HEIGHT, WIDTH], "counts": [0, 4, *[8, 4] * 8, 92]},
        None,
    ]
    images = [1, 1, 1, 2, 2]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (1, 2)
        ],
        "annotations": [
            {
                "id": i + 1,
                "image_id": images[i],
                "category_id": 3 + i % 2,
                "bbox": box,
                "area": 20.5,
                "iscrowd": int(i == 1),
                "segmentation": mask,
            }
            for i, (box, mask) in enumerate(zip(boxes, masks))
        ],
        "categories": [{"id": 3, "name": "cup"}, {"id": 4, "name": "dog"}],
    }


# --- edits of a file ----------------------------------------------------------------------------

VALUES = st.one_of(
    st.sampled_from(
        [None, True, False, "", "1", "3", "cup", "NaN", [], {}, [[]], [None], [[[1, 2]]], [1, 2]]
        + [[1, 2, 3, 4], [3, 3, 3], [[1, 1, 9, 1, 9, 9]], [[1, 1], [9, 1], [9, 9], [1, 9]]]
        + [{"size": [HEIGHT, WIDTH], "counts": c} for c in ("", "k08", [192], [-1, 193], [5, 5])]
        + [{"size": [WIDTH, HEIGHT], "counts": [0, 192]}, {"counts": "k0840000000Y3"}]
        + [NAN, INFINITY, -INFINITY, 1e7, 1e9, -1e9, 1e300, 2**31, 2**63, 2**64, 10**30, -1, 0, 1]
    ),
    st.integers(-20, 40),
    st.floats(-30, 60),
    st.floats(),
    st.text(max_size=6),
)
EDIT = st.tuples(
    st.sampled_from(["replace", "replace", "replace", "delete", "repeat", "copy", "scale"]),
    st.integers(0, 1 << 20),  # where
    st.integers(0, 1 << 20),  # where "copy" takes from
    VALUES,
)

Place = Tuple[Any, Any]  # a container and a key or index of it


def places_in(value: Any) -> Iterator[Place]:
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places_in(value[key])


def edit(content: Any, action: str, where: int, source: int, value: Any) -> Any:
    places = list(places_in(content)) if isinstance(content, (dict, list)) else []
    if not places:
        return copy.deepcopy(value)
    container, key = places[where % len(places)]
    if action == "replace":
        container[key] = copy.deepcopy(value)
    elif action == "delete":
        del container[key]
    elif action == "repeat" and isinstance(container, list):
        container.append(container[key])
    elif action == "copy":
        from_container, from_key = places[source % len(places)]
        container[key] = copy.deepcopy(from_container[from_key])
    elif action == "scale" and isinstance(container[key], (int, float)):
        container[key] = container[key] * 1000
    return content


# --- what must hold of each ---------------------------------------------------------------------


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"it took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def refusal() -> Iterator[List[str]]:
    """Collects the message of an error that a user may see; any other error fails the test."""
    messages: List[str] = []
    try:
        yield messages
    except (ValueError, OSError) as e:
        assert not isinstance(e, UnicodeError)
        assert str(e) and "\n" not in str(e) and len(str(e)) < 5000
        messages.append(str(e))


def check_samples(cfg: Any, dicts: List[Dict[str, Any]]) -> None:
    mapper = PartialSupervisionMapper(cfg, is_train=True)
    for record in dicts:
        with refusal():  # of an image that is not there, or of another size
            instances = mapper(record)["instances"]
            assert torch.isfinite(instances.gt_boxes.tensor).all()
            assert instances.gt_boxes.nonempty().all()
            if len(instances):
                has_pixels = bitmaps(instances).flatten(1).any(1)
                assert not (has_pixels & ~instances.gt_has_mask).any()


def check_evaluation(on_bad: str) -> None:
    evaluator = PartialCOCOEvaluator(
        NAME, tasks=("bbox", "segm"), on_bad_annotation=on_bad, distributed=False
    )
    evaluator.reset()
    for image_id in evaluator._coco_api.getImgIds():
        instances = Instances((HEIGHT, WIDTH))
        instances.pred_boxes = Boxes(torch.tensor([[1.0, 2, 7, 7], [0, 0, 9, 4]]))
        instances.scores = torch.tensor([0.9, 0.5])
        instances.pred_classes = torch.tensor([0, 0])
        instances.pred_masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
        instances.pred_masks[:, 2:7, 1:7] = True
        evaluator.process([{"image_id": image_id}], [{"instances": instances}])
    results = evaluator.evaluate()
    for metrics in results.values():
        assert all(np.isfinite(v) and -1 <= v <= 100 for v in metrics.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("any")
    for i in (1, 2):
        cv2.imwrite(str(folder / f"{i}.png"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    logging.disable(logging.CRITICAL)
    yield folder
    logging.disable(logging.NOTSET)


@settings(
    max_examples=1000,  # 40 s; always the same ones
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],  # to shrink a case takes minutes
    suppress_health_check=list(HealthCheck),
)
@given(edits=st.lists(EDIT, min_size=1, max_size=3), on_bad=st.sampled_from(["error", "set_aside"]))
@example(edits=[], on_bad="error")
@example(  # an image id below 0, for faster-coco-eval
    edits=[("replace", 318535, 29278, -19), ("replace", 6763, 123045, 5)], on_bad="error"
)
@example(  # counts of which one is 0.0, for faster-coco-eval
    edits=[
        ("replace", 825, 3655, 29.00319883803739),
        ("replace", 88, 3607, 0.0),
    ],
    on_bad="set_aside",
)
def test_any_file_is_counted_or_refused(folder: Path, edits: List[Any], on_bad: str) -> None:
    content: Any = good_content()
    for action, where, source, value in edits:
        content = edit(content, action, where, source, value)
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    unregister(NAME)
    register_coco_instances(NAME, {}, str(path), str(folder))
    cfg = config_of(NAME, ON_BAD_ANNOTATION=on_bad)
    cfg.INPUT.MIN_SIZE_TRAIN = (HEIGHT,)
    reports: List[DataReport] = []
    with no_hang():
        with refusal() as refused:
            dicts = load_training_dicts(cfg, reports)
        if not refused:
            (report,) = reports
            rows = [row["objects"] for row in report.as_json()["rows"]]
            assert sum(rows) == report.objects == len(content.get("annotations", ()))
            kept = sum(row.objects for key, row in report.rows.items() if key[0] != "dropped")
            assert sum(len(d["annotations"]) for d in dicts) == kept
            check_samples(cfg, dicts)
        with refusal() as not_evaluated:
            check_evaluation(on_bad)
    if edits == []:
        assert not refused and not not_evaluated and report.number("used", "") == 3
    # Both see the same objects: what is refused for one is refused for the other.
    unknown_to_training = "hold no image with an object" in "".join(refused)
    assert bool(refused) == bool(not_evaluated) or unknown_to_training


@pytest.mark.parametrize("score", ["high", None, [1]])
def test_a_score_of_the_ground_truth_means_nothing(folder: Path, score: Any) -> None:
    content = good_content()
    content["annotations"][0]["score"] = score
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    unregister(NAME)
    register_coco_instances(NAME, {}, str(path), str(folder))
    check_evaluation("error")
