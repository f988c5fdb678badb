"""What is noted about masks that were made stays apart from what the user says of an object."""

from typing import Any, Dict

import pytest

from seg_every_thing.annotation.origin import (
    SOURCE,
    as_accepted,
    is_accepted,
    is_ours,
    score_of,
    with_score,
    without_score,
)

OBJECT = {"id": 1, "bbox": [0, 0, 4, 4], "segmentation": [[0, 0, 4, 0, 4, 4]]}
OF_USERS: Dict[str, Dict[str, Any]] = {
    "nothing": {},
    "a score": {"attributes": {"score": 0.9}},
    "a source": {"attributes": {"source": "me"}},
    "both": {"attributes": {"score": 0.9, "source": "me"}},
    "a review": {"attributes": {"review": "accepted"}},
    "a score of the object": {"score": 0.95},
    "no score of the object": {"score": None},
    "a list": {"attributes": ["red", "old"]},
    "an empty list": {"attributes": []},
    "a list, a score and a source": {"attributes": ["red"], "score": 0.95, "source": "me"},
}


@pytest.fixture(params=list(OF_USERS), ids=lambda name: name.replace(" ", "_"))
def theirs(request: Any) -> Dict[str, Any]:
    return {**OBJECT, **OF_USERS[request.param]}


def contains(new: Any, old: Any) -> bool:
    """Whether everything that was there is there."""
    if isinstance(old, dict):
        return all(key in new and contains(new[key], value) for key, value in old.items())
    return new == old


def test_what_the_user_says_stays_whatever_is_done(theirs: Dict[str, Any]) -> None:
    assert not is_ours(theirs)
    made = with_score(theirs, 0.3)
    again = with_score(made, 0.4)
    for annotation, score in ((made, 0.3), (again, 0.4), (as_accepted(made), 0.3)):
        assert contains(annotation, theirs)
        assert is_ours(annotation)
        assert score_of(annotation) == score
        assert annotation["score"] == theirs.get("score", score)
        assert without_score(annotation) == theirs


def test_null_is_no_attributes() -> None:
    made = with_score({**OBJECT, "attributes": None}, 0.3)
    assert is_ours(made) and made["attributes"] == {"source": SOURCE, "score": 0.3}


def test_a_score_of_ours_may_lie_beside_a_source_of_the_user() -> None:
    """As earlier versions wrote it."""
    attributes = {"source": "me", "mask_source": SOURCE, "score": 0.3}
    made = {**OBJECT, "attributes": attributes, "score": 0.3}
    assert score_of(made) == 0.3
    assert without_score(made) == {**OBJECT, "attributes": {"source": "me"}}


def test_a_review_is_of_one_mask(theirs: Dict[str, Any]) -> None:
    accepted = as_accepted(with_score(theirs, 0.3))
    assert is_accepted(accepted)
    assert not is_accepted(with_score(accepted, 0.4))
    assert not is_accepted(with_score(theirs, 0.4))
