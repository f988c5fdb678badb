from typing import List, Tuple

import numpy as np
import pytest

from seg_every_thing.visualization.label_placement import gaps, place_label

CANVAS = (200.0, 100.0)


def place_all(boxes: List[Tuple[float, ...]], size: Tuple[float, float]) -> List[np.ndarray]:
    taken: List[np.ndarray] = []
    for box in boxes:
        taken.append(place_label(np.array(box, dtype=float), size, taken, CANVAS))
    return taken


def covered(places: List[np.ndarray]) -> int:
    """Pairs of places that share an area."""
    pairs = 0
    for i, a in enumerate(places):
        for b in places[:i]:
            sides = np.minimum(a, b)[2:] - np.maximum(a, b)[:2]
            pairs += bool((sides > 1e-6).all())
    return pairs


def test_the_first_label_stands_on_its_box_or_inside_at_the_edge_of_the_picture() -> None:
    size = (40.0, 10.0)
    assert place_label(np.array([30.0, 50, 90, 80]), size, [], CANVAS).tolist() == [30, 40, 70, 50]
    assert place_label(np.array([30.0, 4, 90, 80]), size, [], CANVAS).tolist() == [30, 0, 70, 10]
    assert place_label(np.array([190.0, 50, 200, 60]), size, [], CANVAS)[2] == 200


@pytest.mark.parametrize("boxes", [[(60, 30, 120, 70)] * 50, [(60, 30, 62, 32)] * 50])
def test_labels_of_one_spot_never_cover_each_other_while_there_is_room(
    boxes: List[Tuple[float, ...]],
) -> None:
    # 5 x 10 labels fill the picture to the last pixel; the places are greedy, so leave some slack.
    places = place_all(boxes[:35], (40.0, 10.0))
    assert covered(places) == 0
    for x0, y0, x1, y1 in places:
        assert 0 <= x0 < x1 <= 200
        assert 0 <= y0 < y1 <= 100


def test_overlapping_boxes_at_random() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, (140, 60), (25, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 40, (25, 2))], axis=1)
    places = place_all([tuple(b) for b in boxes], (37.3, 9.1))
    assert covered(places) == 0
    distances = [np.hypot(*gaps(p[None], b)[0]) for p, b in zip(places, boxes)]
    assert sum(d == 0 for d in distances) > 20  # most stay at their box


def test_the_one_free_place_is_found() -> None:
    # Labels of 50 x 20 everywhere but at x 100 to 150, y 60 to 80, off the grid by a fraction.
    taken = [
        np.array([x, y, x + 50.0, y + 20])
        for x in (0.0, 50, 100, 150)
        for y in (0.0, 20, 40, 60, 80)
        if (x, y) != (100, 60)
    ]
    place = place_label(np.array([3.0, 3, 9, 9]), (49.3, 19.7), taken, CANVAS)
    assert covered([*taken, place]) == 0
    assert place[0] >= 100 and place[2] <= 150


def test_the_nearest_of_the_free_places_is_taken() -> None:
    wall = np.array([0.0, 0, 120, 100])  # all that is near the box
    box = np.array([20.0, 40, 40, 60])
    place = place_label(box, (30.0, 10.0), [wall], CANVAS)
    assert covered([wall, place]) == 0
    assert gaps(place[None], box).tolist() == [[80, 0]]


def test_without_a_free_place_the_label_stays_at_its_box() -> None:
    full = [np.array([0.0, 0, 200, 100])]
    place = place_label(np.array([20.0, 40, 60, 60]), (30.0, 10.0), full, CANVAS)
    assert gaps(place[None], np.array([20.0, 40, 60, 60])).tolist() == [[0, 0]]


def test_a_label_that_is_larger_than_the_picture() -> None:
    place = place_label(np.array([20.0, 40, 60, 60]), (300.0, 10.0), [], CANVAS)
    assert place.tolist() == [0, 30, 300, 40]


def test_gaps_by_hand() -> None:
    box = np.array([10.0, 10, 20, 20])
    places = np.array([[0.0, 0, 4, 12], [12, 12, 14, 30], [23, 25, 30, 30], [0, 0, 10, 10]])
    assert gaps(places, box).tolist() == [[6, 0], [0, 0], [3, 5], [0, 0]]
