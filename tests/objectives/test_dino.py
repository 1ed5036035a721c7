"""DINO against sums over rows, batch after batch. What holds of every objective with a state is tested of it with the others."""

import numpy as np
import pytest

from tests.objectives.stateful import made, numbers, stepped, views
from tests.oracles import stateful as oracles


@pytest.mark.parametrize("settings", [(0.1, 0.04, 0.9), (1.0, 0.5, 0.3)])
def test_values_and_centres_are_those_of_the_rows(settings):
    names = "temperature", "teacher_temperature", "momentum"
    loss, centre = made("dino", 4, **dict(zip(names, settings, strict=True))), np.zeros(4)
    for step in range(4):
        batch = views(6, 4, seed=step)
        value = stepped(loss, batch)
        expected, centre = oracles.dino(*numbers(batch), centre, *settings)
        assert abs(value.item() - expected) < 1e-12 * max(1, expected)
        assert np.abs(loss.centre.numpy() - centre).max() < 1e-15


def test_the_centre_takes_away_what_all_rows_have_in_common():
    loss, batch = made("dino", 4), views(6, 4)
    before = loss(prediction=batch["prediction"], target=batch["target"])
    loss.centre += 3.0
    assert abs(loss(prediction=batch["prediction"], target=batch["target"] + 3.0) - before) < 1e-12
