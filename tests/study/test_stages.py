"""What the rows of a seed have in common."""

import pytest
from tiny_models import make_cfg

from seg_every_thing import Trainer
from seg_every_thing.study.running.stages import draw_initial_trunk

HOURGLASS = {"roi_mask_head__trunk": "hourglass", "roi_mask_head__hourglass_depth": 10}


@pytest.mark.parametrize("trunk", [{}, HOURGLASS], ids=["convs", "hourglass"])
def test_rows_of_a_seed_start_from_the_same_trunk(trunk: dict) -> None:
    digests = [
        draw_initial_trunk(
            Trainer.build_model(make_cfg(roi_mask_head__predictor=predictor, **trunk)), seed
        )
        for predictor, seed in (("transfer", 0), ("class_specific", 0), ("transfer", 1))
    ]
    assert digests[0] == digests[1] != digests[2] and all(digests)
